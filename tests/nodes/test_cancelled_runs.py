"""Graphs that are stopped in the middle, changed in one thing, and run again, as in the host.

The second run must give, bit for bit, what a fresh host gives for the changed graph. Where a node
goes on from what it has kept, it says so, and that holds all the same.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import rescore
import torch
from rescore.nodes import host
from rescore.nodes.sockets import LOSSES, NULL_TEXT, TUNING
from rescore.pipelines.fingerprint import fingerprint
from safetensors.torch import load_file, save_file
from tiny_models import write_tiny_adapter, write_tiny_sd
from torch import nn

COMPARED = {"IMAGE", "MASK", "LATENT", LOSSES, NULL_TEXT, TUNING}


class Cancelled(Exception):
    pass


class Failed(Exception):
    pass


@dataclass(frozen=True)
class Link:
    """An output of another node."""

    node: str
    output: int = 0


Graph = dict[str, tuple[str, dict[str, Any]]]  # by name: the node's id and its inputs


@dataclass
class Host:
    """Runs graphs as ComfyUI does: what is unchanged is not run again, and nodes are objects."""

    objects: dict[tuple[str, str], Any] = field(default_factory=dict)
    outputs: dict[str, tuple[str, tuple]] = field(default_factory=dict)
    running: str = ""

    @torch.inference_mode()
    def queue(self, graph: Graph) -> dict[str, tuple]:
        """The outputs of all nodes; each stands behind those that it is linked to."""
        signed: dict[str, str] = {}
        for name, (node_id, given) in graph.items():
            cls = rescore.NODE_CLASS_MAPPINGS[node_id]
            literal = {k: v for k, v in given.items() if not isinstance(v, Link)}
            changed = cls.IS_CHANGED(**literal) if hasattr(cls, "IS_CHANGED") else None
            before = {
                k: (signed[v.node], v.output) for k, v in given.items() if isinstance(v, Link)
            }
            signed[name] = fingerprint(node_id, literal, before, changed)
            if self.outputs.get(name, ("",))[0] == signed[name]:
                continue
            self.outputs.pop(name, None)
            inputs = {
                k: self.outputs[v.node][1][v.output] if isinstance(v, Link) else v
                for k, v in {**defaults(cls), **given}.items()
            }
            node = self.objects.setdefault((name, node_id), cls())
            self.running = name
            try:
                result = getattr(node, cls.FUNCTION)(**inputs)
            finally:
                self.running = ""
            self.outputs[name] = signed[name], result
        return {name: self.outputs[name][1] for name in graph}


def defaults(cls: type) -> dict[str, Any]:
    required = cls.INPUT_TYPES()["required"].items()
    return {n: o[0]["default"] for n, (_, *o) in required if o and "default" in o[0]}


def results(graph: Graph, outputs: dict[str, tuple]) -> str:
    """One name for all that a run has made."""
    made = []
    for name, (node_id, _) in graph.items():
        types = rescore.NODE_CLASS_MAPPINGS[node_id].RETURN_TYPES
        made += [v for kind, v in zip(types, outputs[name], strict=True) if kind in COMPARED]
    return fingerprint(made)


@contextmanager
def stopped(system: Host, monkeypatch, node: str, at: int, fails: bool) -> Iterator[None]:
    """Within the `with`, a node is cancelled at its `at`-th sign of life, or fails in a layer."""
    seen = 0

    def count(error: Exception) -> None:
        nonlocal seen
        seen += system.running == node
        if seen == at and system.running == node:
            raise error

    with monkeypatch.context() as patched:
        if fails:
            hook = nn.modules.module.register_module_forward_hook(
                lambda module, *_: count(Failed()) if isinstance(module, nn.GroupNorm) else None
            )
        else:
            patched.setattr(host, "check_cancelled", lambda: count(Cancelled()))
        try:
            with pytest.raises(Failed if fails else Cancelled):
                yield
        finally:
            if fails:
                hook.remove()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A models folder that may be changed."""
    write_tiny_sd(tmp_path / "diffusers" / "sd", seed=2)
    write_tiny_adapter(tmp_path / "animatediff_models" / "motion", seed=3)
    write_tiny_adapter(tmp_path / "animatediff_models" / "other", seed=5)
    monkeypatch.setenv("RESCORE_MODELS", str(tmp_path))
    return tmp_path


