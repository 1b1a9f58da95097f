"""ComfyUI's own model under ReScore's loop: progress, previews and Cancel are the host's."""

import pytest
import torch
from rescore.tests.host.conftest import skip_if_too_old
from rescore.tests.host.test_host import frames, of_type, prompt, saved
from safetensors.torch import save_file

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
        if node["class_type"] == "BasicScheduler":  # in falling order a step needs a sigma
            node["inputs"]["steps"] = max(40, steps)
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
    workflow, loop = with_steps(comfyui, name, 600)
    assert comfyui.run_cancelled(workflow, loop, 2) < 20
    workflow, _ = with_steps(comfyui, name, 1)
    assert saved(comfyui, workflow, comfyui.run(workflow))


def test_frames_that_the_vae_does_not_take_are_told_on_the_node(comfyui):
    workflow, _ = with_steps(comfyui, "wan_edit_native", 1)
    (encode,) = of_type(workflow, "ReScoreVideoVAEEncode")
    workflow[encode]["inputs"]["frames_per_chunk"] = 5  # so that it is not taken from the cache
    assert "8 frames: this VAE takes 1 + 4 n" in comfyui.run(workflow).texts[encode]


LAYER = "diffusion_model.blocks.0.self_attn.q"  # of 128 x 128


def test_a_lora_on_one_branch_of_a_graph_leaves_the_other_as_it_is(comfyui):
    """One MODEL is edited with and without a LoRA in one prompt, and alone before and after."""
    weights = torch.randn(2, 128, 4, generator=torch.Generator().manual_seed(0))
    lora = {f"{LAYER}.lora_up.weight": weights[0], f"{LAYER}.lora_down.weight": weights[1].mT}
    (comfyui.models / "loras").mkdir(parents=True, exist_ok=True)
    save_file(
        {name: weight.contiguous() for name, weight in lora.items()},
        comfyui.models / "loras" / "branch.safetensors",
    )

    def branch(end: str, checkpointing: bool, lora: bool) -> dict:
        """The graph with other ids, so that several fit into one prompt."""
        workflow, loop = with_steps(comfyui, "wan_edit_native", 2)
        # Changes nothing without a term that compares keys; but the host does not know.
        workflow[loop]["inputs"]["checkpointing"] = checkpointing
        (loader,), (taker,) = (
            of_type(workflow, "UNETLoader"),
            of_type(workflow, "ReScoreNativeModel"),
        )
        if lora:
            named = {"lora_name": "branch.safetensors", "strength_model": 1.0}
            inputs = {"model": [loader, 0], **named}
            workflow["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
            workflow[taker]["inputs"]["model"] = ["lora", 0]
        shared = {loader}
        ids = {key: key if key in shared else key + end for key in workflow}
        return {
            ids[key]: node
            | {
                "inputs": {
                    name: [ids[value[0]], value[1]] if isinstance(value, list) else value
                    for name, value in node["inputs"].items()
                }
            }
            for key, node in workflow.items()
        }

    def made(*branches: dict) -> list:
        workflow = {key: node for part in branches for key, node in part.items()}
        run = comfyui.run(workflow)
        return [frames(saved(comfyui, part, run)[0]) for part in branches]

    (before,) = made(branch("", True, False))
    plain, changed = made(branch("a", False, False), branch("b", False, True))
    (after,) = made(branch("c", True, False))
    assert (before == plain).all() and (before == after).all()
    assert (changed != plain).any()
