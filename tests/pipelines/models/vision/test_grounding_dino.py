"""Grounding DINO: a tiny real one against transformers' own preparation and reading of it."""

import json
import shutil
import time

import pytest
import torch
from rescore.pipelines.models.layout import ModelError, list_models
from rescore.pipelines.models.vision.grounding_dino import load_grounding_dino
from safetensors.torch import load_file, save_file
from tiny_mask_models import LONGEST, SHORTEST, write_tiny_grounding_dino
from transformers import BertTokenizerFast, GroundingDinoForObjectDetection, GroundingDinoProcessor
from transformers.models.grounding_dino import image_processing_grounding_dino as with_torchvision

try:
    from transformers import GroundingDinoImageProcessorPil as ImageProcessor
except ImportError:  # before transformers 5 the only one needed nothing but Pillow
    ImageProcessor = with_torchvision.GroundingDinoImageProcessor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_grounding_dino(tmp_path_factory.mktemp("models") / "tiny", seed=1)


@pytest.fixture(scope="module")
def detector(folder):
    return load_grounding_dino(folder)


@pytest.mark.parametrize(("height", "width"), [(37, 53), (53, 37), (17, 101)])
def test_boxes_are_those_that_transformers_finds(folder, detector, height, width):
    pixels = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0))
    found = detector.detect(pixels / 255, "A red circle, dog.")

    size = {"shortest_edge": SHORTEST, "longest_edge": LONGEST}
    processor = GroundingDinoProcessor(
        ImageProcessor(size=size), BertTokenizerFast.from_pretrained(folder)
    )
    inputs = processor(
        images=[pixels.byte().permute(1, 2, 0).numpy()],
        text="a red circle. dog.",
        return_tensors="pt",
    )
    prepared = detector._prepared(pixels / 255)
    # To within one step of 255, by which rounding may differ. Which of its queries a random model
    # follows can hang on that.
    torch.testing.assert_close(prepared, inputs["pixel_values"], atol=1.01 / 255 / 0.224, rtol=0)
    inputs["pixel_values"] = prepared
    model = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(**inputs)
    (expected,) = processor.post_process_grounded_object_detection(
        output, inputs["input_ids"], threshold=0.0, text_threshold=0.0,
        target_sizes=[(height, width)],
    )  # fmt: skip
    order = expected["scores"].argsort(descending=True)
    limits = torch.tensor([width, height, width, height])
    boxes = expected["boxes"][order].clamp(min=0).minimum(limits)
    torch.testing.assert_close(found.scores, expected["scores"][order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.boxes, boxes, atol=1e-3, rtol=1e-4)
    assert found.boxes.shape == (11, 4)


def test_the_prompt_counts_and_its_form_does_not(detector):
    frame = torch.rand(3, 23, 29, generator=torch.Generator().manual_seed(1))
    first = detector.detect(frame, "A cat; a dog")
    for same in ("a cat. a dog.", " a cat , a dog", "a CAT\na dog\n"):
        assert torch.equal(detector.detect(frame, same).scores, first.scores)
    assert not torch.equal(detector.detect(frame, "a dog").scores, first.scores)


def test_prompts_that_cannot_be_read_are_told(detector):
    frame = torch.rand(3, 23, 29)
    with pytest.raises(ValueError, match="prompt is empty; write what to look for"):
        detector.detect(frame, " . ,")
    with pytest.raises(ValueError, match=r"has 43 tokens and tiny reads 32.*fewer"):
        detector.detect(frame, ". ".join(["a dog"] * 13 + ["cat"]))


def test_it_is_found_among_models_and_ready(folder, detector):
    assert list_models([folder.parent], "grounding-dino") == ["tiny"]
    weights = list(detector.modules()["network"].parameters())
    assert not any(weight.requires_grad or weight.is_inference() for weight in weights)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "tiny")


def settings_with(folder, **entries):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | entries), "utf-8")


def test_a_pickle_is_refused(copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pickle \(pytorch_model.bin\), which could run code"):
        load_grounding_dino(copy)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 37)])
def test_a_frame_that_is_too_small_for_the_model_is_told(detector, height, width):
    """This one has a single place of a single channel at its coarsest level, for square frames."""
    with pytest.raises(ValueError, match=rf"frames of {width} x {height} pixels: they are too sm"):
        detector.detect(torch.zeros(3, height, width), "a circle")


