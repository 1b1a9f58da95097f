"""Each adapter equals the diffusers module called directly, with graph or not."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
from tiny_models import SCHEDULE, TEXT_WIDTH, VAE_FACTOR, eps_of

KINDS = ("text-to-video", "image", "animatediff")
PREDICTIONS = ("epsilon", "v_prediction")


def direct(models, kind, prediction):
    """The diffusers module itself, by diffusers' own loading, as f(z [b,c,f,h,w], t [b], cond)."""
    suffix = "" if prediction == "epsilon" else "-v"
    if kind == "text-to-video":
        unet = UNet3DConditionModel.from_pretrained(models / f"t2v{suffix}" / "unet")
        return lambda z, t, cond: unet(z, t, cond).sample
    unet = UNet2DConditionModel.from_pretrained(models / f"sd{suffix}" / "unet")
    if kind == "image":
        return lambda z, t, cond: torch.stack(
            [unet(z[:, :, i], t, cond).sample for i in range(z.shape[2])], dim=2
        )
    motion = MotionAdapter.from_pretrained(models / "motion")
    unet = UNetMotionModel.from_unet2d(unet, motion).eval()
    return lambda z, t, cond: unet(z, t, cond.repeat_interleave(z.shape[2], 0)).sample


def alpha_bar(t, kind):
    """The share of signal at a timestep, from the definition of the betas, one by one."""
    start, end, count = SCHEDULE["beta_start"], SCHEDULE["beta_end"], 1000
    signal = 1.0
    for i in range(t + 1):
        part = i / (count - 1)
        if kind == "animatediff":
            beta = start + (end - start) * part
        else:
            beta = (start**0.5 + (end**0.5 - start**0.5) * part) ** 2
        signal *= 1 - beta
    return signal


@pytest.mark.parametrize("frames", [1, 3, 5])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_adapter_equals_the_diffusers_module(models, load, draw, kind, prediction, frames):
    z, cond = draw(2, 4, frames, 7, 11), draw(2, 5, TEXT_WIDTH, seed=1)
    model = load(kind, prediction)
    for t in (37, 801):
        expected = direct(models, kind, prediction)(z, torch.tensor([t, t]), cond)
        if prediction == "v_prediction":
            a = alpha_bar(t, kind)
            expected = math.sqrt(a) * expected + math.sqrt(1 - a) * z
        eps = eps_of(model, z, t, cond)
        assert eps.shape == z.shape and eps.dtype == torch.float32
        assert (eps - expected).abs().max() <= 1e-5
        assert expected.std() > 0.05  # a dead model would be equal too


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_rows_do_not_know_each_other(load, draw, kind):
    backbone, z, cond = load(kind), draw(3, 4, 2, 5, 7), draw(3, 5, TEXT_WIDTH, seed=1)
    at_once = eps_of(backbone, z, 411, cond)
    for row in range(3):
        alone = eps_of(backbone, z[row : row + 1], 411, cond[row : row + 1])
        torch.testing.assert_close(at_once[row : row + 1], alone, atol=1e-5, rtol=0)
    assert not torch.allclose(at_once, eps_of(backbone, z, 412, cond), atol=1e-5)


