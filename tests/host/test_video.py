"""A VIDEO through one node in a real host: sound and times of the frames are in the file."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from rescore.headless.video import VideoComponents
from rescore.headless.video_read import read_video
from rescore.headless.video_write import encode_mp4
from rescore.tests.host.comfyui import ExecutionError
from rescore.tests.host.conftest import skip_if_too_old
from rescore.tests.host.test_host import frames, of_type, prompt, saved
from torch.nn import functional

pytestmark = pytest.mark.host

TIMES = tuple(Fraction(t, 100) for t in (0, 13, 20, 41, 70))


def uneven(comfyui, name: str) -> VideoComponents:
    """A clip of odd size whose frames come unevenly, with a sound, among the host's inputs."""
    generator = torch.Generator().manual_seed(19)
    images = torch.rand(5, 3, 3, 3, generator=generator).repeat_interleave(11, 1)
    images = images.repeat_interleave(7, 2)  # 33 x 21
    wave = torch.sin(torch.arange(8000 * 7 // 8) * 0.3).reshape(1, 1, -1) * 0.5
    sound = {"waveform": wave, "sample_rate": 8000}
    file = comfyui.input / name
    file.write_bytes(encode_mp4(VideoComponents(images, Fraction(40, 7), sound, TIMES)))
    return read_video(file)


def made_of(video: str, frames: str) -> dict:
    """The node that makes a video of frames, with the sound and the times of another."""
    inputs = {"source": [video, 0], "images": [frames, 0]}
    return {"class_type": "ReScoreEditedVideo", "inputs": inputs}


def test_an_uneven_clip_keeps_its_times_and_its_sound(comfyui):
    source = uneven(comfyui, "uneven.mp4")
    workflow = prompt("edit_video")
    (load,), (edit,) = of_type(workflow, "LoadVideo"), of_type(workflow, "ReScoreEditVideo")
    workflow[load]["inputs"]["file"] = "uneven.mp4"
    workflow[edit]["inputs"]["steps"] = 2
    (file,) = saved(comfyui, workflow, comfyui.run(workflow))
    made = read_video(file)
    assert made.images.shape == source.images.shape
    assert not torch.equal(made.images, source.images)
    for then, now in zip(source.times, made.times, strict=True):
        assert abs(then - now) < Fraction(1, 1000)
    assert made.audio["sample_rate"] == 8000
    apart = made.audio["waveform"].shape[-1] - source.audio["waveform"].shape[-1]
    assert abs(apart) < 8000 // 100
    assert float(made.audio["waveform"].abs().max()) > 0.3


def odd(comfyui, name: str) -> VideoComponents:
    """The clip that a graph edits, at 101 x 75 and 29.97 frames a second, with a sound."""
    images = read_video(comfyui.input / name).images.permute(0, 3, 1, 2)
    images = functional.interpolate(images, (75, 101), mode="nearest").permute(0, 2, 3, 1)
    wave = torch.sin(torch.arange(2200) * 0.3).reshape(1, 1, -1) * 0.5
    sound = {"waveform": wave, "sample_rate": 8000}
    file = comfyui.input / f"odd_{name}"
    parts = VideoComponents(images.contiguous(), Fraction(30000, 1001), sound)
    file.write_bytes(encode_mp4(parts))
    return read_video(file)


@pytest.mark.parametrize(
    "name", ["delta_denoising", "edit_region", "videodirector", "wan_edit", "wan_edit_native"]
)
def test_a_graph_saves_a_clip_of_odd_size_with_its_rate_and_its_sound(comfyui, name):
    """H.264 as the host writes it has even sides alone; that came out after the whole edit."""
    workflow = prompt(name)
    skip_if_too_old(comfyui, workflow)
    load = next(key for key in of_type(workflow, "LoadVideo"))
    source = odd(comfyui, workflow[load]["inputs"]["file"])
    workflow[load]["inputs"]["file"] = f"odd_{workflow[load]['inputs']['file']}"
    for node in workflow.values():
        if isinstance(node["inputs"].get("steps"), int):
            node["inputs"]["steps"] = 1
    (file,) = saved(comfyui, workflow, comfyui.run(workflow))
    made = read_video(file)
    assert made.images.shape == source.images.shape == (len(source.images), 75, 101, 3)
    assert made.frame_rate == Fraction(30000, 1001)
    apart = made.audio["waveform"].shape[-1] - source.audio["waveform"].shape[-1]
    assert abs(apart) < 8000 // 100
    assert float(made.audio["waveform"].abs().max()) > 0.3


def test_where_the_mask_is_black_frames_are_those_that_the_edit_began_with(comfyui):
    """The host reads colours in its own way; two ways in one picture would be a seam."""
    workflow = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "red_circle.mp4"}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
        "4": {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 64}},
        "5": made_of("1", "3"),
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        "7": {"class_type": "PreviewImage", "inputs": {"images": ["5", 1]}},
    }
    workflow["5"]["inputs"]["mask"] = ["4", 0]
    run = comfyui.run(workflow)
    clip, kept = (comfyui.files(run.outputs[key]) for key in ("6", "7"))
    assert len(clip) == len(kept) == 8
    for ours, theirs in zip(kept, clip, strict=True):
        assert np.array_equal(frames(ours), frames(theirs))


def test_the_nodes_of_the_host_take_an_edited_video(comfyui):
    """It is taken apart as any VIDEO is, and a second edit still knows its times."""
    source = uneven(comfyui, "uneven_twice.mp4")
    workflow = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "uneven_twice.mp4"}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": made_of("1", "2"),
        "4": {"class_type": "GetVideoComponents", "inputs": {"video": ["3", 0]}},
        "5": made_of("3", "4"),
        "6": {
            "class_type": "SaveVideo",
            "inputs": {
                "video": ["5", 0], "filename_prefix": "twice", "format": "auto", "codec": "auto",
            },
        },
    }  # fmt: skip
    (file,) = saved(comfyui, workflow, comfyui.run(workflow))
    made = read_video(file)
    assert [round(float(t), 2) for t in made.times] == [round(float(t), 2) for t in source.times]
    assert float((made.images - source.images).abs().mean()) < 0.03


def test_a_file_that_is_no_video_is_told_in_one_sentence(comfyui):
    (comfyui.input / "no_video.mp4").write_text("words")
    workflow = prompt("edit_video")
    workflow[of_type(workflow, "LoadVideo")[0]]["inputs"]["file"] = "no_video.mp4"
    with pytest.raises(ExecutionError, match="is not a video") as failure:
        comfyui.run(workflow)
    assert failure.value.node_type == "ReScoreEditVideo"
