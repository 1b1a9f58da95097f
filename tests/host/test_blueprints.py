"""The blueprints of `subgraphs/`: the host lists them by itself, and what is inside runs."""

import json
from pathlib import Path

import pytest
from rescore.headless.video_read import read_video
from rescore.tests.host.comfyui import PromptRejected
from rescore.tests.host.conftest import skip_if_too_old
from rescore.tests.host.graph import as_prompt, problems
from rescore.tests.host.test_host import frames, rate
from rescore.tests.host.test_video import odd

pytestmark = pytest.mark.host

FOLDER = Path(__file__).resolve().parents[2] / "subgraphs"
BLUEPRINTS = sorted(file.stem for file in FOLDER.glob("*.json"))
TINY = "Edit Video (shape world, ReScore)"
NATIVE = (TINY, "Edit Video (Wan 2.1, ReScore)")  # on ComfyUI's own models, loaded inside
MODELS = {  # the tiny model that each of the others is tried with
    "ASSD": "shapeworld-t2v",
    "DreamMotion": "shapeworld-t2v",
    "EI2": "shapeworld-sd",
    "Tune-A-Video": "shapeworld-sd",
    "VideoDirector": "shapeworld-animatediff",
    "delta denoising": "shapeworld-t2v",
    "flow-enhanced": "shapeworld-t2v",
}
SAM3 = "Mask from Words (SAM 3, ReScore)"
EDITS = [name for name in BLUEPRINTS if name != SAM3]
DOORS = (-10, -20)


def whole(name: str) -> dict:
    """What a blueprint is inside."""
    file = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    (one,), (inside,) = file["nodes"], file["definitions"]["subgraphs"]
    assert one["type"] == inside["id"]
    return inside


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_the_host_lists_a_blueprint_and_serves_it(comfyui, name):
    listed = comfyui.get("/global_subgraphs")
    (key,) = (key for key, entry in listed.items() if entry["name"] == name)
    assert listed[key]["source"] == "custom_node"
    data = json.loads(comfyui.get(f"/global_subgraphs/{key}")["data"])
    assert data["definitions"]["subgraphs"][0] == whole(name)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_opens_without_a_missing_node_or_a_changed_widget(object_info, name):
    if name == SAM3 and "SAM3_VideoTrack" not in object_info:
        pytest.skip("this ComfyUI has no SAM 3")
    found = problems(whole(name), object_info)
    # Its ends are no nodes, and the files of a real model lie in no test.
    own = ("joins a node that is not there", "is not among")
    assert [trouble for trouble in found if not any(words in trouble for words in own)] == []
    ends = [trouble for trouble in found if own[0] in trouble]
    links = whole(name)["links"]
    assert len(ends) == sum(DOORS[0] == k["origin_id"] or DOORS[1] == k["target_id"] for k in links)


@pytest.mark.parametrize("name", EDITS)
def test_the_ends_of_a_blueprint_are_wired(name):
    inside = whole(name)
    model = [] if name in NATIVE else [("model", "RESCORE_MODEL")]
    assert [(end["name"], end["type"]) for end in inside["inputs"]] == [
        ("video", "VIDEO"),
        *model,
        ("what it shows", "STRING"),
        ("what it should show", "STRING"),
        ("strength", "FLOAT"),
        ("mask", "MASK"),
    ]
    assert [(end["name"], end["type"]) for end in inside["outputs"]] == [("video", "VIDEO")]
    links = {link["id"]: link for link in inside["links"]}
    for door, side, ends in (
        (-10, "origin", inside["inputs"]),
        (-20, "target", inside["outputs"]),
    ):
        for slot, end in enumerate(ends):
            assert end["linkIds"]
            for number in end["linkIds"]:
                link = links[number]
                assert (link[f"{side}_id"], link[f"{side}_slot"]) == (door, slot)
                assert link["type"] == end["type"]


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_starts_inside_with_what_it_shows(name):
    """Some front ends show what the widgets inside hold: an empty text there is shown empty."""
    (outside,) = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))["nodes"]
    inside = whole(name)
    nodes = {node["id"]: node for node in inside["nodes"]}
    shown = [end["name"] for end in inside["inputs"] if end["type"] in ("STRING", "FLOAT")]
    for link in inside["links"]:
        end = inside["inputs"][link["origin_slot"]]["name"] if link["origin_id"] == -10 else ""
        if end in shown:
            start = outside["widgets_values"][shown.index(end)]
            assert start and start in nodes[link["target_id"]]["widgets_values"], end


