"""What the benchmarks measure is what the graphs ship and what the nodes begin with."""

import json
import sys
from dataclasses import asdict, fields
from importlib import import_module
from types import ModuleType

import pytest
import rescore


@pytest.fixture(scope="module")
def measuring(root) -> ModuleType:
    """What the commands share; like them it is found on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "benchmarks"))
        import measuring

        yield measuring
        for name in (file.stem for file in (root / "benchmarks").glob("*.py")):
            sys.modules.pop(name, None)


def test_settings_come_from_the_graphs(measuring):
    import distillation
    import ei2
    import shapeworld_models
    import videodirector_rows

    shipped = measuring.shipped
    run = distillation.Run()
    assert run.steps == shipped("dreammotion", "ScoreDistillation", "steps")
    assert run.spatial == shipped("dreammotion", "SpatialSelfSimilarity", "weight") > 0
    assert run.consistency == shipped("flow_enhanced", "GlobalConsistency", "weight") > 0
    # The rows of one table share their loop: the three graphs must agree on it.
    for name in ("steps", "step_size", "cfg"):
        values = {
            shipped(graph, "ScoreDistillation", name)
            for graph in ("dreammotion", "assd", "flow_enhanced")
        }
        assert values == {getattr(run, name)}
    assert videodirector_rows.Run().steps == shipped("videodirector", "DDIMInversion", "steps")
    assert ei2.Run().cfg == shipped("ei2", "AttentionControlledSampling", "cfg")
    for name in ("steps", "step_size", "cfg"):
        found = getattr(shapeworld_models.EDIT, name)
        assert found == shipped("delta_denoising", "ScoreDistillation", name), name
    for command in (distillation, videodirector_rows, ei2):
        assert all(isinstance(f.default, f.type) for f in fields(command.Run)), command


# By report: the commands with whose settings it is made, by the names it gives them if several.
SEVERAL = {"loops": "distillation", "ei2": "ei2", "videodirector": "videodirector_rows"}
MADE_WITH = {
    "cascade": "cascade",
    "distillation": "distillation",
    "ei2": "ei2",
    "flow_models": "flow_models_rows",
    "videodirector": "videodirector_rows",
    "peers": {"peers": "against_peers", **SEVERAL},
    "worlds": SEVERAL,
}


@pytest.mark.parametrize("report", MADE_WITH)
def test_the_figures_of_a_report_are_of_the_settings_that_ship(measuring, root, report):
    file = root / "benchmarks" / f"{report}_report" / measuring.FIGURES
    settings = json.loads(file.read_text("utf-8"))["settings"]
    commands = MADE_WITH[report]
    if isinstance(commands, str):
        commands, settings = {report: commands}, {report: settings}
    for name, command in commands.items():
        assert settings[name] == asdict(import_module(command).Run()), name


def test_so_they_are_over_long_runs(measuring, root):
    import papers_regime

    settings = json.loads(papers_regime.FILE.read_text("utf-8"))["settings"]
    assert settings == {group: asdict(run) for group, run in papers_regime.REGIMES.items()}


# Counts times the step size, which is another in the graph; a test of the graphs holds the product.
OF_THE_STEP = "TemporalSelfSimilarity", "weight"


@pytest.mark.parametrize(
    ("graph", "node"),
    [
        ("dreammotion", "SpatialSelfSimilarity"),
        ("dreammotion", "TemporalSelfSimilarity"),
        ("flow_enhanced", "ContentPreservation"),
        ("flow_enhanced", "GlobalConsistency"),
        ("flow_enhanced", "FlowSmoothing"),
        ("assd", "AdaptiveSliding"),
    ],
)
def test_graphs_ship_what_terms_begin_with(measuring, graph, node):
    sections = rescore.NODE_CLASS_MAPPINGS[f"ReScore{node}"].INPUT_TYPES()
    for name, (_, options) in sections["required"].items():
        if "default" in options and (node, name) != OF_THE_STEP:
            assert measuring.shipped(graph, node, name) == options["default"], name


def test_what_rows_begin_with_is_what_graphs_ship(measuring):
    """What the commands take from the methods' own beginnings instead of from a graph."""
    from rescore.nodes.assd import window_weights
    from rescore.pipelines.distillation.adaptive_sliding import AdaptiveSliding
    from rescore.pipelines.inversion.decoupled_guidance import GuidanceSettings

    shipped = measuring.shipped
    # The image model is guided as the video model is.
    assert shipped("assd", "ImageDeltaDenoising", "cfg") == import_module("distillation").Run().cfg
    assert window_weights(shipped("assd", "AdaptiveSliding", "window")) == AdaptiveSliding().weights
    of_the_node = {"temporal": "motion", "keys": "look"}
    for field in fields(GuidanceSettings):
        part, _, where = field.name.partition("_")
        name = f"{of_the_node[part]}_{where}" if part in of_the_node else field.name
        found = shipped("videodirector", "DecoupledGuidance", name)
        assert found == getattr(GuidanceSettings(), field.name), name
    assert shipped("ei2", "DDIMInversion", "cfg") == 1  # as `invert_and_edit` does with describe


def test_a_graph_must_give_one_value(measuring):
    with pytest.raises(ValueError, match="gives model of ScoreDistillation as"):
        measuring.shipped("dreammotion", "ScoreDistillation", "model")
    with pytest.raises(ValueError, match="as \\[\\]; it must give one"):
        measuring.shipped("dreammotion", "AdaptiveSliding", "tau")


@pytest.mark.parametrize(
    ("graph", "row"),
    [
        ("wan_edit", "delta denoising, eta 0.25"),
        ("wan_flowedit", "FlowEdit"),
        ("wan_drfs", "DRFS"),
        ("wan_flowalign", "FlowAlign"),
        ("wan_dfvedit", "DFVEdit"),
        ("wan_flowdirector", "FlowDirector"),
        ("wan_dreammotion", "+ self-similarity"),
    ],
)
def test_rows_of_flow_models_are_what_the_graphs_on_wan_ship(measuring, graph, row):
    import flow_models_rows

    method = flow_models_rows.methods_of(flow_models_rows.Run())[row]
    shipped = measuring.shipped
    for name in ("steps", "step_size", "cfg", "t_min", "t_max", "order", "guidance", "draws"):
        assert shipped(graph, "ScoreDistillation", name) == getattr(method.settings, name), name
    # The share of cfg that the authors give to the source is rounded in the graphs.
    source_cfg = shipped(graph, "ScoreDistillation", "source_cfg")
    expected = method.settings.source_cfg
    assert source_cfg == pytest.approx(-1 if expected is None else expected, abs=0.05)
    for name, value in (
        ("weighting", method.term.weighting),
        ("eta", method.term.eta),
        ("eta_rises", method.term.rising),
    ):
        assert shipped(graph, "DeltaDenoising", name) == value, name