@pytest.mark.parametrize(("height", "width"), [(1, 9), (1, 400), (400, 1)])
def test_narrow_frames_are_looked_at(detector, height, width):
    found = detector.detect(torch.zeros(3, height, width), "a circle")
    assert len(found.boxes) == 11 and found.boxes.isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 0, "longest_edge": 9}},
        {"size": {"shortest_edge": -800, "longest_edge": 1333}},
        {"size": {"shortest_edge": 10**9, "longest_edge": 10**9}},
        {"size": {"shortest_edge": "wide"}},
        {"size": 800},
        {"image_mean": [0.5]},
        {"image_mean": "grey"},
        {"image_std": [1, 1, 0]},
        {"image_std": [1, 1, None]},
    ],
)
def test_pictures_that_cannot_be_prepared_so_are_told(copy, settings):
    file = copy / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **settings}), "utf-8")
    with pytest.raises(ModelError, match=r"preprocessor_config\.json that is not understood"):
        load_grounding_dino(copy)


@pytest.mark.parametrize(
    "settings",
    [
        {"encoder_layers": 2**31},
        {"encoder_layers": 10**6},
        {"decoder_layers": -1},
        {"d_model": 2**40},
        {"d_model": "32"},
        {"num_queries": 10**5},
        {"text_config": {"num_hidden_layers": 10**6}},
        {"text_config": 3},
        {"backbone_config": {"model_type": "swin", "depths": [10**6] * 4}},
        {"backbone_config": {"model_type": "swin", "depths": [32000] * 4}},
        {"backbone_config": {"model_type": "no such"}},
        {"activation_function": "no\x1b[2Jsuch"},
    ],
)
def test_settings_that_make_no_model_are_told_at_once(copy, settings):
    began = time.monotonic()
    settings_with(copy, **settings)
    with pytest.raises(ModelError, match="Put it into") as caught:
        load_grounding_dino(copy)
    assert time.monotonic() - began < 30  # seconds, of which a machine at rest takes 2
    assert str(caught.value).isprintable() and len(str(caught.value)) < 3000


def test_weights_lie_in_the_folder_and_nowhere_else(copy, tmp_path):
    """The list of shards is not followed, and a file that would name another model is not read."""
    (copy / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"x": "../model.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (copy / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/"}))
    with pytest.raises(ModelError, match="has no weights in it"):
        load_grounding_dino(copy)


@pytest.mark.parametrize(
    "entries",
    [
        {"backbone": "resnet50"},
        {"use_pretrained_backbone": True},
        {"auto_map": {"a": "b"}},
        {"attn_implementation": "someone/kernel"},
    ],
)
def test_parts_from_elsewhere_are_refused(copy, entries):
    settings_with(copy, **entries)
    with pytest.raises(ModelError, match=f"part from elsewhere .{next(iter(entries))}"):
        load_grounding_dino(copy)


def test_parts_of_parts_from_elsewhere_are_refused(copy):
    settings_with(copy, backbone_config={"model_type": "timm_backbone", "backbone": "resnet18"})
    with pytest.raises(ModelError, match=r"part from elsewhere .backbone in its config"):
        load_grounding_dino(copy)


def test_damaged_folders_are_told(copy, tmp_path):
    missing = tmp_path / "grounding-dino-tiny"
    with pytest.raises(ModelError, match=r"does not exist.*downloads.*fetch.py grounding-dino-t"):
        load_grounding_dino(missing)
    weights = load_file(copy / "model.safetensors")
    gone = next(name for name in weights if "encoder" in name)
    save_file(
        {n: w for n, w in weights.items() if n != gone}, copy / "model.safetensors",
        metadata={"format": "pt"},
    )  # fmt: skip
    with pytest.raises(ModelError, match="lacks 1 weights"):
        load_grounding_dino(copy)
    (copy / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(
        ModelError, match=r"cannot be read: model\.safetensors \(10 bytes\) is damaged"
    ):
        load_grounding_dino(copy)
    settings_with(copy, model_type="bert")
    with pytest.raises(ModelError, match="has a model of type bert"):
        load_grounding_dino(copy)


def test_a_folder_without_a_tokenizer_is_told(copy):
    for file in copy.glob("*token*"):
        file.unlink()
    (copy / "vocab.txt").unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_grounding_dino(copy)
