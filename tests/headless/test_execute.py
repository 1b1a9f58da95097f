"""Running: order, one run for each node, laziness, lists, letting go, and failures with a name."""

import weakref
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from rescore.headless.errors import NodeError, WorkflowError
from rescore.headless.runner import run_workflow


def node(class_type, title=None, **inputs):
    """One node as JSON."""
    return {"class_type": class_type, "inputs": inputs} | (
        {"_meta": {"title": title}} if title else {}
    )


@pytest.fixture
def run(tmp_path, toy_nodes):
    """`run(workflow, ...)` with the toy nodes, more of them, and the usual folders."""

    def run(workflow, *classes, **options):
        known = {**toy_nodes, **{cls.__name__: cls for cls in classes}}
        return run_workflow(workflow, out=tmp_path / "out", node_classes=known, **options)

    return run


def test_upstream_first_and_each_node_once(run):
    workflow = {
        "9": node("Show", "End", value=["5", 0]),
        "5": node("Add", a=["3", 0], b=["4", 0]),
        "4": node("Add", a=["1", 0], b=["3", 0]),
        "3": node("Add", a=["1", 0], b=10),
        "1": node("Number", value=7),
        "8": node("Number", value=1),
    }
    result = run(workflow)
    assert result.order == ["1", "3", "4", "5", "9"]
    assert result.ui == {"9": {"shown": [41], "by": ["9"]}}
    assert all(seconds >= 0 for seconds in result.seconds.values())


def test_kept_values_and_overrides(run):
    workflow = {"1": node("Number", "Seven", value=7), "2": node("Add", a=["1", 0], b=1)}
    result = run(workflow, keep=["Seven", "2"], overrides={"Seven.value": 20})
    assert result.values == {"Seven": (20,), "2": (21,)}


def test_a_report_line_for_each_node(run):
    lines = []
    run(
        {"1": node("Show", "End", value=["2", 0]), "2": node("Number", value=7)},
        report=lines.append,
    )
    assert [line.split(" s  ")[1] for line in lines] == ["node 2 (Number)", 'node 1 (Show, "End")']
    assert lines[0].startswith("[1/2] ")


def test_the_report_of_many_files_is_short(run):
    lines = []
    workflow = {
        "1": node("Clip", frames=9),
        "2": node("SaveImage", images=["1", 0], filename_prefix="f"),
    }
    run(workflow, report=lines.append)
    wrote = lines[1].splitlines()[1:]
    assert len(wrote) == 3 and wrote[0].endswith("f_00001_.png")
    assert wrote[1].strip() == "... and 7 more, up to" and wrote[2].endswith("f_00009_.png")


def test_nodes_run_in_inference_mode(run):
    class Probe:
        RETURN_TYPES = ("LATENT", "STRING")
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

        def run(self):
            tensor = torch.ones(3)
            assert torch.is_inference_mode_enabled() and tensor.is_inference()
            with torch.inference_mode(False), torch.enable_grad():
                weight = tensor.clone().requires_grad_()
                (weight**2).sum().backward()
            return (weight.grad, "fine")

    result = run({"1": node("Probe")}, Probe, keep=["1"])
    assert result.values["1"][0].tolist() == [2, 2, 2]
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(("first", "expected"), [(True, ["1", "3", "4"]), (False, ["2", "3", "4"])])
def test_lazy_branches_run_only_when_asked_for(run, first, expected):
    workflow = {
        "4": node("Show", value=["3", 0]),
        "3": node("Switch", first=first, on_true=["1", 0], on_false=["2", 0]),
        "1": node("Number", value=11),
        "2": node("Number", value=22),
    }
    result = run(workflow)
    assert result.order == expected
    assert result.ui["4"]["shown"] == [11 if first else 22]


def test_a_lazy_input_shared_with_an_eager_one(run):
    workflow = {
        "5": node("Show", value=["2", 0]),
        "4": node("Show", value=["3", 0]),
        "3": node("Switch", first=True, on_true=["1", 0], on_false=["2", 0]),
        "1": node("Number", value=11),
        "2": node("Number", value=22),
    }
    assert run(workflow).ui["4"]["shown"] == [11]


