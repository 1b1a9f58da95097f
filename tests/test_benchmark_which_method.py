"""The page "Which method when" says what the reports' figures say."""

import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def which_method():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import which_method

        yield which_method


@pytest.fixture
def reports(which_method, tmp_path):
    """Copies of the reports' figures, to be changed."""
    for name in {method.report for method in which_method.METHODS}:
        folder = tmp_path / f"{name}_report"
        folder.mkdir()
        shutil.copy(ROOT / "benchmarks" / folder.name / "figures.json", folder)
    return tmp_path


def row(page: str, title: str) -> list[str]:
    (line,) = (line for line in page.splitlines() if line.startswith(f"| [{title}]"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_is_the_mean_of_its_clips(which_method, reports):
    file = reports / "ei2_report" / "figures.json"
    figures = json.loads(file.read_text("utf-8"))
    for clip, hit, kept, flicker in zip(
        figures["edits"]["ei2"], (1, 0, 1, 1), (20, 21, 22, 25), (0.01, 0.03, 0.02, 0.02),
        strict=True,
    ):  # fmt: skip
        clip |= {"hit": hit, "psnr_keep": kept, "flicker": flicker}
    file.write_text(json.dumps(figures), "utf-8")
    # 3 of 4 hit: 75 % with a standard error of 25; (20 + 21 + 22 + 25) / 4 with 1.08.
    assert row(which_method.page(reports), "EI2")[2:] == [
        "75 ± 25", "22.0 ± 1.1", "20.0 ± 4.1", "4",
    ]  # fmt: skip


def test_every_method_has_a_picture_that_is_there(which_method, reports):
    page = which_method.page(reports)
    pictures = re.findall(r"\]\(\.\./\.\./workflows/(\w+)\.jpg\)", page)
    assert pictures == [method.graph for method in which_method.METHODS]
    for name in pictures:
        assert (ROOT / "workflows" / f"{name}.jpg").is_file()
        assert (ROOT / "workflows" / f"{name}.json").is_file()


def test_a_row_that_a_report_lacks_is_told(which_method, reports):
    file = reports / "distillation_report" / "figures.json"
    figures = json.loads(file.read_text("utf-8"))
    del figures["edits"]["+ T-SSM"]
    file.write_text(json.dumps(figures), "utf-8")
    with pytest.raises(ValueError, match=r"no row '\+ T-SSM' for DreamMotion; it has no edit, DDS"):
        which_method.page(reports)


def test_the_page_that_is_shipped_has_every_method(which_method):
    shipped = (ROOT / "benchmarks" / "which_method" / "README.md").read_text("utf-8")
    for method in which_method.METHODS:
        assert len(row(shipped, method.title)) == len(which_method.HEAD)
