"""A host that runs the shipped graphs again and again does not grow."""

import json
from pathlib import Path

import pytest
from rescore.tests.host.conftest import skip_if_too_old

pytestmark = pytest.mark.host

PROMPTS = Path(__file__).resolve().parents[2] / "workflows" / "api"
GRAPHS = sorted(path.stem for path in PROMPTS.glob("*.json"))
# Between them they have every loop with gradients: keys and checkpoints, null-text with guidance,
# and tuning. With --every-graph all run, and ten times.
LOOPS = {"dreammotion", "ei2", "native_dreammotion", "videodirector"}
RUNS, SETTLED = 6, 3  # runs, and after how many the host has loaded all that it keeps
FEW = {"steps": 2, "inner_steps": 1, "timesteps": 1}
SLACK = 24 * 2**20  # by which the same work may take more or less, in bytes


def brief(name: str, seed: int) -> dict:
    """A shipped workflow with few steps, which runs from the encoded clip on for another seed."""
    workflow = json.loads((PROMPTS / f"{name}.json").read_text(encoding="utf-8"))
    settings = {**FEW, "seed": seed, "checkpointing": True}
    for node in workflow.values():
        node.pop("_meta", None)
        node["inputs"] |= {k: v for k, v in settings.items() if k in node["inputs"]}
    return workflow


def require_level(after: list[int]) -> None:
    """Fail unless the later runs left a host no larger than the first ones, in bytes."""
    in_mib = [round(size / 2**20) for size in after]
    assert max(after[SETTLED:]) < max(after[:SETTLED]) + SLACK, f"MiB after each run: {in_mib}"


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_runs_again_takes_no_more_memory(comfyui, request, name):
    every = request.config.getoption("--every-graph")
    if name not in LOOPS and not every:
        pytest.skip("runs with --every-graph")
    skip_if_too_old(comfyui, brief(name, 0))
    after = []
    for seed in range(10 if every else RUNS):
        assert comfyui.run(brief(name, seed)).executed
        after.append(comfyui.resident())
    require_level(after)


def test_a_loop_that_is_cancelled_again_takes_no_more_memory(comfyui):
    after = []
    for seed in range(RUNS):
        workflow = brief("dreammotion", seed)
        (loop,) = (k for k, n in workflow.items() if n["class_type"] == "ReScoreScoreDistillation")
        workflow[loop]["inputs"]["steps"] = 500
        comfyui.run_cancelled(workflow, loop, 1)
        after.append(comfyui.resident())
    require_level(after)
