"""Inflated models: the image model's output to begin with, and the image model left alone."""

import copy
import logging
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import UNet2DConditionModel
from einops import rearrange, repeat
from rescore.attention import ffam
from rescore.attention.layers import Entry
from rescore.attention.recording import Recorder, forward_recorded
from rescore.attention.unet.layers import UNetLayers
from rescore.attention.unet.sites import attention_sites, find_sites
from rescore.attention.unet.video_block import marked_of_read
from rescore.pipelines.inversion.ddim_inversion import ddim_invert
from rescore.pipelines.inversion.decoupled_guidance import GuidanceSettings
from rescore.pipelines.inversion.drift import Drift, DriftGuidance
from rescore.pipelines.models.denoiser import Denoiser
from rescore.pipelines.models.process import VariancePreserving
from rescore.pipelines.models.unet.inflation import (
    VARIANTS,
    Variant,
    VideoUNet,
    frozen_sample,
    inflate,
    inflate_backbone,
    same_base,
)
from rescore.pipelines.models.unet.load import load_image, load_text_to_video
from tiny_models import (
    SCHEDULE,
    TEXT_WIDTH,
    eps_of,
    tiny_adapter,
    tiny_unet,
    write_tiny_sd,
    write_tiny_t2v,
)
from torch import Tensor, nn

B, F, H, W, L = 2, 5, 7, 6, 3


@pytest.fixture
def image() -> nn.Module:
    return tiny_unet("2D").requires_grad_(False)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clip(frames: int = F, height: int = H, width: int = W) -> Tensor:
    return draw(B, 4, frames, height, width)


TIMES = torch.tensor([3, 700])
COND = draw(B, L, TEXT_WIDTH, seed=1)
PROCESS = VariancePreserving.from_config(SCHEDULE)


def frame_by_frame(unet: nn.Module, z: Tensor, cond: Tensor = COND) -> Tensor:
    """The image model's own prediction for each frame, one after the other."""
    frames = [unet(frame, TIMES, cond).sample for frame in z.unbind(2)]
    return torch.stack(frames, dim=2)


def moved(model: VideoUNet, seed: int = 2) -> VideoUNet:
    """The same model with other weights wherever tuning changes them."""
    state = {
        name: tensor + 0.3 * draw(*tensor.shape, seed=seed)
        for name, tensor in model.tuned_state().items()
    }
    return model.with_tuned(state)


def test_per_frame_begins_bit_for_bit_as_the_image_model(image):
    z = clip()
    images = rearrange(z, "b c f h w -> (b f) c h w")
    cond, times = repeat(COND, "b l d -> (b f) l d", f=F), repeat(TIMES, "b -> (b f)", f=F)
    expected = rearrange(image(images, times, cond).sample, "(b f) c h w -> b c f h w", f=F)
    assert torch.equal(inflate(image, "per-frame")(z, TIMES, COND), expected)


def test_the_order_of_a_block(image):
    """FFAM, cross-attention, feed-forward, STAM, in every block (EI2, Fig. 2c)."""
    model, seen = inflate(image, "ei2"), []
    for name, block in model.blocks.items():
        for part in ("attn1", "attn2", "ff", "temporal"):
            layer = block.get_submodule(part)
            layer.register_forward_hook(lambda *_, at=(name, part): seen.append(at))
    model(clip(), TIMES, COND)
    order = [part for _, part in seen]
    assert order == ["attn1", "attn2", "ff", "temporal"] * len(model.blocks)
    assert {name for name, _ in seen} == model.blocks.keys()


@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {"spectral-norm", "tune-a-video"}))
def test_one_frame_is_the_image_models(image, variant):
    z = clip(frames=1)
    predicted = inflate(image, variant)(z, TIMES, COND)
    torch.testing.assert_close(predicted, frame_by_frame(image, z), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "variant", ["layer-norm", "centring", "instance-norm", "stam", "full-space-time", "per-frame"]
)
def test_a_clip_that_stands_still_begins_as_the_image_models(image, variant):
    z = clip()[:, :, :1].expand(-1, -1, F, -1, -1)
    predicted = inflate(image, variant)(z, TIMES, COND)
    torch.testing.assert_close(predicted, frame_by_frame(image, z), rtol=1e-4, atol=1e-5)


