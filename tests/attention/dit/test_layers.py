"""The attention of a video transformer, through diffusers' own Wan at a small size."""

from contextlib import nullcontext

import pytest
import torch
from diffusers import WanTransformer3DModel
from einops import rearrange
from rescore.attention.dit.processor import WanLayers
from rescore.attention.fusion import AttentionFusion
from rescore.attention.layers import Entry, Layer, Layers, attend
from rescore.attention.mutual import SourceBackground, SourceLayout
from rescore.attention.recording import Recorder, forward_recorded
from rescore.attention.word_maps import take_attention_to
from rescore.pipelines.models.grid import ClipGrid

F, H, W = 3, 6, 10  # latents; tokens of a frame: 3 x 5
TOKENS = 15


@pytest.fixture(scope="module")
def wan() -> WanTransformer3DModel:
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=4, ffn_dim=28, text_dim=7,
        in_channels=5, out_channels=5, freq_dim=16,
    )  # fmt: skip
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture
def layers(wan) -> WanLayers:
    return WanLayers(wan)


def given(clips: int = 1, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(clips, 5, F, H, W, generator=generator)
    return z, torch.full((clips,), 421.0), torch.randn(clips, 11, 7, generator=generator)


def untouched(layer, q, k, v, attend):
    return attend(q, k, v)


def test_it_is_what_techniques_ask_of_layers(layers):
    assert isinstance(layers, Layers)
    names = [f"blocks.{i}.attn1" for i in range(4)]
    assert [site.name for site in layers.find("*", "spatial")] == names
    assert [site.name for site in layers.find("decoder", "spatial")] == names[2:]
    assert [site.name for site in layers.find("late", "spatial")] == names[2:3]
    assert [site.name for site in layers.find("blocks.1.*, late", "spatial")] == names[1:3]
    assert [site.name for site in layers.last(3)] == names[1:]
    assert [site.name for site in layers.find("*", "cross")] == [n[:-1] + "2" for n in names]
    assert layers.map_size(TOKENS, H, W) == layers.map_size(F * TOKENS, H, W) == (3, 5)
    assert layers.map_size(4, 3, 3) == (2, 2)  # an odd side is padded to whole tokens


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda layers: layers.find("*", "temporal"), "reads all frames at once"),
        (
            lambda layers: layers.find("up_blocks.*", "spatial"),
            r"blocks\.0\.attn1, .*3\.attn1",
        ),
        (lambda layers: layers.find("*", "joint"), "no kind of attention"),
        (lambda layers: layers.last(5), "choose 1 to 4"),
        (lambda layers: layers.map_size(46, H, W), "another clip's"),
    ],
)
def test_what_there_is_not_is_told(layers, ask, sentence):
    with pytest.raises(ValueError, match=sentence):
        ask(layers)


def test_a_plan_that_changes_nothing_gives_what_diffusers_gives(wan, layers):
    """Rope, norms and the kernel are those of diffusers' own processor."""
    z, t, text = given(2)
    expected = wan(z, t, text).sample
    before = [block.attn1.processor for block in wan.blocks]
    plan = [Entry(layers.find("*", kind), untouched) for kind in ("spatial", "cross")]
    with layers.installed(plan, [0, 1]):
        found = wan(z, t, text).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert [block.attn1.processor for block in wan.blocks] == before
    assert torch.equal(wan(z, t, text).sample, expected)
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in wan.modules()]
    assert not any(hooks)


def test_everything_comes_back_after_an_exception(wan, layers):
    def fail(*_):
        raise RuntimeError("in the middle")

    z, t, text = given()
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        layers.installed([Entry(layers.last(1), fail)], [0]),
    ):
        wan(z, t, text)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in wan.modules())
    with layers.installed([Entry(layers.last(1), untouched)], [0]):
        wan(z, t, text)


