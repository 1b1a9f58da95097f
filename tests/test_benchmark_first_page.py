"""Every figure of the first page that a report has is the report's."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def first_page():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import first_page

        yield first_page


REPORTS = sorted(folder.name for folder in (ROOT / "benchmarks").glob("*_report"))
FOLDERS = [*(ROOT / "benchmarks" / name for name in REPORTS), ROOT / "shapeworld" / "report"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_report_begins_with_what_a_user_should_do(folder):
    """A few sentences under its title, kept in CONCLUSIONS.md when the tables are made anew."""
    advice = (folder / "CONCLUSIONS.md").read_text("utf-8").strip().partition("\n\n")[0]
    first = (folder / "README.md").read_text("utf-8").partition("\n\n")[2]
    assert first.startswith(advice + "\n")
    assert 2 <= len(re.findall(r"[.:](?:\*\*)?(?=\s|$)", advice)) <= 8


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_report_names_a_commit_of_the_repository(first_page, folder):
    """Figures can be had again from the code that made them."""

    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)

    if (
        not shutil.which("git")
        or git("rev-parse", "--is-shallow-repository").stdout.strip() != "false"
    ):
        pytest.skip("needs the repository with its history")
    _, commit = first_page.made_on((folder / "README.md").read_text("utf-8"))
    assert git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0, commit


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_shows_no_figure_that_is_none(name):
    assert not re.search(r"\bnan\b", (ROOT / "benchmarks" / name / "README.md").read_text("utf-8"))


def report(name: str) -> str:
    return (ROOT / "benchmarks" / f"{name}_report" / "README.md").read_text("utf-8")


def test_tables_are_those_of_the_reports(first_page):
    """If not: python benchmarks/which_method.py."""
    assert first_page.with_tables(README) == README


def test_a_figure_that_changes_in_a_report_changes_here(first_page, tmp_path):
    for name in {shown.report for shown in first_page.TABLES.values()}:
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / "benchmarks" / name / "README.md", tmp_path / name)
    file = tmp_path / "ei2_report" / "README.md"
    page = file.read_text("utf-8")
    consistency = first_page.cell_of(page, "EI2, not tuned", "frame consistency, %")
    file.write_text(page.replace(consistency, "12.3 ± 4.5"), "utf-8")
    anew = first_page.with_tables(README, tmp_path)
    assert anew == README.replace(consistency, "12.3 ± 4.5") != README
    file.write_text(page.replace("EI2, not tuned", "EI2, otherwise"), "utf-8")
    with pytest.raises(ValueError, match=r"no row 'EI2, not tuned' with a column 'target read, %'"):
        first_page.with_tables(README, tmp_path)


def test_a_table_without_a_place_is_told(first_page):
    with pytest.raises(ValueError, match=r"has 0 lines <!-- table: ei2 -->; it needs one"):
        first_page.with_tables(README.replace("<!-- table: ei2 -->", ""))


def test_what_the_tiny_models_can_do_is_what_their_report_says(first_page):
    page = (ROOT / "shapeworld" / "report" / "README.md").read_text("utf-8")
    (shown,) = (t for t in first_page.tables_of(README) if t[0][:2] == ["model", "colour, %"])
    assert len(shown) == 5
    for model, *cells in shown[1:]:
        name = model.partition(",")[0].strip("`") + (", 9 frames" if "9 frames" in model else "")
        for title, cell in zip(shown[0][1:], cells, strict=True):
            attribute = title.removesuffix(", %")
            if cell:
                said = first_page.cell_of(page, f"{name}, % read right | {attribute}", "value")
                assert float(said) == float(cell), (model, attribute)
    edits = "masked colour edit, shapeworld-t2v"
    read = first_page.cell_of(page, f"{edits} | target colour read, %", "value")
    count = first_page.cell_of(page, f"{edits} | clips", "value")
    assert float(read) == 100 and f"read right in all of {count} clips" in README


@pytest.mark.parametrize(
    ("said", "name", "words"),
    [
        (r"STDG in one pass is ([\d.]+) times as fast", "videodirector",
         r"STDG in one pass is ([\d.]+) times as fast"),
        (r"on (\d+) held-out clips, 60 steps of 0\.1", "distillation", r"(?m)^(\d+) clips of"),
        (r"on (\d+) held-out clips, 25 steps", "videodirector", r"(?m)^(\d+) clips of"),
        (r"on (\d+) held-out clips, 100 steps of tuning", "ei2", r"(?m)^(\d+) clips of"),
        (r"held-out clips, (\d+) steps of 0\.1", "distillation", r"; steps (\d+), step size 0\.1"),
        (r"held-out clips, (\d+) steps, as its", "videodirector", r"frames 8, steps (\d+),"),
        (r"held-out clips, (\d+) steps of tuning", "ei2", r"; steps (\d+),"),
        (r"on the way, on (\d+) held-out clips", "papers_regime", r"(\d+) clips; step size 0\.4"),
    ],
)  # fmt: skip
def test_figures_in_sentences_are_the_reports(said, name, words):
    (here,) = re.findall(said, re.sub(r"\s+", " ", README))
    there = re.findall(words, report(name))
    assert here == there[0], (said, there)


def test_gibibytes_are_the_computed_ones(first_page):
    page, text = report("real_sizes"), re.sub(r"\s+", " ", README)
    together = r"takes, together with the weights, (\S+) GiB for Wan 2\.1 1\.3B and (\S+) for 14B"
    one_by_one = r"it takes (\S+), (\S+) and (\S+) GiB"
    said = [
        *re.search(together, text).groups(),
        re.search(r"and (\S+) for Wan 2\.2 5B", text)[1],
        *re.search(one_by_one, text).groups(),
    ]
    models = ("Wan 2.1 1.3B", "Wan 2.1 14B", "Wan 2.2 5B")
    computed = [
        first_page.cell_of(page, f"{model}, DDS", column).partition(",")[0]
        for column in ("together", "clip by clip")
        for model in models
    ]
    assert said == computed


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        ("Video delta denoising", ("DDS", "DreamMotion, checkpointing")),
        ("ASSD (", ("ASSD with fusion", "ASSD with fusion, joint guidance by SD 1.5")),
        ("Flow-enhanced", ("flow-enhanced: smoothing, preservation",
                           "flow-enhanced, with consistency, checkpointing")),
        ("VideoDirector", ("null-text, per frame, checkpointing",)),
        ("EI2", ("EI2, checkpointing",)),
    ],
)  # fmt: skip
def test_cards_are_the_smallest_that_a_step_fits(first_page, method, steps):
    """Of a method alone, and with what the row names beside it."""
    (methods,) = (t for t in first_page.tables_of(README) if t[0][:2] == ["method", "nodes"])
    column = methods[0].index("fits a card of")
    plain = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", row[0]) for row in methods[1:]]
    row = next(i for i, name in enumerate(plain, 1) if name.startswith(method.rstrip("(").strip()))
    said = re.findall(r"\d+ GB", methods[row][column])
    assert said == [first_page.cell_of(report("real_sizes"), step, "card") for step in steps]
