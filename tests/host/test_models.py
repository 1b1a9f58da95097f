"""Models in the user's own folders: the loaders offer them, and a shipped graph runs with each."""

import json
from pathlib import Path

import pytest
from rescore.tests.host.comfyui import PromptRejected
from tiny_models import write_tiny_adapter, write_tiny_sd, write_tiny_t2v

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
VIDEO = {"class_type": "ReScoreLoadVideoModel", "inputs": {"folder": "tiny-t2v"}}
IMAGE = {"class_type": "ReScoreLoadImageModel", "inputs": {"model": "tiny-sd"}}
MOTION = {"class_type": "ReScoreLoadAnimateDiffModel", "inputs": {"motion_module": "tiny-motion"}}


@pytest.fixture(scope="module")
def models(comfyui):
    """One tiny model of each layout, in the folders where a user would put it."""
    write_tiny_t2v(comfyui.models / "diffusers" / "tiny-t2v")
    write_tiny_sd(comfyui.models / "diffusers" / "tiny-sd")
    adapter = comfyui.models / "animatediff_models" / "tiny-motion"
    write_tiny_adapter(adapter, motion_max_seq_length=16)


def complete(comfyui, node: dict) -> dict:
    """A node with the default of every widget that it does not set itself."""
    info = comfyui.get(f"/object_info/{node['class_type']}")[node["class_type"]]
    defaults = {
        name: spec[1]["default"]
        for section in info["input"].values()
        for name, spec in section.items()
        if "default" in (spec[1] if len(spec) > 1 else {})
    }
    return {"class_type": node["class_type"], "inputs": {**defaults, **node["inputs"]}}


def with_model(comfyui, *loaders: dict) -> dict:
    """The shipped delta denoising graph, two steps long, with other loaders in place of its own.

    Of several loaders each takes the model of the one before it.
    """
    text = (ROOT / "workflows" / "api" / "delta_denoising.json").read_text(encoding="utf-8")
    workflow = json.loads(text)
    own = next(
        key for key, n in workflow.items() if n["class_type"] == "ReScoreLoadShapeWorldModel"
    )
    del workflow[own]
    last = None
    for number, loader in enumerate(loaders):
        key, node = f"model {number}", complete(comfyui, loader)
        if last is not None:
            node["inputs"]["image_model"] = [last, 0]
        workflow[key], last = node, key
    for node in workflow.values():
        if node["inputs"].get("model") == [own, 0]:
            node["inputs"]["model"] = [last, 0]
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
    return workflow


@pytest.mark.parametrize("loader", [VIDEO, IMAGE, MOTION], ids=lambda node: node["class_type"])
def test_a_loader_offers_the_models_that_are_there(comfyui, models, loader):
    info = comfyui.get(f"/object_info/{loader['class_type']}")[loader["class_type"]]
    ((name, chosen),) = loader["inputs"].items()
    assert chosen in info["input"]["required"][name][0]


@pytest.mark.parametrize(
    "loaders",
    [(VIDEO,), (IMAGE,), (IMAGE, MOTION)],
    ids=["text to video", "image", "image with motion"],
)
def test_a_graph_runs_with_a_model_of_the_users(comfyui, models, loaders):
    run = comfyui.run(with_model(comfyui, *loaders))
    assert {file.suffix for ui in run.outputs.values() for file in comfyui.files(ui)} == {
        ".mp4",
        ".png",
    }
    assert all(file.stat().st_size for ui in run.outputs.values() for file in comfyui.files(ui))


def test_a_model_that_has_gone_is_refused_by_name(comfyui, models):
    workflow = with_model(comfyui, {**VIDEO, "inputs": {"folder": "gone"}})
    with pytest.raises(PromptRejected, match="'gone' not in"):
        comfyui.post_prompt(workflow)
