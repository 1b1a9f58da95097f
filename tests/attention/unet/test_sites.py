"""Where the attention layers are, against what diffusers' own models do when they run."""

import pytest
import torch
from diffusers.models.attention_processor import Attention
from rescore.attention.unet.layers import UNetLayers
from rescore.attention.unet.sites import attention_sites, find_sites, map_size
from tiny_unets import HEIGHT, KINDS, WIDTH, WORDS, call, inputs, unet

FRAMES = 3
ATTN1 = "{}.attentions.{}.transformer_blocks.0.attn1".format


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def run_order(kind: str) -> list[tuple[str, torch.Size, torch.Size | None]]:
    """Name, input and text of every attention layer, in the order in which the model calls them."""
    seen = []
    model = unet(kind)

    def watch(name):
        return lambda _, args, kwargs, __: seen.append((name, args[0], kwargs))

    hooks = [
        layer.register_forward_hook(watch(name), with_kwargs=True)
        for name, layer in model.named_modules()
        if isinstance(layer, Attention)
    ]
    with torch.no_grad():
        call(kind, *inputs(2, FRAMES))
    for hook in hooks:
        hook.remove()
    return seen


def test_layers_are_listed_in_the_order_in_which_they_run(kind):
    assert [site.name for site in attention_sites(unet(kind))] == [n for n, *_ in run_order(kind)]


def test_that_is_not_the_order_of_registration(kind):
    """Or the test above would prove nothing."""
    registered = [n for n, layer in unet(kind).named_modules() if isinstance(layer, Attention)]
    assert [site.name for site in attention_sites(unet(kind))] != registered


def test_the_kind_is_told_by_what_a_layer_is_given(kind):
    """Text means cross-attention, as many tokens as frames temporal, as many as pixels spatial."""
    kinds = {site.name: site.kind for site in attention_sites(unet(kind))}
    pixels = {HEIGHT * WIDTH // 4**level for level in range(3)}
    for name, x, kwargs in run_order(kind):
        text = kwargs.get("encoder_hidden_states")
        if text is not None and text.shape[1] == WORDS:
            assert kinds[name] == "cross"
        elif x.shape[1] == FRAMES:
            assert kinds[name] == "temporal"
        else:
            assert x.shape[1] in pixels
            assert kinds[name] == "spatial"


@pytest.mark.parametrize(("kind", "counts"), [
    ("image", {"spatial": 7, "cross": 7, "temporal": 0}),
    ("video", {"spatial": 7, "cross": 7, "temporal": 16}),
    ("motion", {"spatial": 7, "cross": 7, "temporal": 18}),
])  # fmt: skip
def test_every_layer_has_one_kind(kind, counts):
    sites = attention_sites(unet(kind))
    assert {k: sum(site.kind == k for site in sites) for k in counts} == counts


def test_names_of_the_decoder(kind):
    decoder = find_sites(unet(kind), "decoder", "spatial")
    expected = [ATTN1(f"up_blocks.{block}", layer) for block in (1, 2) for layer in (0, 1)]
    assert [site.name for site in decoder] == expected
    assert decoder == find_sites(unet(kind), "up_blocks.*.attentions.*.attn1", "spatial")


def test_attentions_do_not_mean_temp_attentions():
    sites = find_sites(unet("video"), "up_blocks.*.attentions.*")
    assert {site.kind for site in sites} == {"spatial", "cross"}
    assert len(sites) == 8


def test_several_patterns(kind):
    sites = find_sites(unet(kind), "mid_block.*.attn1, down_blocks.[01].*.attn1", "spatial")
    assert [site.name for site in sites] == [
        ATTN1("down_blocks.0", 0), ATTN1("down_blocks.1", 0), ATTN1("mid_block", 0),
    ]  # fmt: skip


def test_the_last_layers(kind):
    """Up blocks run last, although the mid block is registered after them."""
    spatial = find_sites(unet(kind), kind="spatial")
    assert UNetLayers(unet(kind)).last(2) == (spatial[-2], spatial[-1])
    assert spatial[-1].name == ATTN1("up_blocks.2", 1)
    assert UNetLayers(unet(kind)).last(7) == spatial


@pytest.mark.parametrize("count", [0, -1, 8])
def test_more_layers_than_there_are(kind, count):
    with pytest.raises(ValueError, match=rf"last {count} .* choose 1 to 7.*up_blocks\.2"):
        UNetLayers(unet(kind)).last(count)


@pytest.mark.parametrize("pattern", ["up_blocks.9.*", "", "*.attn1, upblocks.*", "attn1"])
def test_a_pattern_that_matches_nothing_lists_what_there_is(kind, pattern):
    with pytest.raises(ValueError, match=r"matches no spatial self-attention .*mid_block\.attent"):
        find_sites(unet(kind), pattern, "spatial")


def test_an_image_model_has_no_temporal_attention():
    with pytest.raises(ValueError, match=r"no temporal .* It has none. In Decoupled"):
        find_sites(unet("image"), kind="temporal")


def test_an_unknown_kind():
    with pytest.raises(ValueError, match="'self' is no kind of attention; choose spatial, cross"):
        find_sites(unet("image"), kind="self")


@pytest.mark.parametrize(
    ("tokens", "grid"),
    [(64 * 40, (40, 64)), (32 * 20, (20, 32)), (16 * 10, (10, 16)), (8 * 5, (5, 8))],
)
def test_the_map_of_a_layer(tokens, grid):
    assert map_size(tokens, 40, 64) == grid


def test_odd_maps_are_rounded_up():
    assert map_size(4 * 3, 7, 5) == (4, 3)
    assert map_size(2 * 2, 7, 5) == (2, 2)
    with pytest.raises(ValueError, match="11 tokens"):
        map_size(11, 7, 5)
