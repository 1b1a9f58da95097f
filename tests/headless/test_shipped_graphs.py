"""The graphs that come with the pack run headless as they are, and edit any clip with any model."""

import json
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import rescore
from rescore.headless.runner import run_workflow
from rescore.headless.workflow import read_workflow
from rescore.workflows.host_nodes import needs_host
from tiny_models import write_tiny_t2v

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
GRAPHS = sorted(
    file
    for file in (WORKFLOWS / "api").glob("*.json")
    if not needs_host(json.loads(file.read_text("utf-8")))
)


WAN = [file.stem for file in GRAPHS if file.stem.startswith("wan_")]


def with_few_steps(graph: dict) -> dict[str, int]:
    """Overrides that keep every loop of a graph short."""
    return {
        f"{number}.{name}": 2
        for number, node in graph.items()
        for name in ("steps", "inner_steps")
        if isinstance(node["inputs"].get(name), int)
    }


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_the_note_names_every_number_that_a_real_model_wants_otherwise(file):
    """Read off the files: where a loop's number is not what its node begins with, the note says so.

    What stays for a real model is listed here, by graph: steps that add up to the whole way.
    """
    stays = {("assd", "step_size"), ("flow_enhanced", "step_size"), ("mixed_terms", "step_size")}
    stays |= {(name, "step_size") for name in WAN} | {
        ("wan_edit", "cfg"),
        ("wan_dreammotion", "cfg"),
    }
    graph = json.loads(file.read_text("utf-8"))
    if all(node["class_type"] != "ReScoreLoadShapeWorldModel" for node in graph.values()):
        return
    shown = json.loads((WORKFLOWS / file.name).read_text("utf-8"))["nodes"]
    (note,) = (node["widgets_values"][0] for node in shown if node["type"] == "MarkdownNote")
    for node in graph.values():
        if node["class_type"] not in rescore.NODE_CLASS_MAPPINGS:
            continue
        sections = rescore.NODE_CLASS_MAPPINGS[node["class_type"]].INPUT_TYPES()
        declared = {**sections["required"], **sections.get("optional", {})}
        for name in {"steps", "step_size", "cfg", "learning_rate", "inner_steps"} & set(declared):
            if (file.stem, name) in stays:
                continue
            if node["inputs"][name] != declared[name][1]["default"]:
                line = next(li for li in note.split("\n") if f"*{node['_meta']['title']}*" in li)
                assert re.search(rf"`{name}` \d", line), (node["class_type"], name)


