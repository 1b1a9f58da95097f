import re
import shutil

import pytest
import torch
from diffusers import DDPMScheduler
from rescore.attention.recording import Recorder, forward_recorded
from rescore.pipelines.models.cascade.codec import PixelCodec
from rescore.pipelines.models.cascade.load import load_keyframes, load_stage
from rescore.pipelines.models.cascade.stage import ROLES, Clipping
from rescore.pipelines.models.cascade.text import WINDOW
from rescore.pipelines.models.layout import ModelError, kind_of, list_models
from tiny_cascade import SCHEDULE, TEXT_WIDTH, edit_json, settings, tiny_t5, tiny_unet, write_stage


@pytest.fixture(scope="module")
def keyframes(tmp_path_factory):
    return load_keyframes(write_stage(tmp_path_factory.mktemp("stages") / "show-1-base"))


# --- the backbone ---------------------------------------------------------------------------------


def test_without_its_layers_along_time_it_is_the_unet_of_pictures():
    """Zero last layers along time leave each frame to DeepFloyd IF's own UNet (diffusers)."""
    video, picture = tiny_unet("video-sr"), tiny_unet("image-sr")
    for name, parameter in video.named_parameters():
        if ".temp_convs." in name and ".conv4.3." in name:
            parameter.zero_()
        if ".temp_attentions." in name and ".proj_out." in name and "blocks.0.ff" not in name:
            parameter.zero_()
    shared = picture.state_dict()
    video.load_state_dict(shared, strict=False)
    assert shared.keys() <= video.state_dict().keys()
    torch.manual_seed(0)
    clip, text = torch.randn(2, 6, 3, 20, 12), torch.randn(2, 7, TEXT_WIDTH)
    t, noise = torch.tensor([11, 703]), torch.tensor([250, 90])
    said = video(clip, t, text, noise)
    for frame in range(3):
        alone = picture(clip[:, :, frame], t, text, class_labels=noise).sample
        torch.testing.assert_close(said[:, :, frame], alone, rtol=1e-4, atol=1e-5)


def test_names_and_shapes_of_published_weights_are_those_of_the_authors_code():
    """Counted and read off Show-1's own UNet3DConditionModel at these settings."""
    weights = tiny_unet().state_dict()
    shapes = {
        "encoder_hid_proj.weight": (32, 20),
        "add_embedding.pool.positional_embedding": (1, 20),
        "down_blocks.0.temp_convs.0.conv1.2.weight": (32, 32, 3, 1, 1),
        "down_blocks.1.attentions.0.add_k_proj.weight": (64, 32),
        "down_blocks.1.temp_attentions.0.transformer_blocks.0.attn2.to_k.weight": (64, 64),
        "mid_block.temp_convs.1.conv4.3.bias": (32,),
        "up_blocks.2.upsamplers.0.conv1.weight": None,
        "up_blocks.1.upsamplers.0.conv1.weight": (64, 64, 3, 3),
        "conv_out.weight": (6, 32, 3, 3),
    }
    for name, shape in shapes.items():
        found = tuple(weights[name].shape) if name in weights else None
        assert found == shape, name


# Six numbers of what the authors' own UNet3DConditionModel (showlab/Show-1 at 35a71b6, its imports
# led to today's diffusers) said of `asked`, with the weights of `numbered`.
AUTHORS = {
    ("keyframes", False): [0.65596, 2.11423, 2.29737, -0.63430, 0.05265, 0.70968],
    ("keyframes", True): [0.91544, 0.73969, 3.65024, -0.62089, 0.12371, 1.36919],
    ("interpolation", False): [0.39328, 2.18055, 1.55474, -0.07244, -0.22701, 0.55666],
    ("video-sr", False): [0.53792, 2.82752, 2.45187, 0.46687, -1.11878, 2.76386],
}


def numbered(unet: torch.nn.Module) -> torch.nn.Module:
    """The UNet with random weights that depend on their names and shapes alone."""
    for number, (_, weight) in enumerate(sorted(unet.named_parameters())):
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
        weight.copy_(1 + noise / 10 if weight.ndim == 1 else noise / weight[0].numel() ** 0.5)
    return unet


def asked(role: str) -> tuple[torch.Tensor, ...]:
    """Frames, timesteps, texts and labels."""
    generator = torch.Generator().manual_seed(5)
    clip = torch.randn(2, settings(role)["in_channels"], 5, 20, 12, generator=generator)
    text = torch.randn(2, 7, TEXT_WIDTH, generator=generator)
    labels = torch.tensor([250, 90]) if role.endswith("sr") else None
    return clip, torch.tensor([703, 11]), text, labels


