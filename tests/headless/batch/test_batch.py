"""Whole batches on a real local Ray: nothing lost, nothing twice, and failures kept apart."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
import torch
from grey_batch import GREY, files_of, grey_lines
from rescore.headless.batch.manifest import Line
from rescore.headless.errors import BatchError, WorkflowError
from rescore.headless.runner import run_workflow
from rescore.headless.workflow import read_workflow
from tiny_clip import write_tiny_clip

pytestmark = pytest.mark.usefixtures("cluster")
WORKFLOWS = Path(__file__).resolve().parents[3] / "workflows"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def one_thread():
    """As a worker of one core has it: more threads may sum in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(out):
    """`run(graph, lines, ...)`: a batch into the folder `out`; further arguments are options."""
    from rescore.headless.batch.batch import Options, run_batch

    def run(graph, lines, *, inputs=(), node_classes=None, **options):
        return run_batch(
            graph,
            lines,
            out=out,
            inputs=inputs,
            options=Options(**options),
            node_classes=node_classes,
        )

    return run


def record(out, line_id):
    return json.loads((out / "results" / line_id / "record.json").read_text("utf-8"))


def test_every_line_is_run_once_and_equals_a_run_of_its_own(run, out, tmp_path):
    lines = grey_lines(5)
    run(GREY, lines[:2])
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    with pytest.raises(WorkflowError, match="holds this batch already"):
        run(GREY, lines)
    summary = run(GREY, lines, resume=True)
    assert (summary.done, summary.before, summary.failed) == (5, 2, {})
    assert all(path.stat().st_mtime_ns == moment for path, moment in times.items())
    assert run(GREY, lines, resume=True).before == 5
    with pytest.raises(WorkflowError, match=r"Line 1: 'g0' is done with other values\. Give it"):
        run(GREY, [Line(1, "g0", "", {"Grey.value": 0.9}), *lines[1:]], resume=True)
    for line in lines:
        alone = run_workflow(GREY, out=tmp_path / line.id, overrides=line.settings)
        found = {k: v for k, v in files_of(out).items() if k.startswith(f"{line.id}/")}
        assert found == {f"{line.id}/{path.name}": path.read_bytes() for path in alone.saved}
    kept = record(out, "g3")
    assert kept["settings"] == {"Grey.value": 0.04} and kept["status"] == "done"
    assert kept["versions"]["torch"] == torch.__version__
    assert kept["seconds"]["total"] > sum(kept["seconds"]["nodes"].values()) > 0
    assert kept["peak_memory"].get("process", 2**30) > 2**26
    # One core a worker, so one thread: the same bits however many cores the machine has.
    assert {record(out, line.id)["machine"]["threads"] for line in lines} == {1}
    assert len({record(out, line.id)["machine"]["process"] for line in lines}) > 1


