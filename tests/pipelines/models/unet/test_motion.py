"""Motion adapters: diffusers folders and AnimateDiff's own files, put into an image model."""

import json
import shutil

import pytest
import torch
from diffusers import MotionAdapter, UNetMotionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from rescore.pipelines.models.layout import ModelError
from rescore.pipelines.models.process import VariancePreserving
from rescore.pipelines.models.unet.inflation import VARIANTS, inflate_backbone
from rescore.pipelines.models.unet.load import load_animatediff, load_image
from rescore.pipelines.models.unet.motion import NormPerFrame
from rescore.shapeworld.models import load_shapeworld
from safetensors.torch import load_file, save_file
from tiny_models import (
    SCHEDULE,
    TEXT_WIDTH,
    eps_of,
    tiny_adapter,
    write_tiny_adapter,
    write_tiny_motion_file,
    write_tiny_sd,
)
from torch import nn

LINEAR = {**SCHEDULE, "beta_schedule": "linear"}
# A single file says neither heads nor groups: wide enough for AnimateDiff's own 8 and 32.
WIDE = {"block_out_channels": (32, 64)}
MODULE = {"motion_num_attention_heads": 8, "motion_norm_num_groups": 32, **WIDE}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = write_tiny_sd(tmp_path_factory.mktemp("wide") / "sd", seed=7, **WIDE)
    return load_image(folder)


def same_weights(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("mid_block", [True, False])
def test_folder_gives_what_diffusers_makes_of_it(models, tmp_path, mid_block):
    folder = write_tiny_adapter(tmp_path / "mm", seed=8, use_motion_mid_block=mid_block)
    image = load_image(models / "sd")
    before = {name: tensor.clone() for name, tensor in image.unet.state_dict().items()}
    found = load_animatediff(image, folder)
    expected = UNetMotionModel.from_unet2d(image.unet, MotionAdapter.from_pretrained(folder))
    assert type(found.unet) is UNetMotionModel
    assert same_weights(found.unet, expected)
    assert found.unet.config == expected.config
    # The image model is as it was and still works.
    assert all(torch.equal(before[k], v) for k, v in image.unet.state_dict().items())
    eps_of(image, torch.zeros(1, 4, 2, 6, 6), 1, torch.zeros(1, 3, TEXT_WIDTH))
    assert found.unet.conv_in.weight.data_ptr() == image.unet.conv_in.weight.data_ptr()
    assert found.vae is image.vae and found.tokenizer is image.tokenizer


class OneByOne(nn.Module):
    """A motion module that is given each frame's numbers after they were normalised alone.

    In place of its own norm, so that what follows it is diffusers' own.
    """

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, clip):
        return torch.stack([self.norm(frame) for frame in clip.unbind(dim=2)], dim=2)


@pytest.mark.parametrize("mid_block", [True, False])
def test_modules_normalise_frame_by_frame_as_they_were_trained(models, tmp_path, draw, mid_block):
    options = {"over_clip": False, "use_motion_mid_block": mid_block}
    folder = write_tiny_adapter(tmp_path / "mm", seed=8, **options)
    image = load_image(models / "sd")
    found = load_animatediff(image, folder)
    theirs = UNetMotionModel.from_unet2d(image.unet, MotionAdapter.from_pretrained(folder)).eval()
    z, text = draw(2, 4, 5, 6, 6), draw(10, 3, TEXT_WIDTH)
    z[:, :, 3] *= 7  # a frame that would change the statistics of the others
    with torch.no_grad():
        over_clip = theirs(z, 301, text).sample
        for module in theirs.modules():
            if isinstance(module, AnimateDiffTransformer3D):
                module.norm = OneByOne(module.norm)
        expected = theirs(z, 301, text).sample
        output = found.unet(z, 301, text).sample
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    assert (output - over_clip).abs().max() > 0.01
    # Another model than the same weights in diffusers' way.
    same = write_tiny_adapter(tmp_path / "over", seed=8, use_motion_mid_block=mid_block)
    assert load_animatediff(image, same).fingerprint != found.fingerprint


def motion_norms(model):
    motion = (m for m in model.unet.modules() if isinstance(m, AnimateDiffTransformer3D))
    return {type(module.norm) for module in motion}