@torch.no_grad()
def test_text_per_frame_is_each_frame_with_its_own_text(load, draw):
    backbone, z, cond = load("image"), draw(2, 4, 3, 7, 5), draw(2, 3, 5, TEXT_WIDTH, seed=1)
    eps = eps_of(backbone, z, 300, cond)
    for frame in range(3):
        alone = eps_of(backbone, z[:, :, frame : frame + 1], 300, cond[:, frame])
        torch.testing.assert_close(eps[:, :, frame : frame + 1], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_text_per_frame_reaches_an_animatediff_model(load, draw):
    backbone, z, cond = load("animatediff"), draw(2, 4, 3, 7, 5), draw(2, 5, TEXT_WIDTH, seed=1)
    for_all = eps_of(backbone, z, 300, cond)
    per_frame = cond[:, None].repeat(1, 3, 1, 1)
    assert torch.equal(for_all, eps_of(backbone, z, 300, per_frame))
    per_frame[1, 2] = draw(5, TEXT_WIDTH, seed=2)
    changed = (for_all - eps_of(backbone, z, 300, per_frame)).abs().amax(dim=(1, 3, 4))
    assert changed[0].max() == 0  # the other clip
    assert changed[1, 2] == changed[1].max() > 1e-3


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_latents_and_text(models, load, draw, kind, prediction):
    z, cond, weight = draw(1, 4, 3, 7, 5), draw(1, 5, TEXT_WIDTH, seed=1), draw(1, 4, 3, 7, 5)
    z.requires_grad_()
    cond.requires_grad_()
    expected = direct(models, kind, prediction)(z, torch.tensor([600]), cond)
    if prediction == "v_prediction":
        a = alpha_bar(600, kind)
        expected = math.sqrt(a) * expected + math.sqrt(1 - a) * z
    expected = torch.autograd.grad((expected * weight).sum(), (z, cond))

    backbone = load(kind, prediction)
    found = torch.autograd.grad((eps_of(backbone, z, 600, cond) * weight).sum(), (z, cond))

    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not any(p.requires_grad for m in backbone.modules().values() for p in m.parameters())


def test_there_is_no_graph_unless_asked_for(load, draw):
    backbone, z, cond = load("image"), draw(1, 4, 2, 5, 7), draw(1, 5, TEXT_WIDTH)
    assert not eps_of(backbone, z, 500, cond).requires_grad
    with torch.no_grad():
        assert not eps_of(backbone, z.requires_grad_(), 500, cond).requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_loaded_in_inference_mode_can_be_differentiated_through(load, draw, kind):
    with torch.inference_mode():
        backbone = load(kind)
        backbone.to("cpu")
    z = draw(1, 4, 3, 7, 5).requires_grad_()
    eps_of(backbone, z, 500, draw(1, 5, TEXT_WIDTH)).square().sum().backward()
    assert z.grad.abs().max() > 0


def test_a_model_moved_in_inference_mode_stays_differentiable(load):
    backbone = load("text-to-video")
    with torch.inference_mode():
        backbone.to("meta")  # a device every machine has
    for module in backbone.modules().values():
        assert not any(parameter.is_inference() for parameter in module.parameters())


@torch.no_grad()
def test_half_precision_stays_inside(load, draw):
    z, cond = draw(1, 4, 3, 7, 5), draw(1, 5, TEXT_WIDTH)
    backbone = load("text-to-video", dtype=torch.bfloat16)
    assert backbone.dtype == torch.bfloat16
    assert next(backbone.vae.parameters()).dtype == torch.float32  # force_upcast
    eps = eps_of(backbone, z, 500, cond)
    assert eps.dtype == torch.float32
    whole = eps_of(load("text-to-video"), z, 500, cond)
    assert 0 < (eps - whole).abs().max() < 0.1
    mean, _ = backbone.encode_frames(draw(1, 3, 6, 4))
    assert mean.dtype == backbone.decode_frames(mean).dtype == torch.float32
    assert backbone.encode_prompt("a red circle").embedding.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_backbone_moves_to_a_device_as_a_whole(load, draw, device, kind):
    backbone, z, cond = load(kind), draw(2, 4, 3, 7, 5), draw(2, 5, TEXT_WIDTH)
    here, fingerprint = eps_of(backbone, z, 500, cond), backbone.fingerprint
    backbone.to(device)
    assert backbone.device.type == device.type
    places = {p.device.type for m in backbone.modules().values() for p in m.parameters()}
    assert places == {device.type}
    there = eps_of(backbone, z, 500, cond)
    assert there.device == z.device
    torch.testing.assert_close(there, here, atol=1e-3, rtol=1e-3)
    del backbone.__dict__["fingerprint"]
    assert backbone.fingerprint == fingerprint


@pytest.mark.parametrize(
    ("kind", "z_shape", "cond_shape", "complaint"),
    [
        ("image", (1, 5, 2, 7, 5), (1, 3, TEXT_WIDTH), "latents have 5 channels, sd takes 4"),
        ("image", (2, 4, 2, 7, 5), (1, 3, TEXT_WIDTH), "for each of the 2 clips"),
        ("image", (2, 4, 2, 7, 5), (2, 3, 3, TEXT_WIDTH), "the 2 x 2 frames"),
        ("image", (1, 4, 2, 7, 5), (3, TEXT_WIDTH), r"have shape \[3, 12\]"),
        ("image", (1, 4, 2, 7, 5), (1, 3, 11), "are 11 wide, sd takes 12"),
        ("text-to-video", (1, 4, 2, 7, 5), (1, 2, 3, TEXT_WIDTH), "one text embedding for a whole"),
        ("animatediff", (1, 4, 8, 7, 5), (1, 3, TEXT_WIDTH), "has 8 frames; .* motion knows 7"),
    ],
)
def test_shapes_that_do_not_fit_are_told(load, draw, kind, z_shape, cond_shape, complaint):
    with pytest.raises(ValueError, match=complaint):
        eps_of(load(kind), draw(*z_shape), 500, draw(*cond_shape))


def test_a_kind_that_is_none_is_told(load):
    with pytest.raises(ValueError, match="animatediff, inflated, and not 'audio'"):
        replace(load("image"), kind="audio")


def test_a_single_number_of_a_weight_is_in_the_fingerprint(models, load):
    marks = []
    for change in (0.0, 1e-6):
        model = load("image", "epsilon")
        model.unet.conv_in.weight.data[1, 2, 0, 1] += change
        marks.append(model.fingerprint)
    assert marks[0] != marks[1]


def test_fingerprint_is_the_same_for_the_same_model_only(models, load):
    marks = {(kind, p): load(kind, p).fingerprint for kind in KINDS for p in PREDICTIONS}
    assert len(set(marks.values())) == 6
    assert load("image").fingerprint == marks["image", "epsilon"]
    other = load("image", prediction_type="v_prediction")
    assert other.predicts == "v"
    assert other.fingerprint != marks["image", "epsilon"]
    tuned = load("image")
    key = tuned.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q.weight
    key.data += 1e-4
    assert tuned.fingerprint != marks["image", "epsilon"]


def test_fingerprint_knows_settings_that_no_weight_shows(load):
    model = load("image")
    other = load("image")
    other.unet.register_to_config(norm_eps=1e-6)
    assert model.fingerprint != other.fingerprint


def test_facts_about_the_model(load):
    backbone = load("animatediff")
    assert backbone.name == "sd with motion"
    assert backbone.vae_factor == VAE_FACTOR
    assert backbone.scaling_factor == 0.18215
    assert backbone.shift_factor == 0.0
    assert (backbone.max_frames, load("image").max_frames) == (7, None)
    assert list(backbone.modules()) == ["network", "vae", "text_encoder"]
    assert not any(module.training for module in backbone.modules().values())


@torch.no_grad()
def test_frames_pass_the_vae_as_by_hand(load, draw):
    backbone, pixels = load("image"), draw(3, 3, 14, 10).clamp(-1, 1)
    moments = backbone.vae.quant_conv(backbone.vae.encoder(pixels))
    mean, std = backbone.encode_frames(pixels)
    assert mean.shape == std.shape == (3, 4, 7, 5)
    torch.testing.assert_close(mean, moments[:, :4])
    torch.testing.assert_close(std, (moments[:, 4:] / 2).exp())
    decoded = backbone.vae.decoder(backbone.vae.post_quant_conv(mean))
    torch.testing.assert_close(backbone.decode_frames(mean), decoded)
    assert decoded.shape == pixels.shape
