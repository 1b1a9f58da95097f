"""The measure nodes: from IMAGE to a number, from numbers to a table and files."""

import csv
import io
import json
import math

import pytest
import rescore.nodes.host as host
import torch
from rescore.headless.runner import run_workflow
from rescore.nodes.table_picture import table_picture
from rescore.pipelines.flow import Flow
from rescore.pipelines.measures.measure import Measure
from rescore.pipelines.measures.table import collect
from tiny_clip import write_random_lpips, write_tiny_clip, write_tiny_dino

PROMPT = "a small red circle moving right"
KEEPING = ("ReScorePSNR", "ReScoreSSIM", "ReScoreLPIPS")
MOVING = ("ReScoreMotionSmoothness", "ReScoreWarpingError", "ReScoreMotionFidelity")


@pytest.fixture(scope="session")
def measure_folders(model_folders):
    write_tiny_clip(model_folders / "clip_vision" / "tiny")
    write_random_lpips(model_folders / "lpips")
    write_tiny_dino(model_folders / "dino" / "tiny")
    return model_folders


@pytest.fixture
def scorer(measure_folders, run):
    return run("ReScoreLoadClipScorer", folder="tiny")[0]


@pytest.fixture
def still(clip):
    """A clip in which nothing moves."""
    return clip(frames=1, height=37, width=41).repeat(3, 1, 1, 1)


@pytest.fixture
def table():
    def psnr(number):
        return Measure("PSNR outside", number, "dB", "higher", (number,))

    rows = collect((), "ours", [psnr(31.25), Measure("LPIPS alex", 0.125, "", "lower")])
    return collect(rows, "source", [psnr(math.inf)])


@pytest.mark.parametrize(
    ("node", "perfect"), [("ReScorePSNR", math.inf), ("ReScoreSSIM", 1.0), ("ReScoreLPIPS", 0.0)]
)
def test_what_is_kept_outside_the_mask(measure_folders, run, still, node, perfect):
    edited = still.clone()
    edited[:, :, :15] = 1 - edited[:, :, :15]
    mask = torch.zeros(1, 37, 41)
    mask[..., :15] = 1
    measure, value = run(node, source=still, edited=edited, mask=mask)
    assert value == measure.value == pytest.approx(perfect, abs=1e-9)
    assert measure.name.endswith(" outside")
    assert len(measure.values) == 3
    without = run(node, source=still, edited=edited)[0]
    assert not without.name.endswith(" outside")
    assert abs(without.value - perfect) > 0.01


def test_motion_of_a_still_clip(run, still):
    pytest.importorskip("cv2")
    assert run("ReScoreMotionSmoothness", images=still)[1] == pytest.approx(0, abs=1e-3)
    assert run("ReScoreWarpingError", images=still)[1] == pytest.approx(0, abs=1e-6)
    assert run("ReScoreWarpingError", images=still, source=still)[1] == pytest.approx(0, abs=1e-6)
    mask = torch.ones(3, 9, 7)
    fidelity = run("ReScoreMotionFidelity", source=still, edited=still, points=5, mask=mask)
    assert fidelity[1] == pytest.approx(1)


def test_a_flow_that_is_given_is_used(run, still):
    def shift(*steps):
        forward = torch.tensor(steps)[:, :, None, None].expand(-1, -1, 37, 41)
        seen = torch.ones(len(steps), 37, 41, dtype=torch.bool)
        return Flow(forward, -forward, seen, seen)

    right, up = shift((1.0, 0.0), (3.0, 0.0)), shift((0.0, -1.0), (0.0, -1.0))
    rough = run("ReScoreMotionSmoothness", images=still, flow=right)[1]
    assert rough == pytest.approx(2000 / math.hypot(37, 41), rel=1e-5)
    own, guided = (
        run("ReScoreWarpingError", images=still, flow=right, **more)[0]
        for more in ({}, {"source": still})
    )
    assert own.value == guided.value > 10
    assert guided.name == "warping error along the source"
    both = {"source": still, "edited": still, "source_flow": right, "edited_flow": up}
    assert run("ReScoreMotionFidelity", **both)[1] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="flow is of 2 frames of 41 x 37, and the clip has 3"):
        run("ReScoreMotionSmoothness", images=still, flow=shift((1.0, 0.0)))


def test_measures_by_clip(run, scorer, still):
    aligned, value = run("ReScoreClipTextAlignment", clip=scorer, images=still, prompt=PROMPT)
    assert -100 < value < 100
    assert aligned.values == pytest.approx([value] * 3)
    picked = run("ReScorePickScore", clip=scorer, images=still, prompt=PROMPT)[1]
    assert picked == pytest.approx(scorer.scale * value / 100)
    for pairs in ("neighbours", "all pairs"):
        steady = run("ReScoreClipFrameConsistency", clip=scorer, images=still, pairs=pairs)
        assert steady[1] == pytest.approx(100, abs=1e-3)


