"""The commands of README.md for headless runs are taken as they stand there."""

import json
import re
import shlex
from pathlib import Path

import pytest
from rescore.headless import __main__ as headless
from rescore.headless.batch import __main__ as batch

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"(?ms)^```\n(.*?)^```$", README)
COMMANDS = [
    line.partition(" -m rescore.")[2]
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if " -m rescore." in line
]


def arguments(command: str, name: str) -> list[str]:
    """The arguments of a command of this module; commands of others are left out."""
    module, *given = shlex.split(command)
    return given if module == name else []


@pytest.mark.parametrize("command", [c for c in COMMANDS if arguments(c, "headless")])
def test_a_graph_is_run_with_these_arguments(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert headless.main([*arguments(command, "headless"), "--check"]) == 0, capsys.readouterr()


@pytest.mark.parametrize("command", [c for c in COMMANDS if arguments(c, "headless.batch")])
def test_a_batch_takes_the_manifest_that_stands_above_it(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (lines,) = (block for block in BLOCKS if block.startswith('{"id"'))
    (tmp_path / "edits.jsonl").write_text(lines, "utf-8")
    places = {"edits.jsonl": tmp_path / "edits.jsonl", "many": tmp_path / "many"}
    given = [str(places.get(one, one)) for one in arguments(command, "headless.batch")]
    assert batch.main([*given, "--check"]) == 0, capsys.readouterr()


def test_the_manifest_asks_of_the_graphs_clip_what_differs_in_one_word():
    graph = json.loads((ROOT / "workflows" / "api" / "edit_video.json").read_text("utf-8"))
    (shows,) = (
        node["inputs"]["source_prompt"]
        for node in graph.values()
        if node["class_type"] == "ReScoreEditVideo"
    )
    (lines,) = (block for block in BLOCKS if block.startswith('{"id"'))
    for line in map(json.loads, lines.splitlines()):
        words = zip(shows.split(), line["Edit Video.target_prompt"].split(), strict=True)
        assert sum(one != other for one, other in words) == 1


def test_nothing_on_the_page_is_left_untried():
    tried = {shlex.split(command)[0] for command in COMMANDS}
    assert tried == {"headless", "headless.batch"}
    assert len([c for c in COMMANDS if arguments(c, "headless.batch")]) == 2