@pytest.fixture
def moody_nodes():
    """A source of masks: slow, and at some values raising or fatal to its process."""

    class Moody:
        RETURN_TYPES = ("MASK",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {
                "required": {
                    "value": ("FLOAT", {"default": 0.0}),
                    "log": ("STRING", {"default": ""}),
                    "seconds": ("FLOAT", {"default": 0.0}),
                }
            }

        def run(self, value, log, seconds):
            import logging

            if log:
                with open(log, "a") as file:
                    file.write(f"{value} {os.getpid()}\n")
            time.sleep(seconds)
            if value > 2:
                os.kill(os.getpid(), 9)
            if value > 1:
                raise ValueError("the value is unlucky;\nchoose another")
            logging.getLogger("moody").warning("in a mood of %g", value)
            return (torch.full((1, 3, 5), value),)

    return {"Moody": Moody}


def moody_graph(log, seconds=0.0):
    """`GREY` with a moody source that takes its time and notes each begin."""
    inputs = {"value": 0.0, "log": str(log), "seconds": seconds}
    return {**GREY, "1": {"class_type": "Moody", "inputs": inputs, "_meta": {"title": "Grey"}}}


def moody_lines(values):
    return [Line(i + 1, f"m{i}", "", {"Grey.value": value}) for i, value in enumerate(values)]


def test_lines_that_fail_or_kill_their_process_stop_no_other(
    run, out, moody_nodes, tmp_path, capfd
):
    log = tmp_path / "log"
    lines = moody_lines([0.1, 3.0, 0.2, 1.5, 0.3, 0.4])
    graph = moody_graph(log)
    summary = run(graph, lines, node_classes=moody_nodes, retries=1)
    assert summary.done == 4
    assert summary.failed.keys() == {"m1", "m3"}
    assert summary.failed["m3"] == ('Node 1 (Moody, "Grey"): the value is unlucky;\nchoose another')
    assert summary.failed["m1"].startswith("Its process died, each time that it was tried")
    tried = [row.split()[0] for row in log.read_text().splitlines()]
    assert tried.count("3.0") == 2 and tried.count("1.5") == 1
    assert record(out, "m0")["warnings"] == ["in a mood of 0.1"]
    errors = capfd.readouterr().err.splitlines()
    (said,) = (row for row in errors if row.startswith("line 4"))
    assert said == "line 4 ('m3') failed: " + summary.failed["m3"].replace("\n", " ")
    kept = json.loads((out / "failed" / "m3.json").read_text())
    assert kept["sentence"] == summary.failed["m3"] and kept["seconds"]["total"] > 0
    page = summary.report.read_text("utf-8")
    assert "4 of 6 lines done, 2 failed" in page and "the value is unlucky" in page
    assert {folder.name for folder in (out / "results").iterdir()} == {"m0", "m2", "m4", "m5"}
    # Failed lines are tried again, and no others.
    assert run(graph, lines, node_classes=moody_nodes, retries=0, resume=True).before == 4
    tried = [row.split()[0] for row in log.read_text().splitlines()]
    assert (tried.count("3.0"), tried.count("1.5"), len(tried)) == (3, 2, 9)


def workers():
    """The processes of Ray that run lines just now."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(b"ray::Worker.run"):
                yield int(entry.name)
        except OSError:  # it has ended meanwhile
            continue


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are found in /proc")
def test_workers_that_are_killed_lose_nothing_and_do_nothing_twice(run, out, moody_nodes, tmp_path):
    log = tmp_path / "log"
    log.touch()
    values = [i / 100 for i in range(16)]
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        """Kill a worker in the middle of a line whenever a few more lines have begun."""
        while not over.wait(0.02) and len(killed) < 2:
            begun = log.read_text().splitlines()
            alive = {int(row.split()[1]) for row in begun[-2:]} & set(workers())
            if alive and len(begun) > 4 * (len(killed) + 1):
                killed.append(alive.pop())
                os.kill(killed[-1], 9)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        summary = run(
            moody_graph(log, 0.15), moody_lines(values), node_classes=moody_nodes, retries=5
        )
    finally:
        over.set()
        killer.join()
    assert len(killed) == 2 and summary.done == 16
    tried = [row.split() for row in log.read_text().splitlines()]
    # Begun again is what a process was at when it was killed, and nothing else.
    interrupted = [{p: v for v, p in tried}[str(process)] for process in killed]
    begun = [value for value, _ in tried]
    assert sorted(begun) == sorted([*map(str, values), *interrupted])


def test_models_stay_loaded_and_their_lines_together(run, out):
    graph = read_workflow(WORKFLOWS / "api" / "delta_denoising.json")
    short = {"Score Distillation.steps": 1}
    models = ["shapeworld-t2v", "shapeworld-sd"] * 3
    lines = [
        Line(i + 1, f"l{i}", model, {**short, "3.model": model, "Score Distillation.seed": i // 2})
        for i, model in enumerate(models)
    ]
    assert run(graph, lines, inputs=[WORKFLOWS / "input"]).failed == {}
    records = [record(out, line.id) for line in lines]
    for model in set(models):
        own = [kept for kept in records if kept["group"] == model]
        assert len({str(kept["models"]) for kept in own}) == 1
    # Each of the two is loaded once, and perhaps once more by the worker that is the first to have
    # no line of its own left.
    loads = [kept for kept in records if kept["seconds"]["nodes"]["3"] > 0.01]
    assert 2 <= len(loads) <= 3
    assert records[0]["models"] != records[1]["models"]
    # A kept model gives the bits of one just loaded.
    alone = run_workflow(
        graph,
        out=out.parent / "alone",
        inputs=[WORKFLOWS / "input"],
        overrides=lines[4].settings,
    )
    (video,) = (path for path in alone.saved if path.suffix == ".mp4")
    assert files_of(out)[f"l4/rescore/{video.name}"] == video.read_bytes()
    assert records[0]["inputs"].keys() == {"red_circle.mp4", "red_circle_mask.mp4"}


WINDOWED = {"window": 6, "overlap": 2, "steps": 2}


@pytest.mark.parametrize("name", ["delta_denoising", "dreammotion"])
def test_split_windows_give_the_bits_of_one_process(run, out, name):
    """With terms on predictions, and on keys by gradients through a checkpointed model."""
    graph = read_workflow(WORKFLOWS / "api" / f"{name}.json")
    settings = {f"Score Distillation.{key}": value for key, value in WINDOWED.items()}
    (out.parent / "alone").mkdir()
    alone = run_workflow(
        graph, out=out.parent / "alone", inputs=[WORKFLOWS / "input"], overrides=settings
    )
    lines = [Line(1, "a", "", settings)]
    summary = run(graph, lines, inputs=[WORKFLOWS / "input"], cards=2)
    assert summary.failed == {}
    (video,) = (path for path in alone.saved if path.suffix == ".mp4")
    assert files_of(out) == {f"a/rescore/{video.name}": video.read_bytes()}


def test_split_windows_come_in_order_and_tell_the_loops_own_error(run):
    from rescore.headless.batch.cluster import Share
    from rescore.headless.batch.windows import SplitWindows

    def work(number):
        if number == 13:
            raise FloatingPointError("The gradient is not finite.")
        return number, os.getpid(), torch.is_inference_mode_enabled()

    compute = SplitWindows(2, Share(1, 0))(work)
    numbers, processes, inside = zip(*compute((n,) for n in (3, 5, 7, 11)), strict=True)
    assert numbers == (3, 5, 7, 11)
    assert processes[0] == processes[2] == os.getpid() != processes[1] == processes[3]
    assert inside == (False, True, False, True)  # the worker's own is what the node is in
    found = compute((n,) for n in (3, 13))
    assert next(found)[0] == 3
    with pytest.raises(FloatingPointError, match=r"^The gradient is not finite\.$"):
        next(found)
    with pytest.raises(WorkflowError, match=r"--split-windows 3 .* has room for 2"):
        run(GREY, grey_lines(1), cards=3)


CLIP_TEXT = {
    "1": {"class_type": "ReScoreLoadClipScorer", "inputs": {"folder": "tiny"}},
    "2": {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 17, "height": 19}},
    "3": {"class_type": "MaskToImage", "inputs": {"mask": ["2", 0]}},
    "4": {
        "class_type": "ReScoreClipTextAlignment",
        "inputs": {"clip": ["1", 0], "images": ["3", 0], "prompt": "a red circle"},
    },
    "5": {
        "class_type": "ReScoreCollectMeasures",
        "inputs": {"label": "edit", "measure_1": ["4", 0]},
    },
    "6": {
        "class_type": "ReScoreMeasuresTable",
        "inputs": {"measures": ["5", 0], "reference": "source", "name": "m"},
    },
}


def test_measures_are_kept_and_averaged_by_group(run, out, worker_models, monkeypatch):
    monkeypatch.setenv("RESCORE_MODELS", str(worker_models))
    prompts = ["a red circle", "a blue square", "moving right"]
    lines = [
        Line(i + 1, f"p{i}", group, {"4.prompt": prompt})
        for i, (prompt, group) in enumerate(zip(prompts, "aba", strict=True))
    ]
    summary = run(CLIP_TEXT, lines, workers=1)
    values = [record(out, line.id)["measures"]["edit"]["CLIP text"]["value"] for line in lines]
    assert len(set(values)) == 3
    (_, ends), (head, rows) = summary.tables
    assert [row[:3] for row in ends] == [["a", "2", "0"], ["b", "1", "0"], ["all", "3", "0"]]
    assert head == ["measure", "a", "b", "all"] and rows[0][0] == "edit: CLIP text (x100)"
    mean, error = map(float, rows[0][1].split(" \u00b1 "))
    assert mean == pytest.approx((values[0] + values[2]) / 2, rel=0.05)
    assert error == pytest.approx(abs(values[0] - values[2]) / 2, rel=0.05)
    assert float(rows[0][2]) == pytest.approx(values[1], rel=1e-3)
    assert len({record(out, line.id)["models"].popitem() for line in lines}) == 1

    # A line made with other weights of the same name: the worker is not let near the others.
    kept = record(out, "p0")
    kept["models"] = {name: "0123456789abcdef" for name in kept["models"]}
    (out / "results" / "p0" / "record.json").write_text(json.dumps(kept))
    for file in sorted((out / "results" / "p1").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (out / "results" / "p1").rmdir()
    with pytest.raises(
        BatchError, match=r"No worker is left\. .* other weights .*0123456789abcdef"
    ):
        run(CLIP_TEXT, [lines[0], lines[1]], resume=True)


def test_a_worker_without_the_models(run, out, tmp_path, monkeypatch):
    write_tiny_clip(tmp_path / "models" / "clip_vision" / "mine")
    monkeypatch.setenv("RESCORE_MODELS", str(tmp_path / "models"))
    summary = run(CLIP_TEXT, [Line(1, "a", "", {"1.folder": "mine"})])
    assert (
        "cannot run it: Node 1 (ReScoreLoadClipScorer), input 'folder': must be one of tiny"
        in (summary.failed["a"])
    )


def test_a_worker_of_another_version(run, monkeypatch):
    monkeypatch.setattr("rescore.headless.batch.batch.code", lambda: "0" * 16)
    with pytest.raises(BatchError, match=r"No worker is left\. .* another version of rescore"):
        run(GREY, grey_lines(3))


def test_shares_that_no_machine_has(run, out):
    from rescore.headless.batch.cluster import Share

    with pytest.raises(WorkflowError, match="--gpus-per-task asks for 1 GPU, and no machine"):
        run(GREY, grey_lines(1), share=Share(gpus=1))
    with pytest.raises(WorkflowError, match=r"--cpus-per-task asks for 3 CPU.* more than 2"):
        run(GREY, grey_lines(1), share=Share(cpus=3), resume=True)


def test_a_file_that_goes_missing_fails_its_line(run, tmp_path, monkeypatch):
    from rescore.headless.batch import dispatch

    clip = WORKFLOWS / "input" / "red_circle.mp4"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(clip.read_bytes())
    graph = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "a.mp4"}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    begin = dispatch.Dispatch.run

    def begin_late(self):
        (tmp_path / "in" / "a.mp4").unlink()
        begin(self)

    monkeypatch.setattr(dispatch.Dispatch, "run", begin_late)
    summary = run(graph, [Line(1, "a")], inputs=[tmp_path / "in"])
    assert summary.failed["a"].startswith("Cannot read ") and "No such file" in summary.failed["a"]