def test_clip_sees_what_lies_inside_a_mask(run, scorer, still, clip):
    """What lies outside does not count, and a frame without any of the mask not either."""
    mask = torch.zeros(3, 37, 41)
    mask[:2, 5:30, 7:33] = 0.6
    other = torch.where(mask[..., None] > 0.5, still, clip(3, 37, 41))
    scored = [
        run("ReScoreClipTextAlignment", clip=scorer, images=images, prompt=PROMPT, mask=mask)
        for images in (still, other)
    ]
    assert scored[0][0].name == "CLIP text inside"
    assert scored[0][1] == scored[1][1]
    assert math.isnan(scored[0][0].values[2])
    whole = run("ReScoreClipTextAlignment", clip=scorer, images=still, prompt=PROMPT)[1]
    assert abs(scored[0][1] - whole) > 1e-3
    with pytest.raises(ValueError, match="black everywhere"):
        run(
            "ReScoreClipTextAlignment",
            clip=scorer, images=still, prompt=PROMPT, mask=mask, threshold=0.7,
        )  # fmt: skip


def test_structure_distance(measure_folders, run, still, clip):
    dino = run("ReScoreLoadDino", folder="tiny")[0]
    assert run("ReScoreStructureDistance", dino=dino, source=still, edited=still)[1] == 0
    other = clip(3, 37, 41)
    found = [
        run("ReScoreStructureDistance", dino=dino, source=still, edited=other, pixels=pixels)
        for pixels in ("0 to 1", "0 to 255")
    ]
    assert found[0][1] != found[1][1] and min(found[0][1], found[1][1]) > 0
    assert len(found[0][0].values) == 3
    with pytest.raises(ValueError, match=r"dino.*does not exist.*fetch\.py"):
        run("ReScoreLoadDino", folder="(nothing found: put a model into models/dino)")
    with pytest.raises(ValueError, match="outside the model folders"):
        run("ReScoreLoadDino", folder="../clip_vision/tiny")


def test_a_table_shows_its_numbers_to_who_runs_the_graph(tmp_path, table):
    import rescore

    with host.writing_to(tmp_path):
        node = rescore.NODE_CLASS_MAPPINGS["ReScoreMeasuresTable"]()
        shown = node.show(table, "source", "m")["ui"]["rescore_measures"]
    assert shown[0]["ours"]["LPIPS alex"]["value"] == 0.125
    json.dumps(shown, allow_nan=False)


def test_the_clip_folder_is_offered(measure_folders, run, monkeypatch):
    import rescore

    monkeypatch.setenv("RESCORE_MODELS", str(measure_folders))
    types = rescore.NODE_CLASS_MAPPINGS["ReScoreLoadClipScorer"].INPUT_TYPES()
    assert types["required"]["folder"][0] == ["tiny"]


@pytest.mark.parametrize("folder", ["(nothing found: put a model into ...)", "absent"])
def test_without_a_clip_model_it_says_how_to_get_one(measure_folders, run, folder):
    with pytest.raises(ValueError, match=r"clip_vision.*does not exist.*fetch\.py"):
        run("ReScoreLoadClipScorer", folder=folder)


def test_a_clip_name_cannot_leave_the_model_folders(measure_folders, run):
    with pytest.raises(ValueError, match="outside the model folders"):
        run("ReScoreLoadClipScorer", folder="../diffusers/sd")


@pytest.mark.parametrize("node", [*KEEPING, "ReScoreMotionFidelity"])
@pytest.mark.parametrize(
    ("size", "message"), [((2, 37, 41), "3 frames .* 2"), ((3, 41, 37), "41 x 37 .* 37 x 41")]
)
def test_clips_that_differ_are_told(measure_folders, run, still, clip, node, size, message):
    with pytest.raises(ValueError, match=message):
        run(node, source=still, edited=clip(*size))


@pytest.mark.parametrize("node", [*KEEPING, *MOVING])
def test_pixels_that_are_no_numbers_are_told(measure_folders, run, still, node):
    broken = still.clone()
    broken[1, 2, 3] = torch.nan
    own = node in MOVING[:2]
    clips = {"images": broken} if own else {"source": still, "edited": broken}
    with pytest.raises(ValueError, match="NaN or infinite pixels"):
        run(node, **clips)