def pixels(frames: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(frames, 12, 14, 3, generator=torch.Generator().manual_seed(seed))


def mask(columns: int = 3) -> torch.Tensor:
    drawn = torch.zeros(1, 6, 7)
    drawn[:, 1:4, :columns] = 1
    return drawn


TEXTS = {"source_prompt": "a red circle moving right", "target_prompt": "a blue circle"}
MODEL = {
    "image": ("ReScoreLoadImageModel", {"model": "sd", "precision": "fp32"}),
    "model": (
        "ReScoreLoadAnimateDiffModel",
        {"image_model": Link("image"), "motion_module": "motion"},
    ),
}


def known(model: str) -> Graph:
    return {
        "prompts": ("ReScoreEncodePromptPair", {"model": Link(model), **TEXTS}),
        "latent": ("ReScoreVideoVAEEncode", {"model": Link(model), "images": pixels()}),
    }


def wired(model: str = "model", latent: bool = True) -> dict[str, Link]:
    links = {"model": Link(model), "prompts": Link("prompts")}
    return {**links, "latent": Link("latent")} if latent else links


INVERTED: Graph = {
    **MODEL,
    **known("model"),
    "path": ("ReScoreDDIMInversion", {**wired(), "steps": 3, "window": 2, "overlap": 1}),
}
ALONG = {**wired(latent=False), "trajectory": Link("path")}
TERMS: Graph = {
    "dds": ("ReScoreDeltaDenoising", {"weight": 0.7}),
    "confined": ("ReScoreGradientMask", {"terms": Link("dds"), "mask": mask()}),
    "terms": ("ReScoreSpatialSelfSimilarity", {"terms": Link("confined"), "weight": 200.0}),
}
GRAPHS: dict[str, Graph] = {
    # With what is made of the embeddings, too.
    "null": {
        **INVERTED,
        "guidance": ("ReScoreDecoupledGuidance", {"mask": mask(), "strength": 0.2}),
        "null": (
            "ReScoreNullTextOptimisation",
            {**ALONG, "guidance": Link("guidance"), "cfg": 3.0, "inner_steps": 2},
        ),
        "edit": (
            "ReScoreAttentionControlledSampling",
            {**ALONG, "null_text": Link("null"), "cfg": 3.0, "mask": mask()},
        ),
    },
    "tuned": {
        "image": MODEL["image"],
        **known("image"),
        "inflated": ("ReScoreInflateImageModel", {"model": Link("image")}),
        "tuned": (
            "ReScoreOneShotTune",
            {
                **wired("inflated"), "steps": 4, "learning_rate": 1e-3, "preview_every": 2,
                "preview_steps": 2,
            },
        ),
    },
    "path": {**INVERTED, "edit": ("ReScoreReconstruct", {**ALONG, "cfg": 2.0})},
    "edit": {**INVERTED, "edit": ("ReScoreAttentionControlledSampling", {**ALONG, "mask": mask()})},
    "distilled": {
        **MODEL,
        **known("model"),
        **TERMS,
        "distilled": (
            "ReScoreScoreDistillation",
            {**wired(), "terms": Link("terms"), "steps": 3, "window": 2, "overlap": 1},
        ),
    },
    "found": {
        **MODEL,
        **known("model"),
        **TERMS,
        "found": ("ReScoreMaskFromGradient", {**wired(), "terms": Link("terms"), "timesteps": 3}),
    },
    "words": {
        **MODEL,
        **known("model"),
        "words": ("ReScoreMaskFromWords", {**wired(), "words": "red circle", "timesteps": 3}),
    },
    "resampled": {
        **MODEL,
        **known("model"),
        "resampled": ("ReScoreResampleClip", {**wired(), "steps": 3, "strength": 1.0}),
    },
}  # fmt: skip


def given(node: str, **inputs: Any) -> Callable:
    """A change of a node's inputs, where the graph has that node."""

    def change(graph: Graph, folder) -> Graph:
        node_id, before = graph[node]
        return {**graph, node: (node_id, {**before, **inputs})}

    change.__name__ = f"{node} {' '.join(inputs)}"
    return change


def nothing(graph: Graph, folder) -> Graph:
    return graph


def one_weight_on_disk(graph: Graph, folder) -> Graph:
    (file,) = (folder / "diffusers" / "sd" / "unet").glob("*.safetensors")
    weights = load_file(file)
    weights["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"][5, 3] += 0.25
    save_file(weights, file, {"format": "pt"})
    return graph


def model_on_disk(graph: Graph, folder) -> Graph:
    shutil.rmtree(folder / "diffusers" / "sd")
    write_tiny_sd(folder / "diffusers" / "sd", seed=7)
    return graph


def motion_on_disk(graph: Graph, folder) -> Graph:
    shutil.rmtree(folder / "animatediff_models" / "motion")
    write_tiny_adapter(folder / "animatediff_models" / "motion", seed=8)
    return graph


def schedule_on_disk(graph: Graph, folder) -> Graph:
    file = folder / "diffusers" / "sd" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"beta_end": 0.02}), "utf-8")
    return graph


def other_order(graph: Graph, folder) -> Graph:
    terms = {
        "terms": ("ReScoreSpatialSelfSimilarity", {"weight": 200.0}),
        "dds": ("ReScoreDeltaDenoising", {"weight": 0.7, "terms": Link("terms")}),
    }
    kept = {k: v for k, v in graph.items() if k not in TERMS and k != "distilled"}
    node_id, inputs = graph["distilled"]
    return {**kept, **terms, "distilled": (node_id, {**inputs, "terms": Link("dds")})}