def test_tune_a_video_normalises_over_the_clip(image):
    """Statistics of all frames in residual blocks and at the output; per frame in transformers."""
    model, seen = inflate(image, "tune-a-video"), {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.GroupNorm):
            layer.register_forward_hook(
                lambda layer, given, said, name=name: seen.update({name: (layer, *given, said)})
            )
    model(clip(), TIMES, COND)
    over_clip = {name for name in seen if "resnets" in name or name == "conv_norm_out"}
    assert len(over_clip) > 1
    assert len(seen) > len(over_clip)
    for name, (layer, given, said) in seen.items():
        groups = rearrange(given, "(b f) (g c) h w -> b f g (c h w)", b=B, g=layer.num_groups)
        over = (1, 3) if name in over_clip else (3,)
        mean = groups.mean(over, keepdim=True)
        variance = groups.var(over, keepdim=True, unbiased=False)
        plain = (groups - mean) / (variance + layer.eps).sqrt()
        plain = rearrange(
            plain, "b f g (c h w) -> (b f) (g c) h w", h=given.shape[2], w=given.shape[3]
        )
        expected = plain * layer.weight[:, None, None] + layer.bias[:, None, None]
        torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-5)


def test_tune_a_video_begins_by_adding_a_drawn_bias(image):
    """As a new nn.Linear whose weight alone is set to zero: within 1 / sqrt(channels)."""
    for layer in inflate(image, "tune-a-video").temporal.values():
        z = draw(2, F, layer.to_out.out_features)
        torch.testing.assert_close(layer(z) - z, layer.to_out.bias.expand_as(z), rtol=0, atol=1e-6)
        bound = layer.to_out.in_features**-0.5
        assert 0.5 * bound < layer.to_out.bias.abs().max() <= bound
    for layer in inflate(image, "layer-norm").temporal.values():
        assert not layer.to_out.bias.any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_tuning_changes_the_output_of_every_variant(image, variant):
    z, model = clip(), inflate(image, variant)
    before = model(z, TIMES, COND)
    assert torch.isfinite(before).all()
    assert (moved(model)(z, TIMES, COND) - before).abs().max() > 1e-3


@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {"per-frame"}))
def test_frames_see_each_other(image, variant):
    z, model = clip(), inflate(image, variant)
    other = z.clone()
    other[:, :, 0] += 1
    change = (model(other, TIMES, COND) - model(z, TIMES, COND)).abs().amax(dim=(0, 1, 3, 4))
    assert (change > 1e-4).all()


@pytest.mark.parametrize(("height", "width"), [(7, 6), (8, 8), (5, 11), (2, 3)])
def test_any_height_and_width(image, height, width):
    z = clip(3, height, width)
    for variant in (Variant(), Variant(ratio=4), VARIANTS["tune-a-video"]):
        assert inflate(image, variant)(z, TIMES, COND).shape == z.shape


def test_a_ratio_larger_than_a_layers_map_falls_back_and_says_so(image, caplog):
    ffam._log_fallback.cache_clear()
    with caplog.at_level(logging.WARNING):
        predicted = inflate(image, Variant(ratio=9))(clip(), TIMES, COND)
    assert torch.isfinite(predicted).all()
    assert any("one coarse token" in record.message for record in caplog.records)


def test_an_embedding_per_frame(image):
    model, z = inflate(image, "per-frame"), clip()
    cond = draw(B, F, L, TEXT_WIDTH)
    for f in range(F):
        expected = frame_by_frame(image, z[:, :, [f]], cond[:, f])
        found = model(z, TIMES, cond)[:, :, [f]]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    same = COND[:, None].expand(-1, F, -1, -1)
    assert torch.equal(model(z, TIMES, same), model(z, TIMES, COND))


def test_the_image_model_is_untouched(image):
    weights, z = copy.deepcopy(image.state_dict()), clip()
    processors, settings = dict(image.attn_processors), dict(image.config)
    names = [name for name, _ in image.named_modules()]
    before = frame_by_frame(image, z)
    moved(inflate(image, "ei2"))(z, TIMES, COND)
    assert torch.equal(frame_by_frame(image, z), before)
    assert all(torch.equal(weights[name], p) for name, p in image.state_dict().items())
    assert [name for name, _ in image.named_modules()] == names
    assert image.attn_processors == processors
    assert dict(image.config) == settings