def prompt_of(inside: dict, object_info: dict, given: list) -> tuple[dict, list]:
    """The prompt of what is inside with these inputs, None being not wired; and its output."""
    nodes = {key: node for key, node in as_prompt(inside, object_info).items()}
    for node in nodes.values():
        for name, value in list(node["inputs"].items()):
            if isinstance(value, list) and value[0] == "-10":
                node["inputs"][name] = given[value[1]]
                if given[value[1]] is None:
                    del node["inputs"][name]
    (out,) = (link for link in inside["links"] if link["target_id"] == -20)
    return nodes, [str(out["origin_id"]), out["origin_slot"]]


def test_the_host_takes_the_wires_of_sam_3_and_misses_only_its_file(comfyui, object_info):
    """Its weights are gigabytes: what a host checks before a run is all that is tried here."""
    if "SAM3_VideoTrack" not in object_info:
        pytest.skip("this ComfyUI has no SAM 3")
    nodes, mask = prompt_of(whole(SAM3), object_info, [["in", 0], "the red circle"])
    nodes |= {
        "in": {"class_type": "LoadVideo", "inputs": {"file": "red_circle.mp4"}},
        "shown": {"class_type": "MaskPreview", "inputs": {"mask": mask}},
    }
    with pytest.raises(PromptRejected) as refused:
        comfyui.run(nodes)
    told = str(refused.value)
    assert "value_not_in_list" in told and "ckpt_name" in told
    assert "return_type_mismatch" not in told and "required_input_missing" not in told


def test_every_blueprint_is_tried():
    assert sorted(EDITS) == sorted([*NATIVE, *(f"Edit Video ({m}, ReScore)" for m in MODELS)])


@pytest.mark.parametrize(
    ("method", "masked", "file"),
    [("shape world", False, "odd_red_circle.mp4"), ("shape world", True, "red_circle.mp4"),
     ("VideoDirector", True, "red_circle.mp4"), ("DreamMotion", True, "odd_red_circle.mp4"),
     *((method, False, "odd_red_circle.mp4") for method in MODELS)],
)  # fmt: skip
def test_a_video_is_edited_and_keeps_its_size_length_rate_and_sound(
    comfyui, object_info, method, masked, file
):
    odd(comfyui, "red_circle.mp4")
    mask = ["mask", 0] if masked else None
    given = [["in", 0], "a red circle", "a blue circle", 0.5, mask]
    if method in MODELS:
        given.insert(1, ["model", 0])
    nodes, made = prompt_of(whole(f"Edit Video ({method}, ReScore)"), object_info, given)
    skip_if_too_old(comfyui, nodes)
    for node in nodes.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
    nodes |= {
        "in": {"class_type": "LoadVideo", "inputs": {"file": file}},
        "out": {
            "class_type": "SaveVideo",
            "inputs": {"video": made, "filename_prefix": "b", "format": "auto", "codec": "auto"},
        },
        "model": {
            "class_type": "ReScoreLoadShapeWorldModel",
            "inputs": {"model": MODELS.get(method, "shapeworld-t2v")},
        },
        "painted": {"class_type": "LoadVideo", "inputs": {"file": "red_circle_mask.mp4"}},
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["painted", 0]}},
        "mask": {
            "class_type": "ImageToMask",
            "inputs": {"image": ["parts", 0], "channel": "red"},
        },
    }
    run = comfyui.run(nodes)
    (video,) = comfyui.files(run.outputs["out"])
    source = comfyui.input / file
    assert frames(video).shape == frames(source).shape
    assert rate(video) == rate(source)
    made, given = read_video(video).audio, read_video(source).audio
    assert (made is None) == (given is None)