SHARED = [
    nothing,
    given("prompts", negative_prompt="blurred"),
    given("prompts", target_prompt="a green square"),
    given("prompts", source_prompt="a red square moving right"),
    given("latent", images=pixels(seed=1)),
    given("latent", images=pixels(2)),
    given("image", precision="bf16"),
    given("image", prediction_type="v_prediction"),
    one_weight_on_disk,
    model_on_disk,
    schedule_on_disk,
]
OF_MOTION = [motion_on_disk, given("model", motion_module="other")]
# What is not here is in test_null_text.py and test_tuning.py.
CHANGES = {
    "null": [
        *SHARED,
        *OF_MOTION,
        given("path", steps=4),
        given("path", refinements=1),
        given("path", window=3),
        given("guidance", mask=mask(5)),
        given("null", learning_rate=0.02),
        given("null", checkpointing=True),
        given("edit", mask=mask(5)),
    ],
    "tuned": [
        *(change for change in SHARED if "target" not in change.__name__),
        given("inflated", variant="tune-a-video"),
        given("inflated", seed=3),
        given("tuned", steps=3),
        given("tuned", seed=1),
    ],
    "distilled": [nothing, given("confined", mask=mask(5)), other_order],
}


@dataclass(frozen=True)
class Stop:
    """Where a node is stopped: at a call of the progress bar, or of a layer."""

    at: int
    fails: bool = False


STOPS = [Stop(2), Stop(3), Stop(100, fails=True)]
CASES = [
    pytest.param(name, stop, change, id=f"{name}-{stop.at}-{change.__name__}")
    for name, changes in CHANGES.items()
    for number, change in enumerate(changes)
    for stop in (STOPS if change is nothing else [STOPS[number % 3]])
] + [
    pytest.param(name, STOPS[number % 3], change, id=f"{name}-{change.__name__}")
    for name in sorted(GRAPHS.keys() - CHANGES.keys())
    for number, change in enumerate((SHARED[1], model_on_disk))
]


@pytest.mark.parametrize(("name", "stop", "change"), CASES)
def test_a_stopped_run_leaves_nothing_for_another(folder, monkeypatch, name, stop, change):
    system, graph = Host(), GRAPHS[name]
    with stopped(system, monkeypatch, name, stop.at, stop.fails):
        system.queue(graph)
    graph = change(graph, folder)
    assert results(graph, system.queue(graph)) == results(graph, Host().queue(graph))


def report_of(outputs: dict[str, tuple], name: str) -> str:
    return outputs[name][3 if name == "null" else 5]


# Signs of life: the bar's at the beginning and after each step, or, in tuning, after each step and
# in the previews after steps 2 and 4. The last stop comes after the last step.
STOPPED_AT = {"null": (2, 2, 2), "tuned": (3, 5, 5)}


@pytest.mark.parametrize("name", ["null", "tuned"])
def test_a_run_that_goes_on_says_so(folder, monkeypatch, caplog, name):
    """Cancelled twice, at the last step too, with other graphs in between, and models let go."""
    caplog.set_level("INFO", "rescore")
    graph, system = GRAPHS[name], Host()
    whole = Host().queue(graph)
    for at in STOPPED_AT[name]:
        caplog.clear()
        with stopped(system, monkeypatch, name, at, False):
            system.queue(graph)
        system.queue(GRAPHS["words"])
        system.outputs.clear()
    outputs = system.queue(graph)
    assert results(graph, outputs) == results(graph, whole)
    assert "run before" in report_of(outputs, name) and "goes on at step" in caplog.text
    assert "run before" not in report_of(whole, name)


@pytest.mark.parametrize("name", ["null", "tuned"])
def test_another_graph_of_the_same_nodes_takes_nothing_over(folder, monkeypatch, name):
    graph, system = GRAPHS[name], Host()
    other = given("prompts", source_prompt="a green square")(graph, folder)
    with stopped(system, monkeypatch, name, 3, False):
        system.queue(graph)
    with stopped(system, monkeypatch, name, 2, False):
        system.queue(other)
    for each in (graph, other, graph):
        assert results(each, system.queue(each)) == results(each, Host().queue(each))


@pytest.mark.parametrize("at", [2, 5, 6, 11, 12])
def test_previews_are_those_of_a_run_that_was_not_stopped(folder, monkeypatch, at):
    """Stopped at a step, in a preview, and after it."""
    graph, system = GRAPHS["tuned"], Host()
    with stopped(system, monkeypatch, "tuned", at, False):
        system.queue(graph)
    previews = [h.queue(graph)["tuned"][4] for h in (system, Host())]
    assert torch.equal(*previews) and len(previews[0]) == 3


def test_previews_with_other_settings_are_made_anew(folder, monkeypatch):
    graph, system = GRAPHS["tuned"], Host()
    with stopped(system, monkeypatch, "tuned", 7, False):
        system.queue(graph)
    graph = given("tuned", preview_cfg=1.0)(graph, folder)
    made, fresh = (h.queue(graph)["tuned"] for h in (system, Host()))
    assert torch.equal(made[4][-1], fresh[4][-1])
    assert "Previews begin after step" in made[5] and "Previews begin" not in fresh[5]
