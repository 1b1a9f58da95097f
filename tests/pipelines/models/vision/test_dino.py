"""DINO: a tiny real one, its keys by transformers' own hidden states."""

import json
import re
import shutil

import pytest
import torch
from rescore.pipelines.models.layout import ModelError, list_models
from rescore.pipelines.models.vision.dino import _prepared, load_dino
from safetensors.torch import load_file, save_file
from tiny_clip import write_tiny_dino
from torch.nn import functional
from transformers import ViTModel

FRAMES, WIDTH = 3, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_dino(tmp_path_factory.mktemp("models") / "tiny", seed=1)


@pytest.fixture(scope="module")
def dino(folder):
    return load_dino(folder)


@pytest.fixture
def clip():
    return torch.rand(1, 3, FRAMES, 37, 53, generator=torch.Generator().manual_seed(0))


def test_keys_are_those_of_the_last_layer(folder, dino, clip):
    """k = W LN(h) + b with h what goes into that layer."""
    model = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    weights = dict(model.named_parameters())
    (name,) = (n for n in weights if re.search(r"\b1\..*\.(k_proj|key)\.weight$", n))
    (norm,) = (n for n in weights if re.search(r"\b1\.layernorm_before\.weight$", n))
    found = dino.keys(clip)
    # 224 pixels on the shorter edge and 320 on the longer, in patches of 32, and the class token.
    assert found.shape == (FRAMES, 1 + 7 * 10, WIDTH)
    for frame, keys in zip(clip[0].unbind(dim=1), found, strict=True):
        pixels = functional.interpolate(frame[None], (224, 320), mode="bilinear", antialias=True)
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
        with torch.no_grad():
            states = model(
                pixel_values=(pixels - mean) / std,
                output_hidden_states=True,
                interpolate_pos_encoding=True,
            ).hidden_states
            h = functional.layer_norm(
                states[-2][0],
                (WIDTH,),
                weights[norm],
                weights[norm.replace("weight", "bias")],
                model.config.layer_norm_eps,
            )
            expected = h @ weights[name].T + weights[name.replace("weight", "bias")]
        torch.testing.assert_close(keys, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (37, 53, (224, 320)),  # 224 * 53 / 37 = 320.9
        (53, 37, (320, 224)),
        (224, 224, (224, 224)),
        (480, 854, (224, 398)),
        (17, 101, (80, 480)),  # the longer edge would be 1330: 480 * 224 / 1330 = 80.8
    ],
)
def test_sizes_are_those_of_torchvisions_resize(height, width, size):
    assert _prepared(torch.zeros(1, 3, height, width), 1.0).shape[-2:] == size


def test_pixels_are_scaled_before_they_are_normalised():
    frame = torch.full((1, 3, 224, 224), 0.5)
    one, many = _prepared(frame, 1.0), _prepared(frame, 255.0)
    assert one[0, 0, 0, 0] == pytest.approx((0.5 - 0.485) / 0.229)
    assert many[0, 2, 3, 5] == pytest.approx((127.5 - 0.406) / 0.225)


def test_nothing_stays_on_the_model(dino, clip):
    dino.keys(clip)
    assert not any(module._forward_hooks for module in dino.model.modules())


def test_weights_of_older_and_newer_names_load(folder, dino, clip, tmp_path):
    """Published DINO folders were saved by transformers 4, and have a pickle beside or instead."""
    older = {
        r"^layers\.": "encoder.layer.",
        r"\.q_proj\.": ".attention.query.",
        r"\.k_proj\.": ".attention.key.",
        r"\.v_proj\.": ".attention.value.",
        r"\.attention\.o_proj\.": ".attention.output.dense.",
        r"\.mlp\.fc1\.": ".intermediate.dense.",
        r"\.mlp\.fc2\.": ".output.dense.",
    }
    weights = load_file(folder / "model.safetensors")
    for pattern, name in older.items():
        weights = {re.sub(pattern, name, key): tensor for key, tensor in weights.items()}
    assert any("attention.attention.key" in key for key in weights)
    shutil.copyfile(folder / "config.json", tmp_path / "config.json")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert torch.equal(load_dino(tmp_path).keys(clip), dino.keys(clip))


def test_folders_that_hold_no_dino(folder, tmp_path):
    with pytest.raises(ModelError, match=r"does not exist\. Expected a DINO model .* dino-vitb8"):
        load_dino(tmp_path / "none")
    shutil.copytree(folder, tmp_path / "less")
    weights = load_file(folder / "model.safetensors")
    removed = next(name for name in weights if name.endswith("bias"))
    save_file(
        {k: v for k, v in weights.items() if k != removed}, tmp_path / "less" / "model.safetensors"
    )
    with pytest.raises(ModelError, match="lacks 1 weights of its ViTModel"):
        load_dino(tmp_path / "less")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "less" / "config.json").write_text(json.dumps({**config, "model_type": "swin"}))
    with pytest.raises(ModelError, match="has a model of type swin"):
        load_dino(tmp_path / "less")
    (tmp_path / "less" / "config.json").write_text(json.dumps({**config, "hidden_size": 13}))
    with pytest.raises(ModelError, match="cannot be read as a ViTModel"):
        load_dino(tmp_path / "less")


def test_the_folder_is_listed(folder):
    assert list_models([folder.parent], "vit") == ["tiny"]
