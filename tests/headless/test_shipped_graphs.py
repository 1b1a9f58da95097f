"""The graphs that come with the pack run headless as they are, and edit any clip with any model."""

import json
import math
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import rescore
from rescore.headless.runner import run_workflow
from rescore.headless.video import VideoComponents
from rescore.headless.video_write import encode_mp4
from rescore.headless.workflow import read_workflow
from rescore.nodes.masks import BoxMask
from rescore.nodes.strength import of_random_levels
from rescore.shapeworld.render import render
from rescore.shapeworld.showcase import SHOWCASE
from rescore.workflows.host_nodes import needs_host
from tiny_models import write_tiny_t2v
from torch.nn import functional

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
API = sorted((WORKFLOWS / "api").glob("*.json"))
GRAPHS = [file for file in API if not needs_host(json.loads(file.read_text("utf-8")))]


def with_few_steps(graph: dict) -> dict[str, int]:
    """Overrides that keep every loop of a graph short."""
    return {
        f"{number}.{name}": 2
        for number, node in graph.items()
        for name in ("steps", "inner_steps", "image_steps")
        if isinstance(node["inputs"].get(name), int)
    }


# Widgets that ship with another value than their node begins with and keep it for a real model.
METHODS = {  # what makes a graph the method it is
    "ReScoreDeltaDenoising": {"weighting", "eta", "eta_rises"},
    "ReScoreSpatialSelfSimilarity": {"weight"},
    "ReScoreScoreDistillation": {"order", "guidance", "draws", "t_min"},
    "ReScoreDistillationSampler": {"order"},
    "ReScoreAttentionControlledSampling": {
        "layout_control", "background_control", "prompt_control"
    },
    "ReScoreInflateImageModel": {"variant"},
    "ReScoreOneShotTune": {"preview_describe"},  # as the graph's own inversion
}  # fmt: skip
OF_THE_CLIP = {
    "ReScoreBoxMask": {
        "left", "top", "right", "bottom", "moves", "end_left", "end_top", "end_right", "end_bottom"
    },
}  # fmt: skip
OF_THE_MODEL = {"ReScoreLoadShapeWorldModel": {"model"}}


def of_the_loop(name: str) -> set[str]:
    """A graph's step size that the authors use or that goes the whole way; its range of noise."""
    if name in ("assd", "flow_enhanced", "mixed_terms"):
        return {"step_size"}
    on_wan = "wan" in name or "native" in name or name in ("remove_object", "add_object")
    return {"step_size", "cfg", "t_max"} if on_wan else set()