def test_two_plans_at_once_are_refused(layers):
    plan = [Entry(layers.last(1), untouched)]
    with (
        layers.installed(plan, [0]),
        pytest.raises(ValueError, match="into one plan"),
        layers.installed(plan, [0]),
    ):
        pass


def test_keys_are_those_before_positions_frame_by_frame(wan, layers):
    """Computed here by hand, up to the second block's key norm."""
    z, t, text = given(2)
    (site,) = layers.find("blocks.1.*", "spatial")
    recorder = Recorder([site], [3, 8])

    def call(plan):
        with layers.installed(plan, [3, 8]):
            return wan(z, t, text).sample

    seen = []
    hook = wan.blocks[1].attn1.norm_k.register_forward_hook(lambda m, a, out: seen.append(out))
    forward_recorded(call, [recorder])
    hook.remove()
    kept = recorder.at(site)
    assert kept.shape == (2, F, TOKENS, 24)
    assert torch.equal(kept, rearrange(seen[0], "b (f n) c -> b f n c", f=F))


def test_text_attention_is_seen_frame_by_frame(wan, layers):
    z, t, text = given()
    (site,) = layers.find("blocks.2.*", "cross")
    recorder = Recorder([site], [0], take_attention_to([4, 5]))

    def call(plan):
        with layers.installed(plan, [0]):
            return wan(z, t, text).sample

    forward_recorded(call, [recorder])
    (maps,) = recorder.at(site)
    assert maps.shape == (F, TOKENS)
    assert bool((maps > 0).all()) and bool((maps < 1).all())


def test_a_model_is_left_at_the_last_layer_that_is_needed(wan, layers):
    z, t, text = given()
    (site,) = layers.find("blocks.1.*", "spatial")
    later = []
    hook = wan.blocks[2].register_forward_pre_hook(lambda *_: later.append(1))

    def call(plan):
        with layers.installed(plan, [0]):
            return wan(z, t, text).sample

    assert forward_recorded(call, [Recorder([site], [0])], output=False) is None
    hook.remove()
    assert not later


@pytest.mark.parametrize("weight", [1, 0.25])
def test_fusion_reads_the_source_of_the_same_call(wan, layers, weight):
    """The last layer's own attention, and attention to the source's keys and values."""
    z, t, text = given(2)
    sites = layers.last(1)
    seen = []

    def look(layer, q, k, v, attend):
        read = attend(q, k, v)
        seen.append((q, k, v, read))
        return read

    plan = [Entry(sites, AttentionFusion({1: 0}, weight)), Entry(sites, look)]
    with layers.installed(plan, [0, 1]):
        fused = wan(z, t, text).sample
    q, k, v, read = seen[0]
    dot = torch.nn.functional.scaled_dot_product_attention
    own = dot(q, k, v)
    reference = dot(q[1:], k[:1], v[:1])
    expected = torch.cat([own[:1], weight * own[1:] + (1 - weight) * reference])
    torch.testing.assert_close(read, expected, rtol=0, atol=1e-5)
    plain = wan(z, t, text).sample
    torch.testing.assert_close(fused[:1], plain[:1], rtol=0, atol=1e-5)
    same = torch.allclose(fused[1:], plain[1:], atol=1e-4)
    assert same == (weight == 1)


@pytest.mark.parametrize("masked", [False, True])
def test_the_background_of_the_source_is_read_in_all_frames(wan, layers, masked):
    """SA-II in the last block, by hand: one softmax over the source's background and all of own."""
    z, t, text = given(2)
    mask = torch.zeros(F, H, W)
    mask[1, :4, :6] = 1  # the tokens 0 to 2 and 5 to 7 of frame 1
    control = SourceBackground(mask=mask if masked else None, sites="blocks.3.*")
    grid = ClipGrid.of(z)
    entry = control.on(layers, grid)({1: 0}, slice(0, F))
    seen = []

    def look(layer, q, k, v, attend):
        read = attend(q, k, v)
        seen.append((q, k, v, read))
        return read

    with layers.installed([entry, Entry(entry.sites, look)], [0, 1]):
        wan(z, t, text)
    ((q, k, v, read),) = seen
    shown = torch.ones(F * TOKENS, dtype=torch.bool)
    if masked:
        shown[[TOKENS + i for i in (0, 1, 2, 5, 6, 7)]] = False
    keys = torch.cat([k[:1, :, shown], k[1:]], dim=2)
    values = torch.cat([v[:1, :, shown], v[1:]], dim=2)
    dot = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(read[1:], dot(q[1:], keys, values), rtol=0, atol=1e-5)
    torch.testing.assert_close(read[:1], dot(q[:1], k[:1], v[:1]), rtol=0, atol=1e-5)


