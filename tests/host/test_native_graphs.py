"""ComfyUI's own model under ReScore's loop: progress, previews and Cancel are the host's."""

import pytest
from rescore.tests.host.conftest import skip_if_too_old
from rescore.tests.host.test_host import of_type, prompt, saved

pytestmark = pytest.mark.host


# The graph, and the node of it in which the loop runs.
LOOPS = {
    "wan_edit_native": "ReScoreScoreDistillation",
    "wan_edit_sampler": "SamplerCustomAdvanced",
}


def with_steps(comfyui, name: str, steps: int) -> tuple[dict, str]:
    """A shipped graph with so many steps, and the id of the node that runs them."""
    workflow = prompt(name)
    skip_if_too_old(comfyui, workflow)
    for node in workflow.values():
        if node["class_type"].startswith("ReScore") and "steps" in node["inputs"]:
            node["inputs"]["steps"] = steps
    (loop,) = of_type(workflow, LOOPS[name])
    return workflow, loop


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_reports_its_steps_and_shows_the_hosts_previews(comfyui, name):
    workflow, loop = with_steps(comfyui, name, 3)
    run = comfyui.run(workflow, preview_method="auto")
    values = [value for node, value, total in run.progress if node == loop and total == 3]
    assert values[-1] == 3 and values == sorted(values)
    assert run.previews >= 1


@pytest.mark.parametrize("name", LOOPS)
def test_cancel_stops_a_loop_at_once_and_the_same_model_runs_again(comfyui, name):
    workflow, loop = with_steps(comfyui, name, 10000)
    assert comfyui.run_cancelled(workflow, loop, 2) < 20
    workflow, _ = with_steps(comfyui, name, 1)
    assert saved(comfyui, workflow, comfyui.run(workflow))