@pytest.mark.parametrize(("role", "input_layer"), AUTHORS)
def test_outputs_are_those_of_the_authors_code(role, input_layer):
    unet = numbered(tiny_unet(role, transfromer_in_opt=input_layer))
    found = unet(*asked(role)).flatten()[::1777][:6]
    expected = torch.tensor(AUTHORS[role, input_layer])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_input_layer_along_time_is_there_where_the_settings_ask_for_it():
    names = tiny_unet(transfromer_in_opt=True).state_dict()
    assert names["transformer_in.proj_in.weight"].shape == (512, 32)


# --- joint attention ------------------------------------------------------------------------------


def test_a_plan_that_changes_nothing_leaves_joint_attention_as_diffusers_has_it(keyframes):
    def unchanged(layer, q, k, v, attend):
        seen.append((layer.site.kind, q.shape[2], k.shape[2], layer.keys.shape[2]))
        return attend(q, k, v)

    from rescore.attention.layers import Entry

    seen = []
    denoiser = keyframes.denoiser
    z, cond = torch.randn(2, 3, 3, 20, 12), torch.randn(2, 7, TEXT_WIDTH)
    level, plan = (
        denoiser.process.level(500),
        [Entry(denoiser.layers.find("*", "spatial"), unchanged)],
    )
    plain = denoiser(z, level, cond)
    torch.testing.assert_close(denoiser(z, level, cond, plan=plan), plain, rtol=1e-4, atol=1e-5)
    # Keys of the text stand before those of the image, and are not among the layer's own keys.
    assert {(kind, read - own, own) for kind, _, read, own in seen} == {
        ("spatial", 7, 60),
        ("spatial", 7, 15),
    }


def test_recorded_keys_are_those_of_the_image_alone(keyframes):
    denoiser = keyframes.denoiser
    site = denoiser.layers.find("decoder", "spatial")[-1]
    layer, outside = keyframes.stage.unet.get_submodule(site.name), []
    hook = layer.to_k.register_forward_hook(lambda _, __, keys: outside.append(keys))
    z, cond = torch.randn(1, 3, 3, 20, 12), torch.randn(1, 7, TEXT_WIDTH)
    recorder = Recorder([site], [0])
    try:
        forward_recorded(
            lambda plan: denoiser(z, denoiser.process.level(300), cond, plan=plan), [recorder]
        )
    finally:
        hook.remove()
    torch.testing.assert_close(recorder.at(site)[0], outside[0])


# --- stages and folders ---------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_each_published_kind_of_stage_is_told_by_its_settings(tmp_path, role):
    folder = write_stage(tmp_path / "stage", role)
    stage = load_stage(folder)
    assert (stage.role, kind_of(folder), stage.multiple) == (role, "cascade", 4)
    assert list_models([tmp_path], "cascade") == ["stage"]
    z = torch.randn(1, 3, 1 if role == "image-sr" else 5, 8, 12)
    beside = {"keyframes": None, "interpolation": torch.randn(1, 4, 5, 8, 12)}.get(role, z)
    label = 150 if role.endswith("sr") else None
    said = stage.denoiser(beside, label)(z, stage.process.level(700), torch.randn(1, 7, TEXT_WIDTH))
    assert said.z_0.shape == z.shape


def test_betas_and_prediction_are_the_schedulers_own(keyframes):
    published = DDPMScheduler.from_config(SCHEDULE).alphas_cumprod.double()
    torch.testing.assert_close(keyframes.process.alphas_bar, published, rtol=1e-5, atol=1e-9)
    assert keyframes.denoiser.kind == "epsilon"


def test_a_stage_may_predict_the_frames_themselves(tmp_path):
    folder = write_stage(tmp_path / "stage")
    edit_json(folder / "scheduler" / "scheduler_config.json", prediction_type="sample")
    stage = load_stage(folder)
    level, text = stage.process.level(500), torch.randn(1, 7, TEXT_WIDTH)
    z = torch.randn(1, 3, 2, 8, 12)
    said = stage.denoiser()(z, level, text)
    frames = stage.unet(z, torch.tensor([500]), text)[:, :3]
    torch.testing.assert_close(said.z_0, frames)


def test_clipping_is_that_of_diffusers(keyframes):
    z_0 = 1.3 * torch.randn(1, 3, 5, 8, 12)
    frames = z_0[0].transpose(0, 1)
    theirs = DDPMScheduler.from_config(SCHEDULE)._threshold_sample(frames)
    torch.testing.assert_close(keyframes.stage.clipping(z_0)[0].transpose(0, 1), theirs)
    assert Clipping.from_config({"clip_sample": False})(z_0) is z_0
    assert Clipping.from_config({})(z_0).abs().max() == 1