# Of a graph: what holds or moves the edit there, its input, and the value that switches it off.
SWITCHES = {
    "dreammotion": (
        ("SpatialSelfSimilarity", "weight", 0),
        ("TemporalSelfSimilarity", "weight", 0),
    ),
    "flow_enhanced": (
        ("FlowSmoothing", "strength", 0),
        ("ContentPreservation", "weight", 0),
        ("GlobalConsistency", "weight", 0),
    ),
    "assd": (("ImageDeltaDenoising", "weight", 0), ("AttentionFusion", "weight", 1)),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_part_of_a_method_shows_at_the_weight_it_ships_with(name, tmp_path):
    """Without it the video that is saved is another one, to be seen without a magnifying glass."""
    graph = read_workflow(WORKFLOWS / "api" / f"{name}.json")
    numbers = {node["class_type"]: number for number, node in graph.items()}
    saved, slot = graph[numbers["CreateVideo"]]["inputs"]["images"]

    def edited(**off: float):
        short = {f"{numbers['ReScoreScoreDistillation']}.steps": 12}
        inputs = [WORKFLOWS / "input"]
        result = run_workflow(
            graph, out=tmp_path, inputs=inputs, overrides=short | off, keep=[saved]
        )
        return result.values[saved][slot]

    whole = edited()
    for node, weight, off in SWITCHES[name]:
        without = edited(**{f"{numbers[f'ReScore{node}']}.{weight}": off})
        assert (without - whole).abs().max() > 0.05, node
        assert (without - whole).abs().mean() > 0.002, node


@pytest.mark.parametrize("file", sorted(WORKFLOWS.glob("*.json")), ids=lambda file: file.stem)
def test_app_mode_shows_a_graph_to_those_who_never_look_at_it(file):
    """The clip, both texts and a number in front, the saved video behind."""
    graph = json.loads(file.read_text("utf-8"))
    nodes, app = {str(node["id"]): node for node in graph["nodes"]}, graph["extra"]["linearData"]
    shown = [(nodes[number]["type"], name) for number, name in app["inputs"]]
    assert shown[0] == ("LoadVideo", "file")
    texts = {"source_prompt", "target_prompt", "text"}
    assert len([name for _, name in shown if name in texts]) >= 2
    for number, name in app["inputs"]:
        wired = [slot["link"] for slot in nodes[number]["inputs"] if slot["name"] == name]
        assert wired in ([], [None]), (nodes[number]["title"], name)
    assert {nodes[number]["type"] for number in app["outputs"]} == {"SaveVideo"}


def probe(file: Path) -> tuple[int, int, int, Fraction, bool]:
    """Width, height, frames, frames a second, and whether there is sound."""
    with av.open(str(file)) as container:
        video = container.streams.video[0]
        sound = bool(container.streams.audio)
        frames = sum(1 for _ in container.decode(video))
        return video.width, video.height, frames, video.average_rate, sound


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_a_shipped_graph_runs_as_shipped(file, tmp_path):
    graph = read_workflow(file)
    result = run_workflow(
        graph, out=tmp_path, inputs=[WORKFLOWS / "input"], overrides=with_few_steps(graph)
    )
    source = next(
        node["inputs"]["file"] for node in graph.values() if node["class_type"] == "LoadVideo"
    )
    videos = [path for path in result.saved if path.suffix == ".mp4"]
    assert videos
    for video in videos:
        assert probe(video)[2:4] == probe(WORKFLOWS / "input" / source)[2:4]


@pytest.mark.parametrize("name", ["delta_denoising", "mixed_terms", "edit_region"])
def test_where_the_mask_is_black_the_frames_are_the_clips_to_the_bit(name, tmp_path):
    """So the PSNR outside the mask is infinite, of what is decoded and goes to Save Video."""
    graph = read_workflow(WORKFLOWS / "api" / f"{name}.json")
    kept = {"edit_region": "ReScorePasteRegion"}.get(name, "ImageCompositeMasked")
    (edit,) = (key for key, node in graph.items() if node["class_type"] == kept)
    clip = next(key for key, node in graph.items() if node["class_type"] == "GetVideoComponents")
    masks = (key for key, node in graph.items() if node["class_type"] == "ReScoreGrowFeatherMask")
    mask = next(masks, None) or graph[edit]["inputs"]["mask"][0]
    result = run_workflow(
        graph,
        out=tmp_path,
        inputs=[WORKFLOWS / "input"],
        overrides=with_few_steps(graph),
        keep=[edit, clip, mask],
    )
    made, source, white = (result.values[key][0] for key in (edit, clip, mask))
    outside = white == 0
    assert 0.2 < float(outside.float().mean()) < 1
    assert bool((made == source)[outside].all())
    assert not bool((made == source)[~outside].all())


def write_footage(file: Path, *, frames: int, width: int, height: int, rate: int) -> None:
    """A clip with moving noise and sound, as a camera would give it."""
    generator = np.random.default_rng(7)
    with av.open(str(file), "w") as container:
        video = container.add_stream("h264", rate=rate)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=44100, layout="mono")
        for index in range(frames):
            pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode())
        tone = np.sin(np.arange(44100 * frames // rate) / 20).astype(np.float32)[None]
        sound = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 44100, 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode())


def test_footage_keeps_its_size_frames_rate_sound_and_background(tmp_path, monkeypatch):
    """The shipped graph on a camera-like clip and a model from the user's folders."""
    footage = tmp_path / "in"
    footage.mkdir()
    write_footage(footage / "street.mp4", frames=16, width=46, height=34, rate=30)
    mask = [[0] * 23 for _ in range(17)]
    for row in mask[4:9]:
        row[6:14] = [255] * 8
    write_mask(footage / "mask.mp4", mask, frames=16)
    write_tiny_t2v(tmp_path / "models" / "diffusers" / "t2v")
    monkeypatch.setenv("RESCORE_MODELS", str(tmp_path / "models"))

    graph = json.loads((WORKFLOWS / "api" / "delta_denoising.json").read_text("utf-8"))
    for node in graph.values():
        if node["class_type"] == "ReScoreLoadShapeWorldModel":
            node |= {
                "class_type": "ReScoreLoadVideoModel",
                "inputs": {"folder": "t2v", "precision": "auto"},
            }
    files = iter(("street.mp4", "mask.mp4"))
    for node in graph.values():
        if node["class_type"] == "LoadVideo":
            node["inputs"]["file"] = next(files)
    result = run_workflow(
        graph,
        out=tmp_path / "out",
        inputs=[footage],
        overrides=with_few_steps(graph),
        keep=["ReScoreVideoVAEEncode", "ReScoreScoreDistillation"],
    )
    (video,) = (path for path in result.saved if path.suffix == ".mp4")
    assert probe(video) == (46, 34, 16, Fraction(30), True)

    source = result.values["ReScoreVideoVAEEncode"][0]["samples"]
    edited = result.values["ReScoreScoreDistillation"][0]["samples"]
    changed = (source != edited).any(1)
    # The mask covers rows 8 to 17 and columns 12 to 27 of the clip; two pixels a latent pixel.
    inside = changed[:, 4:9, 6:14]
    assert inside.all()
    assert changed.sum() == inside.sum()


def write_mask(file: Path, mask: list[list[int]], *, frames: int) -> None:
    """A still mask as a video without loss."""
    pixels = np.array(mask, dtype=np.uint8)[..., None].repeat(3, axis=-1)
    with av.open(str(file), "w") as container:
        video = container.add_stream("libx264rgb", rate=30, options={"crf": "0"})
        video.height, video.width = pixels.shape[:2]
        video.pix_fmt = "rgb24"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode())