def test_frozen_weights_are_shared_and_tuned_ones_are_not(image):
    model = inflate(image, "ei2")
    own, places = model.tuned_state(), {n: p.data_ptr() for n, p in image.named_parameters()}
    for name, parameter in model.named_parameters():
        if name in places:
            assert (parameter.data_ptr() == places[name]) == (name not in own)
    fork = model.fork()
    for name, parameter in fork.named_parameters():
        shared = parameter.data_ptr() == model.get_parameter(name).data_ptr()
        assert shared == (name not in own)
    assert not any(p.requires_grad for p in model.parameters())


def test_only_the_named_weights_are_trainable(image):
    """W_Q of FFAM and of cross-attention and all of STAM: counted from the layers' shapes."""
    model = inflate(image, "ei2")
    names = set(model.trainable())
    expected = 0
    for block in model.blocks:
        names -= {f"{block}.{layer}.to_q.weight" for layer in ("attn1", "attn2")}
        parts = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.weight", "to_out.bias")
        names -= {f"{block}.temporal.{part}" for part in parts}
        dim = model.blocks[block].attn1.query_dim
        expected += 2 * dim * dim + 4 * dim * dim + dim
    assert names == set()
    assert sum(p.numel() for p in model.trainable().values()) == expected
    assert len(model.blocks) == len(find_sites(image, kind="spatial"))


def test_tuned_weights_go_over_to_another_model(image):
    z, tuned = clip(), moved(inflate(image, "ei2", seed=1))
    fresh = inflate(image, "ei2", seed=2)
    before = fresh(z, TIMES, COND)
    copied = fresh.with_tuned(tuned.tuned_state())
    assert torch.equal(copied(z, TIMES, COND), tuned(z, TIMES, COND))
    assert torch.equal(fresh(z, TIMES, COND), before)


def test_a_seed_is_a_model(image):
    one, two, other = (inflate(image, "ei2", seed=seed).tuned_state() for seed in (3, 3, 4))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_checkpointing_gives_the_same_gradients(image):
    z = clip(3)
    gradients = []
    for on in (False, True):
        model = moved(inflate(image, "ei2"))
        model.checkpointing(on)
        for parameter in model.trainable().values():
            parameter.requires_grad_(True)
        model(z, TIMES, COND).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.trainable().items()})
    assert all(g is not None and g.abs().max() > 0 for g in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-8)


def test_checkpointing_remembers_the_clip_of_each_call(image):
    """A call for other sizes between a forward pass and its backward pass changes nothing."""
    model = moved(inflate(image, "ei2"))
    model.checkpointing(True)
    parameters = list(model.trainable().values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    expected = torch.autograd.grad(model(clip(3), TIMES, COND).sum(), parameters)
    out = model(clip(3), TIMES, COND).sum()
    model(clip(5, 8, 4), TIMES, COND)
    found = torch.autograd.grad(out, parameters)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_attention_control_finds_and_changes_the_layers(image):
    model, z = moved(inflate(image, "ei2")), clip()
    assert attention_sites(model) == attention_sites(image)
    before = model(z, TIMES, COND)
    seen = []

    def change(layer, q, k, v, attend):
        seen.append((layer.rows, q.shape[0], k.shape[2] > q.shape[2]))
        return attend(q, k, 2 * v)

    spatial = find_sites(model, "up_blocks.*", "spatial")
    with UNetLayers(model).installed([Entry(spatial, change)], rows=(0, 1)):
        changed = model(z, TIMES, COND)
    assert seen == [((0, 1), B * F, True)] * len(spatial)
    assert (changed - before).abs().max() > 1e-4
    assert torch.equal(model(z, TIMES, COND), before)


def test_gradients_reach_the_latents(image):
    z = clip(3).requires_grad_()
    moved(inflate(image, "ei2"))(z, TIMES, COND).square().sum().backward()
    assert (z.grad.abs().amax(dim=(0, 1, 3, 4)) > 0).all()


def test_half_precision_models_keep_tuned_weights_in_float32(image):
    model = inflate(image.bfloat16(), "ei2")
    assert {p.dtype for p in model.trainable().values()} == {torch.float32}
    out = model(clip().bfloat16(), TIMES, COND.bfloat16())
    assert out.dtype == torch.bfloat16
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_variants_are_read_back_from_their_names(variant):
    assert Variant.parse(str(variant)) == variant


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Variant("diagonal"), "no variant 'diagonal'"),
        (lambda: Variant(temporal="spatial"), "no variant 'fine-coarse' with 'spatial'"),
        (lambda: Variant(ratio=0), "ratio is 0"),
        (lambda: Variant.parse("fine-coarse/x + stam"), "names no variant"),
    ],
)
def test_unknown_variants_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_unknown_variant_name_lists_the_known(image):
    with pytest.raises(ValueError, match="no variant 'ei3'; choose one of ei2, ei2-r4"):
        inflate(image, "ei3")


