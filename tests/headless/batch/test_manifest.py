"""Manifests: what is read, and every bad line named by its number."""

import json

import pytest
from rescore.headless.batch.manifest import Line, read_manifest
from rescore.headless.errors import WorkflowError
from rescore.headless.overrides import CommandLineText


@pytest.fixture
def read(tmp_path):
    """`read(text, suffix)`: the lines of a manifest with this text."""

    def read(text: str | bytes, suffix: str = ".jsonl") -> list[Line]:
        file = tmp_path / f"manifest{suffix}"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_manifest(file)

    return read


@pytest.fixture
def faults(read):
    """`faults(text, suffix)`: the sentences with which it is refused."""

    def faults(text: str | bytes, suffix: str = ".jsonl") -> tuple[str, ...]:
        with pytest.raises(WorkflowError) as refusal:
            read(text, suffix)
        assert str(refusal.value).replace("\n", "").isprintable()
        return refusal.value.problems

    return faults


def test_json_lines(read):
    text = '\ufeff{"id": "a", "group": "one", "5.steps": 3, "Save it.x.format": "mp4"}\r\n\n'
    text += '{"5.steps": 2.5, "7.flag": true, "id": "b.2_c-d"}'
    assert read(text) == [
        Line(1, "a", "one", {"5.steps": 3, "Save it.x.format": "mp4"}),
        Line(3, "b.2_c-d", "", {"5.steps": 2.5, "7.flag": True}),
    ]


def test_csv_says_the_same_as_typed(read):
    text = 'id , group,5.steps,4.prompt\na,one,3,"a cat,\na dog"\n,,,\nb,,,x\n'
    lines = read(text, ".csv")
    assert [(line.number, line.id, line.group) for line in lines] == [(2, "a", "one"), (5, "b", "")]
    # An empty cell leaves the graph's own value; others are typed as on the command line.
    assert [line.settings for line in lines] == [
        {"5.steps": "3", "4.prompt": "a cat,\na dog"},
        {"4.prompt": "x"},
    ]
    assert {type(v) for line in lines for v in line.settings.values()} == {CommandLineText}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("text", ["", "\n \n", "id,5.steps\n"])
def test_an_empty_manifest(faults, text, suffix):
    if suffix == ".jsonl" and "," in text:
        return
    (sentence,) = faults(text, suffix)
    assert sentence.endswith(
        'is empty. Write a line for each run, as {"id": "a", "NODE.INPUT": value}.'
    )


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "it is not valid JSON: "),
        ('{"id": "a", "5.x": NaN}', "NaN is not a number"),
        ('{"id": "a", "id": "b"}', "the key 'id' is given twice"),
        ("[" * 100_000, "it is nested too deeply"),
        ('["id", "a"]', "it is no object"),
        ('{"5.steps": 1}', "it has no 'id'"),
        ('{"id": "a", "steps": 1}', "steps is neither id, group nor NODE.INPUT"),
        ('{"id": "a", "group": 1}', "its group must be text"),
        ('{"id": "a", "group": "\\u001b[31m"}', "its group must be text"),
        *(
            (json.dumps({"id": name}), "is no plain name")
            for name in (
                "", ".", "..", ".a", "-a", "a/b", "../a", "/etc", "a\\b", "C:a", "a b", "\u00e9",
                "a\n", "x" * 101, 7, None,
            )
        ),
        *(
            (json.dumps({"id": name}), "is no name of a folder on Windows")
            for name in ("a.", "CON", "nul.txt", "com1")
        ),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(faults, line, sentence):
    (found,) = faults(f'{{"id": "fine"}}\n\n{line}\n')
    assert found.startswith("Line 3: ") and sentence in found


def test_every_bad_line_is_named(faults):
    found = faults('{"id": "a"}\nx\n{"id": "A"}\n{"id": "b"}\n{}\n{"id": "b"}\n')
    assert [sentence.split(":")[0] for sentence in found] == [
        "Line 2",
        "Line 3",
        "Line 5",
        "Line 6",
    ]
    assert "its id 'A' is that of line 1 already" in found[1]
    assert "its id 'b' is that of line 4 already" in found[3]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2\n", "Line 1: the first row has no column 'id'; it has a, b."),
        ("id,5.x,5.x\n", "Line 1: the first row names 5.x twice"),
        ("id;5.x\na;1\n", "Line 1: the first row has no column 'id'; it has id;5.x."),
        ("id,5.x\na\n", "Line 2: it has 1 cells, and the first row names 2."),
        ('id,5.x\na,"b\n', "Line 2: it is not valid CSV"),
        ("id,5.x\n,1\n", "Line 2: its id '' is no plain name"),
        ('id,5.x\n"a\nb",1\nc\n', "Line 2: its id 'a\\nb' is no plain name"),
    ],
)
def test_bad_csv(faults, text, sentence):
    assert faults(text, ".csv")[0].startswith(sentence)


def test_what_is_no_text_or_no_file(faults, tmp_path):
    assert "is not UTF-8 text" in faults(b"\xff\xfe{")[0]
    with pytest.raises(WorkflowError, match=r"Cannot read the manifest .*: No such file"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(WorkflowError, match="Cannot read the manifest"):
        read_manifest(tmp_path)