def test_single_files_were_trained_frame_by_frame(wide, tmp_path):
    file = write_tiny_motion_file(tmp_path / "mm.safetensors", tiny_adapter(9, **MODULE))
    assert motion_norms(load_animatediff(wide, file)) == {NormPerFrame}


def test_the_shape_worlds_own_adapter_was_trained_the_diffusers_way():
    assert motion_norms(load_shapeworld("shapeworld-animatediff")) == {nn.GroupNorm}


@pytest.mark.parametrize(
    ("mid_block", "positions", "suffix"),
    [(False, 24, ".safetensors"), (True, 32, ".safetensors"), (False, 32, ".ckpt")],
    ids=["v1", "v2", "v3"],
)
def test_single_files_of_all_versions_are_the_adapter(wide, tmp_path, mid_block, positions, suffix):
    settings = {"use_motion_mid_block": mid_block, "motion_max_seq_length": positions}
    adapter = tiny_adapter(9, **MODULE, **settings)
    file = write_tiny_motion_file(tmp_path / f"mm{suffix}", adapter)
    found = load_animatediff(wide, file)
    assert found.max_frames == positions
    assert same_weights(found.unet, UNetMotionModel.from_unet2d(wide.unet, adapter))


@pytest.mark.parametrize(
    "before",
    [
        "module.",
        "state_dict.",
        "unet.",
        "model.diffusion_model.",
        "module.unet.",
        "state_dict.module.",
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt"])
def test_what_a_script_put_before_all_names_is_nothing(wide, tmp_path, before, suffix):
    adapter = tiny_adapter(9, **MODULE)
    weights = load_file(write_tiny_motion_file(tmp_path / "mm.safetensors", adapter))
    # As training scripts save it, with the unet around the modules.
    weights |= {"conv_in.weight": torch.ones(32, 4, 3, 3), "up_blocks.0.resnets.0.x": torch.ones(1)}
    weights = {f"{before}{name}": tensor for name, tensor in weights.items()}
    file = tmp_path / f"mm{suffix}"
    save_file(weights, file) if suffix == ".safetensors" else torch.save(weights, file)
    found = load_animatediff(wide, file).unet
    assert same_weights(found, UNetMotionModel.from_unet2d(wide.unet, adapter))


def test_a_file_of_something_else_with_motion_is_told(wide, tmp_path):
    weights = load_file(
        write_tiny_motion_file(tmp_path / "mm.safetensors", tiny_adapter(9, **MODULE))
    )
    lora = {name.replace("to_q.weight", "to_q_lora.down.weight"): w for name, w in weights.items()}
    save_file(lora, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="is a motion LoRA, and no whole motion module"):
        load_animatediff(wide, tmp_path / "lora.safetensors")
    twice = weights | {f"ema.{name}": tensor.clone() for name, tensor in weights.items()}
    save_file(twice, tmp_path / "twice.safetensors")
    with pytest.raises(ModelError, match="holds several motion modules"):
        load_animatediff(wide, tmp_path / "twice.safetensors")
    pia = weights | {"conv_in.weight": torch.ones(32, 9, 3, 3)}
    save_file(pia, tmp_path / "pia.safetensors")
    with pytest.raises(ModelError, match=r"takes 9 input channels \(is it a PIA adapter"):
        load_animatediff(wide, tmp_path / "pia.safetensors")


@pytest.mark.parametrize("kind", ["text-to-video", "animatediff", "inflated"])
def test_a_module_goes_into_an_image_model_only(models, load, kind):
    if kind == "inflated":
        model = inflate_backbone(load("image"), VARIANTS["ei2"])
    else:
        model = load(kind)
    with pytest.raises(ValueError, match=f"is a model of kind {kind}, and a motion module goes"):
        load_animatediff(model, models / "motion")


def test_conversion_agrees_with_diffusers_own(wide, tmp_path):
    file = write_tiny_motion_file(tmp_path / "mm.safetensors", tiny_adapter(9, **MODULE))
    folder = write_tiny_adapter(tmp_path / "config", **MODULE)  # only for its settings
    theirs = MotionAdapter.from_single_file(str(file), config=str(folder), local_files_only=True)
    found = load_animatediff(wide, file).unet
    assert same_weights(found, UNetMotionModel.from_unet2d(wide.unet, theirs))


def test_a_single_file_may_have_diffusers_names(wide, tmp_path):
    adapter = tiny_adapter(9, **MODULE)
    save_file(adapter.state_dict(), tmp_path / "mm.safetensors")
    found = load_animatediff(wide, tmp_path / "mm.safetensors").unet
    assert same_weights(found, UNetMotionModel.from_unet2d(wide.unet, adapter))


def test_betas_are_linear_whatever_the_image_model_has(models):
    found = load_animatediff(models / "sd", models / "motion")
    assert found.process == VariancePreserving.from_config(LINEAR)
    assert found.process != load_image(models / "sd").process
    v = load_animatediff(models / "sd-v", models / "motion")
    assert (v.process, v.predicts) == (found.process, "v")
    own = {**LINEAR, "beta_end": 0.02}
    told = load_animatediff(models / "sd", models / "motion", schedule_config=own)
    assert told.process == VariancePreserving.from_config(own)
    with pytest.raises(ValueError, match="have linear betas, and not 'scaled_linear'"):
        load_animatediff(models / "sd", models / "motion", schedule_config=SCHEDULE)


def test_image_model_may_be_a_path_with_options(models):
    found = load_animatediff(
        models / "sd.safetensors",
        models / "motion",
        configs=models / "sd",
        dtype=torch.bfloat16,
    )
    assert found.name == "sd.safetensors with motion"
    assert {parameter.dtype for parameter in found.unet.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"block_out_channels": (8, 24)},
            r"blocks \(8, 24\) of \(1, 1\) layers, while .* \(8, 16\)",
        ),
        ({"block_out_channels": (8, 16, 16)}, r"blocks \(8, 16, 16\)"),
        ({"motion_layers_per_block": 2}, r"of \(2, 2\) layers, while .* of \(1, 1\)"),
        ({"conv_in_channels": 9}, r"takes 9 input channels \(is it a PIA adapter\?\)"),
    ],
)
def test_an_adapter_for_another_model_is_told(models, tmp_path, settings, complaint):
    folder = write_tiny_adapter(tmp_path / "mm", **settings)
    with pytest.raises(ModelError, match=complaint):
        load_animatediff(load_image(models / "sd"), folder)