def test_inflating_twice_is_refused(image):
    with pytest.raises(ValueError, match=r"inflated already \(fine-coarse/2 \+ stam\)"):
        inflate(inflate(image))


def test_what_is_no_image_model_with_self_attention_is_refused():
    plain = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=TEXT_WIDTH,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
    )
    only_cross = tiny_unet("2D", only_cross_attention=True)
    for unet, message in (
        (plain, "UNet2DConditionModel is no 2D UNet with self-attention"),
        (tiny_unet("3D"), "UNet3DConditionModel is no 2D UNet with self-attention"),
        (nn.Linear(3, 3), "Linear is no 2D UNet with self-attention"),
        (tiny_adapter(), "MotionAdapter is no 2D UNet"),
        (only_cross, "has not both a self-attention and a text cross-attention layer"),
    ):
        with pytest.raises(ValueError, match=message):
            inflate(unet)


def test_tuned_weights_of_another_variant_or_base_are_refused(image):
    model = inflate(image, "ei2")
    with pytest.raises(ValueError, match="another variant or base"):
        model.with_tuned(inflate(image, "tune-a-video").tuned_state())
    wide = inflate(tiny_unet("2D", block_out_channels=(16, 16)), "ei2")
    with pytest.raises(ValueError, match=r"another base model: .* has shape"):
        model.with_tuned(wide.tuned_state())
    with pytest.raises(ValueError, match="they lack"):
        model.with_tuned({})


@pytest.fixture
def loaded(tmp_path):
    """An image model, loaded from disk as users load one."""
    return load_image(write_tiny_sd(tmp_path / "tiny"))


def test_an_inflated_model_is_a_backbone(loaded):
    video = inflate_backbone(loaded, "per-frame")
    z = clip()
    assert torch.equal(eps_of(video, z, 411, COND), eps_of(loaded, z, 411, COND))
    assert (video.kind, loaded.kind) == ("inflated", "image")
    assert video.vae is loaded.vae
    assert video.unet.base == loaded.fingerprint
    cond = draw(B, F, L, TEXT_WIDTH)
    assert eps_of(video, z, 411, cond).shape == z.shape


def test_fingerprints_tell_variants_and_tuned_models_apart(loaded):
    ei2, other = inflate_backbone(loaded, "ei2"), inflate_backbone(loaded, "ei2-r4")
    tuned = replace(ei2, unet=moved(ei2.unet))
    assert len({b.fingerprint for b in (loaded, ei2, other, tuned)}) == 4
    assert ei2.fingerprint == inflate_backbone(loaded, "ei2").fingerprint


def test_models_loaded_in_inference_mode_can_be_trained(tmp_path):
    folder = write_tiny_sd(tmp_path / "tiny")
    with torch.inference_mode():
        model = inflate_backbone(load_image(folder)).unet
        tuned = model.with_tuned(model.tuned_state())
    for parameter in tuned.trainable().values():
        parameter.requires_grad_(True)
    tuned(clip(), TIMES, COND).square().mean().backward()
    assert all(p.grad is not None for p in tuned.trainable().values())


def test_backbones_that_are_no_image_models_are_refused(loaded, tmp_path):
    with pytest.raises(ValueError, match="tiny is inflated already"):
        inflate_backbone(inflate_backbone(loaded))
    video = load_text_to_video(write_tiny_t2v(tmp_path / "video"))
    with pytest.raises(ValueError, match="kind 'text-to-video' and knows time by itself"):
        inflate_backbone(video)


