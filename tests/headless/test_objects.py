"""An object is removed and one is added by the shipped graphs, held against the exact truth."""

from pathlib import Path

import pytest
import torch
from rescore.headless.runner import run_workflow
from rescore.headless.workflow import read_workflow
from rescore.shapeworld.edits import second_object
from rescore.shapeworld.score import psnr
from rescore.shapeworld.showcase import TWO_OBJECTS

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


@pytest.mark.parametrize(("name", "gain"), [("remove_object", 15), ("add_object", 4)])
def test_the_clip_comes_nearer_to_the_truth_and_stays_itself_elsewhere(name, gain, tmp_path):
    graph = read_workflow(WORKFLOWS / "api" / f"{name}.json")
    clip = next(key for key, node in graph.items() if node["class_type"] == "GetVideoComponents")
    edit = next(key for key, node in graph.items() if node["class_type"] == "ReScoreEditedVideo")
    grown = next(
        key for key, node in graph.items() if node["class_type"] == "ReScoreGrowFeatherMask"
    )
    result = run_workflow(
        graph, out=tmp_path, inputs=[WORKFLOWS / "input"], keep=[clip, edit, grown]
    )
    source, made, mask = result.values[clip][0], result.values[edit][1], result.values[grown][0]
    both = second_object(TWO_OBJECTS)
    truth = both.absent if name == "remove_object" else both.present
    before, after = (psnr(images, truth.clip, both.change) for images in (source, made))
    assert after > before + gain
    assert torch.equal(made[mask == 0], source[mask == 0])