def test_lists_spread_and_gather(run):
    workflow = {
        "1": node("Spread", count=4),
        "2": node("Add", a=["1", 0], b=10),
        "3": node("Gather", values=["2", 0]),
        "4": node("Show", value=["3", 0]),
        "5": node("Show", value=["2", 0]),
    }
    result = run(workflow, keep=["1", "2"])
    assert result.values == {"1": ([0, 1, 2, 3],), "2": ([10, 11, 12, 13],)}
    assert result.ui["4"]["shown"] == [46]
    assert result.ui["5"] == {"shown": [10, 11, 12, 13], "by": ["5"] * 4}


def test_values_are_let_go_when_no_node_needs_them(run):
    class Big:
        RETURN_TYPES = ("IMAGE",)
        FUNCTION = "run"
        made: ClassVar[list] = []

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}, "optional": {"image": ("IMAGE",)}}

        def run(self, image=None):
            alive = sum(reference() is not None for reference in Big.made)
            assert alive <= 1, f"{alive} images are alive"
            tensor = torch.zeros(1, 3, 5, 3)
            Big.made.append(weakref.ref(tensor))
            return (tensor,)

    chain = {str(i): node("Big", **({"image": [str(i - 1), 0]} if i else {})) for i in range(7)}
    result = run({**chain, "7": node("PreviewImage", images=["6", 0])}, Big)
    assert len(result.order) == 8
    assert all(reference() is None for reference in Big.made)


def test_hidden_inputs(run):
    class Curious:
        RETURN_TYPES = ("STRING",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            hidden = {"me": "UNIQUE_ID", "graph": "PROMPT", "extra": "EXTRA_PNGINFO"}
            return {"required": {"steps": ("INT", {})}, "hidden": hidden}

        def run(self, steps, me, graph, extra):
            return ({"me": me, "graph": graph, "extra": extra},)

    workflow = {"7": node("Curious", "Nosy", steps=1)}
    result = run(workflow, Curious, keep=["7"], overrides={"7.steps": 5})
    seen = result.values["7"][0]
    assert seen["me"] == "7" and seen["extra"] is None
    assert seen["graph"] == {"7": node("Curious", "Nosy", steps=5)}


def test_a_failure_names_its_node_and_stops_the_run(run):
    workflow = {
        "1": node("Number", value=13),
        "2": node("Fails", "Risky", value=["1", 0]),
        "3": node("Show", value=["2", 0]),
    }
    lines = []
    with pytest.raises(NodeError) as failure:
        run(workflow, report=lines.append)
    assert str(failure.value) == (
        'Node 2 (Fails, "Risky"): the value 13 is unlucky; choose another'
    )
    assert isinstance(failure.value.__cause__, ValueError)
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("out of luck"), r"Node 1 \(Bad\): RuntimeError: out of luck"),
        (KeyError("x"), r"KeyError: 'x'"),
        (MemoryError(), r"MemoryError: MemoryError"),
        (ValueError("a\x1b[31m\nb"), r"a\\x1b\[31m\nb"),
    ],
)
def test_kinds_of_failure(run, error, sentence):
    class Bad:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

        def run(self):
            raise error

    with pytest.raises(NodeError, match=sentence):
        run({"1": node("Bad")}, Bad)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (7, "returned a int and not a tuple; its class declares 2"),
        (torch.zeros(2), "returned a Tensor and not a tuple"),
        (None, "returned a NoneType and not a tuple"),
        ((1,), r"returned 1 value\(s\); its class declares 2 output\(s\)"),
        ({"ui": {}}, "NoneType and not a tuple"),
        ({"expand": {}, "result": (1, 2)}, "expands into other nodes"),
    ],
)
def test_nodes_that_break_the_contract(run, returned, sentence):
    class Odd:
        RETURN_TYPES = ("INT", "INT")
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

        def run(self):
            return returned

    with pytest.raises(NodeError, match=sentence):
        run({"1": node("Odd")}, Odd, keep=["1"])