def test_a_prompt_is_what_t5_says_of_it_in_small_letters_and_a_window_of_77(keyframes):
    told = keyframes.encode_prompt("  A Red ")
    ids = keyframes.tokenizer("a red", padding="max_length", max_length=WINDOW, return_tensors="pt")
    theirs = keyframes.text_encoder(ids.input_ids, ids.attention_mask).last_hidden_state
    torch.testing.assert_close(told.embedding, theirs)
    assert told.embedding.shape == (1, 77, TEXT_WIDTH)
    assert keyframes.encode_prompt("a " * 80).cut != ""


# --- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "frames"), [(40, 64, 8), (80, 128, 8), (37, 61, 5)])
def test_a_clip_comes_back_from_its_latents(height, width, frames):
    clip = torch.rand(1, 3, frames, height, width)
    codec = PixelCodec(8)
    latents = codec.encode(clip)
    assert latents.shape[2:] == (frames, -(-height // 8) * 8, -(-width // 8) * 8)
    back = codec.decode(latents, size=(height, width), frames=frames)
    torch.testing.assert_close(back, clip, rtol=0, atol=1e-6)


def test_pixels_that_are_no_clip_of_a_pixel_stage_are_refused():
    codec = PixelCodec(8)
    with pytest.raises(ValueError, match=r"576 x 320 pixels.*Make keyframes of it first"):
        codec.encode(torch.rand(1, 3, 8, 320, 576))
    with pytest.raises(ValueError, match="NaN or infinite pixels"):
        codec.encode(torch.full((1, 3, 2, 8, 8), torch.nan))
    with pytest.raises(ValueError, match="4 channels and 2 frames; a model of pixels has 3"):
        codec.decode(torch.rand(1, 4, 2, 8, 8))


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [role for role in ROLES if role != "keyframes"])
def test_a_stage_of_another_kind_is_no_keyframe_model(tmp_path, role):
    with pytest.raises(ModelError, match=f"{ROLES[role]} and no keyframes. Expected show-1-base"):
        load_keyframes(write_stage(tmp_path / "stage", role))


def test_a_keyframe_stage_without_t5_is_refused(tmp_path):
    folder = write_stage(tmp_path / "stage")
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(ModelError, match="no folder text_encoder, and needs T5's there"):
        load_keyframes(folder)


def test_a_t5_of_another_width_is_refused(tmp_path):
    folder = write_stage(tmp_path / "stage")
    tiny_t5(40, width=24).save_pretrained(folder / "text_encoder")
    with pytest.raises(ModelError, match="reads texts 20 wide, and its T5 gives 24"):
        load_keyframes(folder)


@pytest.mark.parametrize(
    ("unet", "scheduler", "message"),
    [
        ({}, {"variance_type": None}, "6 channels out, the frames and their variance"),
        ({"out_channels": 3}, {}, "variance_type = 'learned_range' and a unet that gives no var"),
        ({"out_channels": 4}, {}, "out_channels = 4; 3 or 6 fit"),
        ({"in_channels": 5}, {}, "UNet3DConditionModel with in_channels = 5"),
        ({"encoder_hid_dim": None}, {}, "reads no text of T5"),
        ({"down_block_types": ["CrossAttnDownBlock3D"] * 3}, {}, "a block of it is 'CrossAttnDown"),
        ({}, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "trained by flow matching"),
    ],
)
def test_settings_that_make_no_stage_are_told(tmp_path, unet, scheduler, message):
    folder = write_stage(tmp_path / "stage")
    edit_json(folder / "unet" / "config.json", **unet)
    edit_json(folder / "scheduler" / "scheduler_config.json", **scheduler)
    with pytest.raises(ModelError, match=re.escape(message)):
        load_stage(folder)


def test_a_folder_that_lacks_a_weight_is_told(tmp_path):
    folder = write_stage(tmp_path / "stage")
    edit_json(folder / "unet" / "config.json", layers_per_block=2)
    with pytest.raises(ModelError, match=r"lacks .* weights of its VideoUNet"):
        load_stage(folder)


def test_frames_and_texts_that_do_not_fit_are_told(keyframes):
    level, cond = keyframes.process.level(500), torch.randn(1, 7, TEXT_WIDTH)
    with pytest.raises(ValueError, match=r"10 x 12, and show-1-base takes sides .* multiples of 4"):
        keyframes.denoiser(torch.randn(1, 3, 5, 12, 10), level, cond)
    with pytest.raises(ValueError, match=r"24 wide, show-1-base takes 20.*\(T5\)"):
        keyframes.denoiser(torch.randn(1, 3, 5, 12, 8), level, torch.randn(1, 7, 24))
    with pytest.raises(ValueError, match="4 channels, and show-1-base works on pixels"):
        keyframes.denoiser(torch.randn(1, 4, 5, 12, 8), level, cond)


def test_settings_name_only_blocks_of_this_family():
    with pytest.raises(ValueError, match="a block of it is None"):
        tiny_unet(mid_block_type=None)
    assert settings()["mid_block_type"] == "UNetMidBlock3DSimpleCrossAttn"
