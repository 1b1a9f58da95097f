"""CLIP's measures by hand, and CLIP itself against transformers."""

import json
import math

import numpy as np
import pytest
import torch
from rescore.pipelines.measures.clip import (
    frame_consistency,
    only,
    pick_score,
    text_alignment,
)
from rescore.pipelines.measures.region import Region
from rescore.pipelines.models.layout import ModelError, list_models
from rescore.pipelines.models.vision.clip_scorer import load_clip
from tiny_clip import PICTURE, PREPROCESSOR, write_tiny_clip
from torch.nn import functional
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

PROMPT = "a small red circle moving right"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip_vision") / "tiny")


@pytest.fixture(scope="module")
def scorer(folder):
    return load_clip(folder)


def clip_of(frames, height, width):
    """A clip of 8-bit pixels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (1, 3, frames, height, width), generator=generator) / 255


def test_alignment_and_pick_score_by_hand():
    frames = torch.tensor([[3.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    prompt = torch.tensor([[7.0, 0.0]])
    found = text_alignment(frames, prompt)
    assert found.values == pytest.approx((100, 0, 100 / math.sqrt(2)))
    assert found.value == pytest.approx(100 * (1 + 1 / math.sqrt(2)) / 3)
    picked = pick_score(frames, prompt, 20.0)
    assert picked.value == pytest.approx(found.value / 5)


def test_alignment_of_a_region_leaves_out_frames_without_it():
    where = torch.zeros(3, 5, 7, dtype=torch.bool)
    where[0, 1, 2] = where[2, 4, 6] = True
    frames = torch.tensor([[3.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    found = text_alignment(frames, torch.tensor([[7.0, 0.0]]), Region("inside", where))
    assert found.name == "CLIP text inside"
    assert found.value == pytest.approx(100 * (1 + 1 / math.sqrt(2)) / 2)
    assert found.values == pytest.approx((100, math.nan, 100 / math.sqrt(2)), nan_ok=True)


def test_a_region_is_shown_on_black():
    clip = clip_of(3, 5, 7)
    where = torch.zeros(3, 5, 7, dtype=torch.bool)
    where[1, 2:4, 3] = True
    shown = only(clip, Region("inside", where))
    assert torch.equal(shown[0, :, 1, 2:4, 3], clip[0, :, 1, 2:4, 3])
    assert shown.count_nonzero() == clip[0, :, 1, 2:4, 3].count_nonzero()


def test_both_consistencies_by_hand():
    frames = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0]])
    neighbours = frame_consistency(frames, "neighbours")
    assert neighbours.values == pytest.approx((0, 0), abs=1e-12)
    pairs = frame_consistency(frames, "all pairs")
    assert pairs.values == pytest.approx((50, 0, 50))
    assert pairs.value == pytest.approx(100 / 3)


@pytest.mark.parametrize("pairs", ["neighbours", "all pairs"])
def test_a_still_clip_is_consistent_at_any_length_of_its_embeddings(pairs):
    frames = torch.tensor([[1.0, 2.0, 3.0]]).repeat(5, 1) * torch.arange(1, 6)[:, None]
    assert frame_consistency(frames, pairs).value == pytest.approx(100)


def test_one_frame_has_no_consistency_and_embeddings_are_numbers():
    assert math.isnan(frame_consistency(torch.ones(1, 3), "neighbours").value)
    with pytest.raises(ValueError, match="NaN"):
        frame_consistency(torch.full((2, 3), torch.nan), "all pairs")


@pytest.mark.parametrize(("height", "width"), [(14, 14), (29, 43), (37, 31), (11, 13)])
def test_frames_are_prepared_as_transformers_does(scorer, height, width):
    clip = clip_of(2, height, width)
    frames = clip[0].movedim(1, 0)
    pictures = [np.asarray(255 * f.movedim(0, -1).numpy()).round().astype(np.uint8) for f in frames]
    processor = CLIPImageProcessorPil(**PREPROCESSOR)
    expected = torch.tensor(np.stack(processor(pictures)["pixel_values"]))
    found = scorer.prepare(frames)
    assert found.shape == expected.shape == (2, 3, PICTURE, PICTURE)
    # Pillow's filters have fixed-point weights, which may round the other way: one step of 1/255.
    apart = (found - expected).abs()
    assert float(apart.max()) <= 1.01 / 255 / min(PREPROCESSOR["image_std"])
    assert float((apart > 1e-4).double().mean()) < 0.01


def test_embeddings_are_those_of_transformers(folder, scorer):
    clip = clip_of(5, 14, 14)
    model = CLIPModel.from_pretrained(folder)
    ids = scorer.tokenizer([PROMPT], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=ids, pixel_values=scorer.prepare(clip[0].movedim(1, 0)))
    seen = []
    frames = scorer.embed_frames(clip, chunk=2, on_frames=seen.append)
    prompt = scorer.embed_prompt(PROMPT)
    torch.testing.assert_close(functional.normalize(frames), expected.image_embeds)
    torch.testing.assert_close(functional.normalize(prompt), expected.text_embeds)
    picked = pick_score(frames, prompt, scorer.scale)
    assert picked.values == pytest.approx(expected.logits_per_image[:, 0].tolist(), rel=1e-5)
    assert seen == [2, 4, 5]


def test_padding_of_texts_changes_nothing(folder, scorer):
    """Published scores pad to the whole window; the text tower looks back only."""
    model = CLIPModel.from_pretrained(folder)
    padded = scorer.tokenizer([PROMPT], padding="max_length", max_length=24, return_tensors="pt")
    with torch.no_grad():
        expected = model.text_projection(model.text_model(**padded).pooler_output)
    torch.testing.assert_close(scorer.embed_prompt(PROMPT), expected)


def test_long_prompts_are_cut_and_empty_ones_refused(scorer, caplog):
    long = " ".join(["red"] * 40)
    cut = scorer.embed_prompt(long)
    assert "longer than the 22 tokens" in caplog.text
    torch.testing.assert_close(cut, scorer.embed_prompt(" ".join(["red"] * 22)))
    with pytest.raises(ValueError, match="prompt is empty"):
        scorer.embed_prompt("  ")


def test_the_folder_is_found_among_others(folder):
    (folder.parent / "file.safetensors").touch()
    (folder.parent / "text").mkdir(exist_ok=True)
    config = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
    (folder.parent / "text" / "config.json").write_text(json.dumps(config))
    assert list_models([folder.parent], "clip") == ["tiny"]


def test_what_a_folder_lacks_has_a_default(tmp_path):
    bare = write_tiny_clip(tmp_path / "bare", vocabulary=49408)
    (bare / "preprocessor_config.json").unlink()
    scorer = load_clip(bare)
    assert scorer.tokenizer("a cat")["input_ids"] == [49406, 320, 2368, 49407]  # CLIP's own words
    assert scorer.prepare.size == (PICTURE, PICTURE)
    assert scorer.prepare.shortest == PICTURE
    assert scorer.prepare.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "shortest", "size"),
    [
        ({"size": 14, "crop_size": 7}, 14, (7, 7)),
        ({"size": {"height": 14, "width": 21}}, None, (14, 21)),
    ],
)
def test_older_settings_are_understood(tmp_path, settings, shortest, size):
    folder = write_tiny_clip(tmp_path / "clip")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    prepare = load_clip(folder).prepare
    assert (prepare.shortest, prepare.size) == (shortest, size)
    assert prepare(torch.zeros(1, 3, 20, 30)).shape[2:] == size


def test_frames_that_are_too_narrow_are_told(scorer):
    with pytest.raises(ValueError, match="Frames of 1 x 9999 pixels are too narrow"):
        scorer.embed_frames(torch.zeros(1, 3, 1, 9999, 1))
    assert scorer.embed_frames(torch.zeros(1, 3, 1, 1, 1)).isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [
        {"resample": 0},
        {"resample": [3]},
        {"size": "small"},
        {"size": 0},
        {"size": {"shortest_edge": 10**9}},
        {"crop_size": {"height": -7, "width": 7}},
        {"image_mean": [0.5, 0.5]},
        {"image_mean": ["a", "b", "c"]},
        {"image_std": [0, 1, 1]},
        {"image_std": 1},
    ],
)
def test_settings_that_are_not_understood_are_told(tmp_path, settings):
    folder = write_tiny_clip(tmp_path / "clip")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"preprocessor_config.json that is not understood"):
        load_clip(folder)


def test_no_folder_is_told(tmp_path):
    with pytest.raises(ModelError, match=r"does not exist.*fetch.py.*clip-vit-large-patch14"):
        load_clip(tmp_path / "nothing")