def test_one_frame_has_no_motion_and_stops_no_table(run, clip, caplog, tmp_path):
    one, table = clip(frames=1), ()
    for node in MOVING:
        clips = {"source": one, "edited": one} if node.endswith("Fidelity") else {"images": one}
        found, number = run(node, **clips)
        assert math.isnan(number) and f"too short for this measure ({found.name})" in caplog.text
        for label in ("ours", "theirs"):
            given = {"label": label, "measures": table, "measure_1": found}
            (table,) = run("ReScoreCollectMeasures", **given)
    with host.writing_to(tmp_path):
        picture, rows, text = run("ReScoreMeasuresTable", measures=table)
    assert rows.splitlines()[1:] == ["ours,,,", "theirs,,,"]
    assert "NaN" not in text and picture.isfinite().all()


def test_measures_travel_to_a_table_and_files(run, still, tmp_path):
    measured = [run(node, source=still, edited=still)[0] for node in KEEPING[:2]]
    first = run("ReScoreCollectMeasures", label="source", measure_1=measured[0])[0]
    # Sockets count in their order, and gaps are none.
    second = run(
        "ReScoreCollectMeasures",
        label="ours",
        measures=first,
        measure_7=measured[1],
        measure_3=measured[0],
    )[0]
    with host.writing_to(tmp_path):
        for _ in range(2):
            picture, csv_text, json_text = run("ReScoreMeasuresTable", measures=second)
    rows = list(csv.reader(io.StringIO(csv_text)))
    assert rows == [["edit", "PSNR (dB)", "SSIM"], ["source", "inf", ""], ["ours", "inf", "1.0"]]
    assert picture.ndim == 4
    assert picture.shape[::3] == (1, 3)
    assert list(json.loads(json_text)) == ["source", "ours"]
    folder = tmp_path / "rescore_measures"
    assert sorted(file.name for file in folder.iterdir()) == [
        f"measures_0000{i}.{kind}" for i in (1, 2) for kind in ("csv", "json")
    ]
    assert (folder / "measures_00002.csv").read_text("utf-8") == csv_text
    assert (folder / "measures_00001.json").read_text("utf-8") == json_text


def test_an_empty_collection_is_told(run):
    with pytest.raises(ValueError, match="No measure is wired to the Collect Measures of 'edit'"):
        run("ReScoreCollectMeasures")


@pytest.mark.parametrize("name", ["", "../up", "/etc/x", "a/b", "a\\b", "C:x", ".hidden", "x" * 99])
def test_file_names_stay_in_the_folder(run, table, tmp_path, name):
    with host.writing_to(tmp_path / "out"), pytest.raises(ValueError, match="no name for a file"):
        run("ReScoreMeasuresTable", measures=table, name=name)
    assert not list(tmp_path.iterdir())


def test_the_picture_marks_the_best_and_grows_with_the_table(table):
    more = collect(table, "theirs", [Measure("PSNR outside", 29.0, "dB", "higher")])
    small, large = (table_picture(rows, "source") for rows in (table, more))
    assert large.shape[1] > small.shape[1]
    assert float(large.min()) >= 0
    assert float(large.max()) == 1

    def green(picture):
        red, green, blue = picture.unbind(-1)
        return int(((green > red + 0.04) & (green > blue + 0.02)).sum())

    # One edit beside the source has nothing to compete with.
    assert green(small) == 0
    assert green(large) > 1000


def test_a_graph_of_measures_runs_headless_and_writes_to_its_folder_alone(tmp_path):
    nodes = {
        "grey": ("SolidMask", {"value": 0.5, "width": 37, "height": 41}),
        "source": ("MaskToImage", {"mask": ["grey", 0]}),
        "lighter": ("SolidMask", {"value": 0.6, "width": 37, "height": 41}),
        "edited": ("MaskToImage", {"mask": ["lighter", 0]}),
        "psnr": (
            "ReScorePSNR",
            {
                "source": ["source", 0],
                "edited": ["edited", 0],
                "region": "everywhere",
                "threshold": 0.5,
            },
        ),
        "row": ("ReScoreCollectMeasures", {"label": "ours", "measure_2": ["psnr", 0]}),
        "table": (
            "ReScoreMeasuresTable",
            {"measures": ["row", 0], "reference": "source", "name": "run"},
        ),
    }
    workflow = {
        name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()
    }
    run_workflow(workflow, out=tmp_path / "out")
    written = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    assert written == [f"out/rescore_measures/run_00001.{kind}" for kind in ("csv", "json")]
    found = json.loads((tmp_path / written[1]).read_text("utf-8"))
    assert found["ours"]["PSNR"]["value"] == pytest.approx(20, abs=1e-4)