def notes_and_switches(file: Path) -> tuple[str, list[dict]]:
    """Of a shipped graph: its note, and what its switch sets."""
    nodes = json.loads((WORKFLOWS / file.name).read_text("utf-8"))["nodes"]
    (note,) = (node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote")
    switches = [node for node in nodes if node["type"] == "ReScoreTinyOrReal"]
    return note, [entry for node in switches for entry in node["properties"]["settings"]]


@pytest.mark.parametrize("file", API, ids=lambda file: file.stem)
def test_the_switch_changes_every_widget_that_a_real_model_wants_otherwise(file):
    """Those that differ from what their node begins with, but for the ones listed above."""
    _, settings = notes_and_switches(file)
    switched = {(entry["title"], name) for entry in settings for name in entry["widgets"]}
    assert switched, "every graph ships with a tiny model"
    for node in json.loads(file.read_text("utf-8")).values():
        kind, title = node["class_type"], node["_meta"]["title"]
        if kind not in rescore.NODE_CLASS_MAPPINGS:
            continue
        loop = of_the_loop(file.stem) if "Distillation" in kind else set()
        stays = loop.union(*(kept.get(kind, ()) for kept in (METHODS, OF_THE_CLIP, OF_THE_MODEL)))
        for section in rescore.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES().values():
            for name, (choices, options) in section.items():
                shipped = node["inputs"].get(name)
                known = choices != "STRING" and "default" in options and shipped is not None
                if known and not isinstance(shipped, list) and shipped != options["default"]:
                    assert (title, name) in switched or name in stays, (title, name, shipped)


@pytest.mark.parametrize("file", API, ids=lambda file: file.stem)
def test_the_note_names_what_the_switch_sets_and_the_switch_knows_what_has_shipped(file):
    note, settings = notes_and_switches(file)
    nodes = json.loads(file.read_text("utf-8")).values()
    for entry in settings:
        (line,) = re.findall(rf"(?m)^- \*{re.escape(entry['title'])}\*: (.*)$", note)
        named = dict(re.findall(r"`(\w+)` ([^,]+)", line))
        assert named.keys() == entry["widgets"].keys()
        for name, (tiny, real) in entry["widgets"].items():
            said = {"on": 1, "off": 0}.get(named[name], named[name])
            assert said == real if isinstance(real, str) else float(said) == float(real)
            alike = [node for node in nodes if node["_meta"]["title"] == entry["title"]]
            assert {node["class_type"] for node in alike} == {entry["node"]}
            assert [node["inputs"][name] for node in alike] == [tiny] * len(alike) != []
    assert note.count("\n- *") == len(settings)


def widgets(file: Path, side: int) -> dict[str, dict]:
    """By the class of a node, its widgets for the tiny model (side 0) or a real one (1)."""
    _, settings = notes_and_switches(file)
    nodes = json.loads(file.read_text("utf-8")).values()
    found = {node["class_type"]: dict(node["inputs"]) for node in nodes}
    for entry in settings:
        found[entry["node"]] |= {name: pair[side] for name, pair in entry["widgets"].items()}
    return found


@pytest.mark.parametrize("side", [0, 1], ids=["tiny", "real"])
@pytest.mark.parametrize("name", ["ei2", "tune_a_video"])
def test_previews_of_tuning_are_made_as_the_graph_edits(name, side):
    nodes = widgets(WORKFLOWS / "api" / f"{name}.json", side)
    tuning = nodes["ReScoreOneShotTune"]
    assert tuning["preview_cfg"] == nodes["ReScoreAttentionControlledSampling"]["cfg"]
    # The inversion of a preview has the source prompt, as at cfg 1, or none, as at 0.
    assert tuning["preview_describe"] == nodes["ReScoreDDIMInversion"]["cfg"]


@pytest.mark.parametrize("side", [0, 1], ids=["tiny", "real"])
@pytest.mark.parametrize("name", ["dreammotion", "dreammotion_cascade"])
def test_a_step_of_temporal_self_similarity_is_as_long_as_its_help_says_it_may_be(name, side):
    nodes = widgets(WORKFLOWS / "api" / f"{name}.json", side)
    weight = nodes["ReScoreTemporalSelfSimilarity"]["weight"]
    assert 30 <= weight * nodes["ReScoreScoreDistillation"]["step_size"] <= 300


def test_so_it_is_as_the_nodes_begin():
    """As the graphs have it for a real model; the tiny one's step is as long."""
    tiny, real = (widgets(WORKFLOWS / "api" / "dreammotion.json", side) for side in (0, 1))
    step = {"ReScoreTemporalSelfSimilarity": "weight", "ReScoreScoreDistillation": "step_size"}
    for node, name in step.items():
        inputs = rescore.NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["required"]
        assert real[node][name] == inputs[name][1]["default"]
    lengths = [math.prod(side[node][name] for node, name in step.items()) for side in (tiny, real)]
    assert lengths[0] == pytest.approx(lengths[1])
    weight = real["ReScoreTemporalSelfSimilarity"]["weight"]
    for strength in (0.25, 0.5, 1.0):
        assert 30 <= weight * of_random_levels(strength)[2] <= 300


@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_so_it_is_in_the_blueprint_at_every_strength(strength):
    file = WORKFLOWS.parent / "subgraphs" / "Edit Video (DreamMotion, ReScore).json"
    (whole,) = json.loads(file.read_text("utf-8"))["definitions"]["subgraphs"]
    (term,) = (n for n in whole["nodes"] if n["type"] == "ReScoreTemporalSelfSimilarity")
    weight = term["widgets_values"][0]
    assert 30 <= weight * of_random_levels(strength)[2] <= 300


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
    saved, slot = graph[numbers["ReScoreEditedVideo"]]["inputs"]["images"]

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


@pytest.mark.parametrize(
    "file",
    [file for kind in ("wan", "native") for file in sorted(WORKFLOWS.glob(f"{kind}*.json"))],
    ids=lambda file: file.stem,
)
def test_a_graph_on_wan_names_every_file_that_a_real_one_needs(file):
    """Transformer, VAE and text encoder; of diffusers, the folder that holds all three."""
    nodes = json.loads(file.read_text("utf-8"))["nodes"]
    named = [model for node in nodes for model in node["properties"].get("models", ())]
    for model in named:
        assert model.keys() == {"name", "url", "directory"}
        assert model["url"].startswith("https://huggingface.co/") and model["name"] in model["url"]
    native = any(node["type"] == "UNETLoader" for node in nodes)
    wanted = {"diffusion_models", "vae", "text_encoders"} if native else {"diffusers"}
    assert {model["directory"] for model in named} == wanted


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


@pytest.mark.parametrize("file", sorted((WORKFLOWS / "api").glob("*.json")), ids=lambda f: f.stem)
def test_a_graph_ends_in_a_video_of_ours(file):
    """The host's Create Video refuses odd sizes after the whole edit, and knows one rate only."""
    graph = json.loads(file.read_text("utf-8"))
    kinds = {key: node["class_type"] for key, node in graph.items()}
    saved = [
        node["inputs"]["video"][0] for node in graph.values() if node["class_type"] == "SaveVideo"
    ]
    assert saved and "CreateVideo" not in kinds.values()
    assert all(kinds[key].startswith("ReScoreEdit") for key in saved)


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
    (edit,) = (key for key, node in graph.items() if node["class_type"] == "ReScoreEditedVideo")
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
    made = result.values[edit][1]
    source, white = (result.values[key][0] for key in (clip, mask))
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


# A cascade wants clips of certain sizes and lengths, as its own note says.
MASKED = [
    file
    for file in GRAPHS
    if "_mask.mp4" in file.read_text("utf-8") and file.stem != "dreammotion_cascade"
]


@pytest.mark.parametrize("file", MASKED, ids=lambda file: file.stem)
def test_another_clip_is_edited_with_a_box_for_a_mask_as_the_note_says(file, tmp_path):
    assert "*Box Mask*, which follows the clip's length and size" in notes_and_switches(file)[0]
    scene = replace(SHOWCASE["red_circle"].source, frames=13)
    pictures = functional.interpolate(render(scene).clip.permute(0, 3, 1, 2), (34, 46))
    clip = VideoComponents(pictures.permute(0, 2, 3, 1).contiguous(), Fraction(30))
    (tmp_path / "other.mp4").write_bytes(encode_mp4(clip))
    graph = read_workflow(file)
    titles = {node["_meta"]["title"]: key for key, node in graph.items()}
    graph[titles["Clip to edit"]]["inputs"]["file"] = "other.mp4"
    graph[titles["ThresholdMask"]] |= {
        "class_type": "ReScoreBoxMask",
        "inputs": {
            name: options["default"] for name, (_, options) in BoxMask.REQUIRED.items()
            if "default" in options
        } | {"images": [titles["Frames"], 0]},
    }  # fmt: skip
    result = run_workflow(
        graph, out=tmp_path / "out", inputs=[tmp_path], overrides=with_few_steps(graph)
    )
    for video in (path for path in result.saved if path.suffix == ".mp4"):
        assert probe(video) == (46, 34, 13, Fraction(30), False)


@pytest.mark.parametrize("name", ["delta_denoising", "dreammotion"])
def test_a_black_mask_is_explained_once(name, tmp_path, caplog):
    """By the loop; the nodes that take the mask say in a few words what it does there."""
    write_mask(tmp_path / "red_circle_mask.mp4", [[0] * 32 for _ in range(32)], frames=8)
    graph = read_workflow(WORKFLOWS / "api" / f"{name}.json")
    folders = [tmp_path, WORKFLOWS / "input"]
    run_workflow(graph, out=tmp_path, inputs=folders, overrides=with_few_steps(graph))
    told = [line for line in caplog.messages if "black everywhere" in line]
    assert len(told) == 2 and sum("Load Image gives a black mask" in line for line in told) == 1


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