def test_nothing_runs_and_nothing_is_made_when_the_workflow_is_wrong(run, tmp_path):
    workflow = {
        "1": node("Clip", frames=3),
        "2": node("SaveImage", images=["1", 0], filename_prefix="fine"),
        "3": node("SaveImage", images=["1", 0], filename_prefix="../../escape"),
    }
    with pytest.raises(WorkflowError, match=r"Node 3 \(SaveImage\), input 'filename_prefix'"):
        run(workflow)
    assert list(tmp_path.iterdir()) == []


def test_linked_file_names_are_contained_too(run, tmp_path):
    class Anything:
        RETURN_TYPES = ("*",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"value": ("STRING", {})}}

        def run(self, value):
            return (value,)

    workflow = {
        "1": node("Clip", frames=1),
        "2": node("Anything", value="../escape"),
        "3": node("SaveImage", images=["1", 0], filename_prefix=["2", 0]),
        "4": node("LoadVideo", file=["2", 0]),
        "5": node("GetVideoComponents", video=["4", 0]),
        "6": node("PreviewImage", images=["5", 0]),
    }
    (tmp_path / "escape").write_bytes(b"x")
    with pytest.raises(NodeError, match=r"'\.\./escape' leaves its folder through '\.\.'"):
        run(workflow, Anything)
    del workflow["3"]
    with pytest.raises(NodeError, match=r"Node 4 \(LoadVideo\): file '\.\./escape' leaves"):
        run(workflow, Anything, inputs=[tmp_path / "out"])


def test_files_are_listed_for_the_node_that_wrote_them(run, tmp_path):
    workflow = {
        "1": node("Clip", frames=3),
        "2": node("SaveImage", images=["1", 0], filename_prefix="sub/frame"),
        "3": node("PreviewImage", images=["1", 0]),
        "4": node("CreateVideo", images=["1", 0], fps=8),
        "5": node(
            "SaveVideo", video=["4", 0], filename_prefix="video/clip", format="auto", codec="auto"
        ),
    }
    result = run(workflow)
    names = {key: [path.name for path in paths] for key, paths in result.files.items()}
    assert names == {
        "2": ["frame_00001_.png", "frame_00002_.png", "frame_00003_.png"],
        "3": ["preview_00001_.png", "preview_00002_.png", "preview_00003_.png"],
        "5": ["clip_00001_.mp4"],
    }
    assert all(path.is_file() for path in result.saved)
    assert result.ui["5"] == {
        "images": [{"filename": "clip_00001_.mp4", "subfolder": "video", "type": "output"}],
        "animated": [True],
    }
    assert result.ui["3"]["images"][0]["type"] == "temp"
    written = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written == set(result.saved)


def test_an_output_folder_that_cannot_be_is_refused_first(toy_nodes, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    workflow = {"1": node("Show", value=["2", 0]), "2": node("Fails", value=1)}
    with pytest.raises(WorkflowError, match="Cannot make the output folder"):
        run_workflow(workflow, out=tmp_path / "file" / "out", node_classes=toy_nodes)


def test_stopping_leaves_nothing_half_written(run, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    workflow = {
        "1": node("Clip", frames=5),
        "2": node("SaveImage", images=["1", 0], filename_prefix="frame"),
    }
    monkeypatch.setattr("rescore.headless.paths.os.link", stop)
    with pytest.raises(KeyboardInterrupt):
        run(workflow)
    assert [path for path in Path(tmp_path / "out").rglob("*") if path.is_file()] == []


def test_the_packs_own_nodes_are_the_default(tmp_path):
    workflow = {
        "1": node("SolidMask", value=0.25, width=11, height=7),
        "2": node("ReScoreGrowFeatherMask", mask=["1", 0], grow=0, feather=0.0),
    }
    (grown,) = run_workflow(workflow, out=tmp_path, keep=["2"]).values["2"]
    assert grown.shape == (1, 7, 11) and (grown == 0.25).all()
