"""What a user can ask of a node has an answer: a help page, tooltips, a graph, two languages."""

import json
import re
from itertools import product
from pathlib import Path

import pytest
from rescore import NODE_CLASS_MAPPINGS
from rescore.workflows.help import (
    DOCS,
    LOCALES,
    WORDS,
    dumped,
    english,
    inputs_of,
    page_of,
    translation,
    with_tables,
)

ROOT = Path(__file__).resolve().parents[2]
NODES = sorted(NODE_CLASS_MAPPINGS)
LARGEST = 1_500_000  # bytes of all pictures together
REWRITE = "run `python workflows/help.py`"

# A shipped graph runs as it is, with what the pack brings along; these need a file of the user's.
NEED_FILES = {
    "ReScoreClipFrameConsistency": "measures with a CLIP model",
    "ReScoreClipTextAlignment": "measures with a CLIP model",
    "ReScoreEncodeNativePrompt": "encodes with the text encoder of a real Wan or LTX-Video",
    "ReScoreLPIPS": "measures with AlexNet or VGG16 and LPIPS heads",
    "ReScoreLoadAnimateDiffModel": "loads a motion module; the graphs' notes say where it goes",
    "ReScoreLoadClipScorer": "loads a CLIP model",
    "ReScoreLoadDino": "loads a DINO model",
    "ReScoreLoadGroundingDino": "loads Grounding DINO",
    "ReScoreLoadNullText": "loads what Save Null-Text has written for this very trajectory",
    "ReScoreLoadImageModel": "loads Stable Diffusion; the graphs' notes say where it goes",
    "ReScoreLoadVideoModel": "loads ZeroScope; the graphs' notes say where it goes",
    "ReScoreLoadSam2": "loads SAM 2",
    "ReScoreMaskFromPrompt": "finds objects with Grounding DINO",
    "ReScoreMaskThroughClip": "follows objects with SAM 2",
    "ReScorePickScore": "measures with the PickScore model",
    "ReScoreResampleClip": "is for the last stage of Show-1",
    "ReScoreStructureDistance": "measures with a DINO model",
}


HEADINGS = {
    "Equation": "公式",
    "Inputs": "输入",
    "Outputs": "输出",
    "If nothing changes": "如果没有变化",
    "If it is not what you expect": "如果结果不如预期",
    "Memory and time": "内存与时间",
}


def page(name: str, language: str = "en") -> str:
    return page_of(name, language).read_text("utf-8")