def test_what_is_no_adapter_is_told(models, tmp_path):
    image = load_image(models / "sd")
    with pytest.raises(
        ModelError, match=r"mm does not exist.* Expected an AnimateDiff motion adapter"
    ):
        load_animatediff(image, tmp_path / "mm")
    with pytest.raises(ModelError, match=r"sd\.safetensors holds no motion modules \(it begins"):
        load_animatediff(image, models / "sd.safetensors")
    with pytest.raises(ModelError, match=r"has no config\.json.*animatediff-motion-adapter-v1-5-3"):
        load_animatediff(image, models / "sd")
    with pytest.raises(
        ModelError, match=r"UNet2DConditionModel in the config\.json of its unet and"
    ):
        load_animatediff(image, models / "sd" / "unet")
    folder = shutil.copytree(models / "motion", tmp_path / "motion")
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model\.safetensors .* is damaged"):
        load_animatediff(image, folder)
    weights.unlink()
    with pytest.raises(ModelError, match=r"has no weights in it \(found: config\.json\)"):
        load_animatediff(image, folder)
    (folder / "config.json").write_text(json.dumps([]))
    with pytest.raises(ModelError, match="that is no JSON object"):
        load_animatediff(image, folder)


def test_a_damaged_pickle_is_told(models, tmp_path):
    (tmp_path / "mm.ckpt").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(ModelError, match=r"mm\.ckpt is damaged, or a pickle that holds more"):
        load_animatediff(load_image(models / "sd"), tmp_path / "mm.ckpt")
    torch.save([torch.zeros(1)], tmp_path / "list.ckpt")
    with pytest.raises(ModelError, match="holds a list and no weights by name"):
        load_animatediff(load_image(models / "sd"), tmp_path / "list.ckpt")
