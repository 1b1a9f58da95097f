"""SAM 2: a tiny real one against transformers' own session over the whole clip."""

import json
import shutil
import sys

import pytest
import torch
from rescore.pipelines.models.layout import ModelError, list_models
from rescore.pipelines.models.vision.clip_scorer import Preparation
from rescore.pipelines.models.vision.sam2_video import Pointed, load_sam2
from tiny_mask_models import SQUARE, write_tiny_sam2
from torch.nn import functional
from transformers import Sam2VideoProcessor
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

FRAMES, HEIGHT, WIDTH, KEY = 11, 37, 53, 5
BOX = Pointed((7.0, 5.0, 31.0, 29.0))
POINTS = Pointed(None, ((11.0, 13.0), (17.0, 19.0)), ((41.0, 3.0),))
BOTH = Pointed((7.0, 5.0, 31.0, 29.0), ((11.0, 13.0),), ((41.0, 3.0),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_sam2(tmp_path_factory.mktemp("models") / "tiny", seed=3)


@pytest.fixture(scope="module")
def tracker(folder):
    return load_sam2(folder)


def clip(frames: int = FRAMES) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, frames, HEIGHT, WIDTH, generator=generator)


def session(tracker, frames, things, key):
    """Transformers' own, which holds the whole clip; prompts go through its own processor."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    frames = frames[0].transpose(0, 1)
    pixels = Preparation(None, (SQUARE, SQUARE), "bilinear", mean, std)(frames)
    plain = functional.interpolate(frames, (SQUARE, SQUARE), mode="bilinear", antialias=True)
    plain = (plain - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    # Rounding to 255 steps after each direction; random models mind, so they are given the same.
    torch.testing.assert_close(pixels, plain, atol=1.01 / 255 / 0.224, rtol=0)
    made = Sam2VideoInferenceSession(pixels, HEIGHT, WIDTH, dtype=torch.float32)
    # Without its image processor, which needs torchvision and which prompts do not.
    processor = Sam2VideoProcessor.__new__(Sam2VideoProcessor)
    processor.target_size, processor.point_pad_value = SQUARE, -10
    for number, thing in enumerate(things):
        points = [*thing.inside, *thing.outside]
        labels = [1] * len(thing.inside) + [0] * len(thing.outside)
        processor.add_inputs_to_inference_session(
            made,
            key,
            number,
            input_points=[[[list(point) for point in points]]] if points else None,
            input_labels=[[labels]] if points else None,
            input_boxes=None if thing.box is None else [[list(thing.box)]],
        )
    made.obj_with_new_inputs = list(range(len(things)))
    return made


def propagated(tracker, frames, things, key, *, reverse):
    made, masks = session(tracker, frames, things, key), {}
    with torch.no_grad():
        tracker.model(made, frame_idx=key)
    for found in tracker.model.propagate_in_video_iterator(made, key, reverse=reverse):
        masks[found.frame_idx] = functional.interpolate(
            found.pred_masks, (HEIGHT, WIDTH), mode="bilinear"
        )
    return masks


@pytest.mark.parametrize("things", [(BOX,), (POINTS,), (BOTH,), (BOX, POINTS)])
def test_masks_are_those_of_a_session_that_forgets_nothing(tracker, things):
    """Eleven frames are more than the tiny model remembers on either side of the key."""
    found = tracker.follow(clip(), things, KEY)
    forwards = propagated(tracker, clip(), things, KEY, reverse=False)
    backwards = propagated(tracker, clip(), things, KEY, reverse=True)
    assert sorted(forwards | backwards) == list(range(FRAMES))
    assert found.shape == (FRAMES, HEIGHT, WIDTH)
    for frame, logits in (backwards | forwards).items():
        expected = (logits > 0).any(dim=0)[0]
        # What lies on the edge to within rounding may fall to either side.
        sure = (logits.abs() > 1e-3).all(dim=0)[0]
        assert torch.equal(found[frame].bool()[sure], expected[sure]), frame
    assert 0 < float(found.mean()) < 1


def test_what_is_remembered_does_not_grow_with_the_clip(tracker, monkeypatch):
    """Of frames that were passed a session keeps what is still read, and no pictures of masks."""
    kept = []
    forget = type(tracker)._forget

    def watched(self, made, frame):
        forget(self, made, frame)
        (outputs,) = made.output_dict_per_obj.values()
        tracked = outputs["non_cond_frame_outputs"]
        kept.append(len(tracked))
        assert all("high_res_masks" not in out for out in tracked.values())
        assert len(made.cache._vision_features) == 1

    monkeypatch.setattr(type(tracker), "_forget", watched)
    reach = 3  # the tiny model's memories and pointers
    tracker.follow(clip(17), [BOX], 0)
    assert max(kept) == reach + 1


@pytest.mark.parametrize("key", [0, 2])
def test_every_frame_is_told_once_and_cancel_stops(tracker, key):
    told = []
    tracker.follow(clip(3), [BOX], key, on_frame=told.append)
    assert told == [1, 2, 3]

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tracker.follow(clip(3), [BOX], key, on_frame=stop)


def test_a_clip_of_one_frame(tracker):
    one = tracker.follow(clip(3)[:, :, :1], [BOX], 0)
    assert one.shape == (1, HEIGHT, WIDTH)
    assert torch.equal(one[0], tracker.follow(clip(3), [BOX], 0)[0])


def test_it_runs_inside_inference_mode(tracker):
    with torch.inference_mode():
        inside = tracker.follow(clip(3), [BOTH], 1)
    assert torch.equal(inside, tracker.follow(clip(3), [BOTH], 1))


def test_mistakes_are_told(tracker):
    with pytest.raises(ValueError, match="give a box, or at least one point"):
        Pointed(outside=((1.0, 2.0),))
    with pytest.raises(ValueError, match="give a box, or at least one point"):
        tracker.follow(clip(2), [], 0)
    with pytest.raises(ValueError, match="Frame 2 was asked for, and the clip has frames 0 to 1"):
        tracker.follow(clip(2), [BOX], 2)
    with pytest.raises(ValueError, match=r"54, 3 lies outside.*53 pixels wide and 37 high"):
        tracker.follow(clip(2), [Pointed(inside=((54.0, 3.0),))], 0)


def test_folders_are_checked(folder, tmp_path):
    assert list_models([folder.parent], "sam2-video") == ["tiny"]
    with pytest.raises(ModelError, match=r"does not exist.*downloads sam2.1-hiera-small"):
        load_sam2(tmp_path / "none")
    copy = shutil.copytree(folder, tmp_path / "tiny")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle \(pytorch_model.bin\)"):
        load_sam2(copy)
    file = copy / "config.json"
    file.write_text(json.dumps({"model_type": "sam"}), "utf-8")
    with pytest.raises(ModelError, match="has a model of type sam in"):
        load_sam2(copy)


@pytest.mark.parametrize("size", [0, -64, 2**19, "wide", [], [64.5, 64.5]])
def test_a_size_that_no_picture_has_is_told(folder, tmp_path, size):
    copy = shutil.copytree(folder, tmp_path / "tiny")
    settings = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps({**settings, "image_size": size}), "utf-8")
    with pytest.raises(ModelError, match="Expected a SAM 2 video model"):
        load_sam2(copy)


def test_a_transformers_that_is_too_old_is_told(folder, monkeypatch):
    import transformers

    class Old:
        __version__ = "4.50.3"

    monkeypatch.setitem(sys.modules, "transformers", Old())
    with pytest.raises(ImportError, match=r"4.56 or newer, and 4.50.3 is installed.*pip install"):
        load_sam2(folder)
    assert transformers.Sam2VideoModel