def test_the_gradient_of_keys_is_that_of_finite_differences(wan, layers):
    z, t, text = given()
    double = wan.double()
    z, t, text = z.double(), t.double(), text.double()
    (site,) = layers.find("blocks.2.*", "spatial")

    def loss(z):
        recorder = Recorder([site], [0])

        def call(plan):
            with layers.installed(plan, [0]):
                return double(z, t, text).sample

        forward_recorded(call, [recorder], output=False)
        return recorder.at(site).square().sum()

    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(3)).double()
    step = 3e-3  # its norms compute in float32, whatever the weights are
    with torch.no_grad():
        expected = (loss(z + step * direction) - loss(z - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(expected), rel=2e-3)
    wan.float()


@pytest.mark.parametrize("output", [True, False])
def test_checkpointed_blocks_run_twice_and_give_the_same_gradient(wan, layers, output):
    """Also with a plan that is gone when the gradient comes by."""
    z, t, text = given(2)
    (site,) = layers.find("blocks.2.*", "spatial")
    fusion = layers.find("blocks.1.*", "spatial")
    runs = []
    hook = wan.blocks[0].attn1.to_q.register_forward_hook(lambda *_: runs.append(1))

    def gradient(on: bool):
        recorder = Recorder([site], [1])
        leaf = z.clone().requires_grad_()

        def call(plan):
            with layers.installed(plan, [0, 1]):
                return wan(leaf, t, text).sample

        plan = [Entry(fusion, AttentionFusion({1: 0}, 0.5))]
        with layers.checkpointed() if on else nullcontext():
            forward_recorded(call, [recorder], plan=plan, output=output)
        loss = recorder.at(site).square().sum()
        return torch.autograd.grad(loss, leaf)[0]

    expected = gradient(False)
    assert len(runs) == 1
    torch.testing.assert_close(gradient(True), expected, rtol=1e-4, atol=1e-6)
    assert len(runs) == 3
    hook.remove()
    assert not any("forward" in vars(block) for block in wan.blocks)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in wan.modules())


def test_a_wan_of_given_pictures_is_refused():
    model = WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=12, num_layers=1, ffn_dim=8, text_dim=5,
        in_channels=5, out_channels=5, freq_dim=8, added_kv_proj_dim=12, image_dim=6,
    )  # fmt: skip
    with pytest.raises(ValueError, match="begins with a given picture"):
        WanLayers(model)


@pytest.mark.parametrize(("limit", "acts"), [(1024, True), (1, True), (0, False)])
def test_the_sources_layout_holds_at_any_resolution(layers, limit, acts):
    """At 832 x 480 a frame has 1560 tokens, more than the limit, and no layer is coarser."""
    grid = ClipGrid((2, 60, 104), (480, 832), factor=8, stride=4)
    control = SourceLayout(max_tokens=limit).on(layers, grid)({1: 0}, slice(None))
    q, k, v = torch.randn(3, 2, 1, 2 * 30 * 52, 3, generator=torch.Generator().manual_seed(0))
    found = control.change(Layer(control.sites[0], (0, 1)), q, k, v, attend)
    maps_of = 0 if acts else 1
    expected = attend(q[maps_of][None], k[maps_of][None], v[1:])
    torch.testing.assert_close(found[1:], expected)