def strings(texts: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Every text of a translation by its keys."""
    found = {}
    for key, value in texts.items():
        found |= {(*path, key): value} if isinstance(value, str) else strings(value, (*path, key))
    return found


def headings(text: str) -> list[str]:
    return re.findall(r"(?m)^## (.*)$", text)


def prose(text: str) -> str:
    """A page without its equations and tables."""
    return re.sub(r"(?m)^\|.*$", "", re.sub(r"(?ms)^```\n.*?^```$", "", text))


def test_every_node_has_a_page_in_every_language_and_every_page_a_node():
    pages = {page_of(name, language) for name in NODES for language in WORDS}
    assert pages == set(DOCS.rglob("*.md"))


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("name", NODES)
def test_a_page_says_what_its_node_says(name, language):
    text = page(name, language)
    assert text == with_tables(text, name, language), REWRITE
    assert text.startswith(f"# {translation(language)[name]['display_name']}\n")
    for key in inputs_of(NODE_CLASS_MAPPINGS[name]):
        assert re.search(rf"(?m)^\| `{key}`.*?<br>", text)


@pytest.mark.parametrize("name", NODES)
def test_a_chinese_page_follows_the_english_one(name):
    """Sections, paragraphs, pictures, equations, names and numbers: only the words are others."""
    english, chinese = page(name), page(name, "zh")
    assert headings(chinese) == [HEADINGS[heading] for heading in headings(english)]
    for same in (r"\]\(([^)]+)\)", r"(?ms)^```\n(.*?)^```$"):
        assert re.findall(same, chinese) == re.findall(same, english)
    ours, theirs = prose(english), prose(chinese)
    for same in ("`[^`\n]+`", r"\d+(?:\.\d+)*"):
        assert sorted(re.findall(same, theirs)) == sorted(re.findall(same, ours))
    paragraphs = [re.split(r"\n\n+", text.strip()) for text in (ours, theirs)]
    assert len(paragraphs[0]) == len(paragraphs[1])
    for paragraph in paragraphs[1]:
        assert paragraph.startswith("#") or re.search(r"[\u4e00-\u9fff]", paragraph), paragraph


@pytest.mark.parametrize("name", NODES)
def test_a_page_has_what_a_user_looks_for(name):
    text = page(name)
    found = headings(text)
    assert set(found) <= set(HEADINGS)
    assert {"Inputs", "Outputs", "Memory and time"} <= set(found)
    assert len([heading for heading in found if heading.startswith("If ")]) == 1
    lead = text.split("\n## ")[0].split("\n", 1)[1]
    assert len(lead.split()) > 20, "the page does not say what the node does"
    for section in re.split(r"(?m)^## ", text)[1:]:
        assert section.split("\n", 1)[1].strip(), f"{section.splitlines()[0]} is empty"


def test_a_page_never_hides_a_table_row():
    """A bar or a line break of a tooltip would end its cell."""
    for name, language in product(NODES, WORDS):
        rows = [line for line in page(name, language).splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}, name


def test_pictures_are_there_and_small_and_shown():
    shown = {link for name in NODES for link in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page(name))}
    there = {file.relative_to(DOCS).as_posix(): file for file in (DOCS / "img").iterdir()}
    assert shown == there.keys()
    assert sum(file.stat().st_size for file in there.values()) < LARGEST


def test_every_kind_of_node_shows_a_picture():
    kinds = {cls.CATEGORY for cls in NODE_CLASS_MAPPINGS.values()}
    shown = {NODE_CLASS_MAPPINGS[name].CATEGORY for name in NODES if "](img/" in page(name)}
    assert shown == kinds


def test_every_node_is_used_by_a_shipped_graph():
    used = {
        node["type"]
        for file in (ROOT / "workflows").glob("*.json")
        for node in json.loads(file.read_text("utf-8"))["nodes"]
    }
    assert sorted(set(NODES) - used - NEED_FILES.keys()) == []
    assert not NEED_FILES.keys() & used, "these are no exceptions any more"
    assert NEED_FILES.keys() <= set(NODES)


def test_english_is_what_the_nodes_say():
    assert (LOCALES / "en" / "nodeDefs.json").read_text("utf-8") == dumped(english()), REWRITE


def test_what_translations_read_as_syntax_is_escaped():
    """The front end would take a bar for the border between singular and plural."""
    for language in ("en", "zh"):
        for path, text in strings(translation(language)).items():
            plain = re.sub(r"\{'[{}@|$]'\}", "", text)
            assert not re.search(r"[{}@|$]", plain), path


def test_chinese_has_every_text_of_the_english_and_no_other():
    ours, theirs = strings(english()), strings(translation("zh"))
    assert theirs.keys() == ours.keys()
    for path, text in theirs.items():
        name = path[-1] in ("name", "display_name")
        assert text.strip() == text and text, path
        assert name or re.search(r"[\u4e00-\u9fff]", text), f"{path} is not in Chinese"


@pytest.mark.parametrize("name", NODES)
def test_chinese_keeps_the_numbers_of_the_english(name):
    """Start values, ranges and numbers of equations are the same in every language."""
    ours, theirs = strings(english()[name]), strings(translation("zh")[name])
    for path, text in ours.items():
        if path[-1] in ("tooltip", "description"):
            numbers = [sorted(re.findall(r"\d+(?:\.\d+)?", t)) for t in (text, theirs[path])]
            assert numbers[0] == numbers[1], path