def test_a_video_model_inverts_and_samples_like_any_other(loaded):
    video = inflate_backbone(loaded, "ei2")
    z_0 = clip()[:1]
    grid = video.process.grid(5)
    cond = COND[:1]
    trajectory = ddim_invert(z_0, partial(video.denoiser, cond=cond), grid)
    assert torch.isfinite(trajectory.latents).all()


def test_the_base_is_known_again_in_any_precision():
    image = tiny_unet("2D").requires_grad_(False)
    tuned = moved(inflate(image, "ei2"))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        there = inflate(copy.deepcopy(image).to(dtype), "tune-a-video")
        assert same_base(there, frozen_sample(tuned).float())
    nearly = copy.deepcopy(image)
    for parameter in nearly.parameters():
        parameter.data *= 1.02
    for other in (nearly, tiny_unet("2D", seed=1), tiny_unet("2D", block_out_channels=(16, 16))):
        assert not same_base(inflate(other, "ei2"), frozen_sample(tuned))


def test_marks_go_where_tokens_go(image):
    """Which of the tokens a frame reads are marked: its own, and coarse ones that mix in one."""
    marked = torch.zeros(3, 4 * 6, dtype=torch.bool)
    marked[1, 2 * 6 + 5] = True  # row 2, column 5 of frame 1: in the last of 2 x 3 windows
    own, coarse = marked.float(), torch.zeros(3, 6)
    coarse[1, 5] = 1
    expected = {
        "per-frame": own,
        "tune-a-video": torch.cat([own[[0, 0, 0]], own[[0, 0, 1]]], dim=1),
        "ei2": torch.cat([own, coarse[[1, 0, 0]], coarse[[2, 2, 1]]], dim=1),
        "full-space-time": own.reshape(1, -1).expand(3, -1),
    }
    for variant, found in expected.items():
        model = inflate(image, variant)
        site = find_sites(model, kind="spatial")[0]
        assert torch.equal(marked_of_read(model, site, marked, 4, 6), found.bool()), variant
    site = find_sites(image, kind="spatial")[0]
    assert torch.equal(marked_of_read(image, site, marked, 4, 6), marked)


@pytest.mark.parametrize("variant", ["ei2", "tune-a-video", "full-space-time", "per-frame"])
def test_the_keys_of_a_frame_are_its_own_whatever_frames_it_reads(image, variant):
    """What terms on keys and decoupled guidance compare; in front of the context of a layer."""
    model = moved(inflate(image, variant))
    layers = UNetLayers(model)
    sites = layers.find("decoder", "spatial")
    seen = {}

    def see(name, layer, given):
        seen[name] = layer.to_k(given[0])  # from the tokens of each frame

    hooks = [
        model.get_submodule(site.name).register_forward_pre_hook(
            lambda layer, given, name=site.name: see(name, layer, given)
        )
        for site in sites
    ]
    recorder = Recorder(sites, range(B))

    def run(plan):
        with layers.installed(plan, range(B)):
            return model(clip(), TIMES, COND)

    with torch.no_grad():
        forward_recorded(run, [recorder])
    for hook in hooks:
        hook.remove()
    for site in sites:
        expected = rearrange(seen[site.name], "(b f) n c -> b f n c", b=B)
        torch.testing.assert_close(recorder.at(site), expected)


def test_decoupled_guidance_holds_the_look_of_an_inflated_model(image):
    model = moved(inflate(image, "ei2"))

    def output(z, t, cond):
        return model(z, round(t), cond)

    denoiser = Denoiser("ei2", PROCESS, "epsilon", output, layers=UNetLayers(model))
    settings = GuidanceSettings(0.0, 0.0, 0.5, 0.5)
    z, mask = clip()[:1], (draw(1, 3, 5, seed=6) > 0).float()
    found = Drift(DriftGuidance(settings, mask), COND[:1], denoiser)
    _, drift = found(z + 0.1 * draw(*z.shape, seed=7), z, PROCESS.level(300))
    assert drift.shape == z.shape
    assert drift.abs().max() > 0
