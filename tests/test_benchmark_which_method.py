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
        for file in ("figures.json", "README.md"):
            shutil.copy(ROOT / "benchmarks" / folder.name / file, folder)
    return tmp_path


def row(page: str, title: str) -> list[str]:
    (line,) = (line for line in page.splitlines() if line.startswith(f"| [{title}]"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_is_the_mean_of_its_clips(which_method, reports):
    file = reports / "ei2_report" / "figures.json"
    figures = json.loads(file.read_text("utf-8"))
    del figures["edits"]["ei2"][4:]
    for clip, hit, kept, flicker in zip(
        figures["edits"]["ei2"], (1, 0, 1, 1), (20, 21, 22, 25), (0.01, 0.03, 0.02, 0.02),
        strict=True,
    ):  # fmt: skip
        clip |= {"hit": hit, "psnr_keep": kept, "flicker": flicker}
    file.write_text(json.dumps(figures), "utf-8")
    # 3 of 4 hit: 75 % with a standard error of 25; (20 + 21 + 22 + 25) / 4 with 1.08.
    assert row(which_method.page(reports), "EI2")[2:-1] == [
        "75 ± 25", "22.0 ± 1.1", "20.0 ± 4.1", "4",
    ]  # fmt: skip


def test_figures_of_whole_objects_have_names_of_their_own(which_method, reports):
    """Removal and addition are read off otherwise than edits, and no edit is in their table."""
    edits, objects = which_method.first_page.tables_of(which_method.page(reports))
    assert "target read, %" in edits[0] and "target read, %" not in objects[0]
    assert "nearer to the truth than to the clip, %" in objects[0]
    assert [cells[0].split("]")[0] for cells in objects[1:]] == ["[Removal", "[Addition"]


def test_a_row_names_its_reports_day_and_commit(which_method, reports):
    file = reports / "ei2_report" / "README.md"
    page = re.sub(
        r"on \S+ at commit \w+", "on 2027-02-03 at commit abc1234", file.read_text("utf-8")
    )
    file.write_text(page, "utf-8")
    assert row(which_method.page(reports), "EI2")[-1] == "2027-02-03, abc1234"


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


def test_the_page_that_is_shipped_says_what_the_reports_say(which_method):
    """If not: python benchmarks/which_method.py."""
    shipped = (ROOT / "benchmarks" / "which_method" / "README.md").read_text("utf-8")
    assert shipped == which_method.page()
