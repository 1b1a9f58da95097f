"""FiVE-Bench and LOVEU-TGVE-2023 as manifests: small folders made up in their published layout."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from rescore.headless.batch.check import check_lines
from rescore.headless.batch.manifest import read_manifest
from rescore.headless.manifest.__main__ import main
from rescore.headless.paths import Folders
from rescore.headless.runner import all_nodes
from rescore.headless.video_read import read_video
from rescore.headless.workflow import read_workflow


@pytest.fixture
def five(tmp_path, write_clip, smooth_frames):
    """Two videos, with two kinds of edits of which one is twice."""
    folder = tmp_path / "five_data"
    for name in ("0001_bus", "0002_girl-dog"):
        (folder / "videos").mkdir(parents=True, exist_ok=True)
        write_clip(folder / "videos" / f"{name}.mp4", smooth_frames(3, 24, 32))
        masks = folder / "bmasks" / name
        masks.mkdir(parents=True)
        for index in range(3):
            picture = np.zeros((24, 32), np.uint8)
            picture[5:11, 7 + index : 13 + index] = 255
            picture[17, 19] = 1  # not black
            Image.fromarray(picture).save(masks / f"{index + 1:05}.png")
    (folder / "edit_prompt").mkdir()

    def pair(video, source, target):
        return {
            "video_name": video,
            "editing_type_id": 1,
            "save_dir": "x",
            "source_prompt": source,
            "target_prompt": target,
        }

    for kind, pairs in {
        "edit1": [
            pair("0001_bus", "A [red bus] on a street", "A [tram] on a street"),
            pair("0002_girl-dog", "A girl", "A boy"),
        ],
        "edit3": [pair("0001_bus", "A red bus", "A blue b\u00fcs")],
    }.items():
        file = folder / "edit_prompt" / f"{kind}_FiVE.json"
        file.write_text(json.dumps(pairs, ensure_ascii=False), "utf-8")
    return folder


def lines_of(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text("utf-8").splitlines()]


def test_five(five, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["five", str(five), "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith("3 lines, of 2 videos.\n")
    lines = lines_of(out)
    assert [line["id"] for line in lines] == [
        "edit1-000-0001_bus", "edit1-001-0002_girl-dog", "edit3-000-0001_bus",
    ]  # fmt: skip
    assert lines[0] == {
        "id": "edit1-000-0001_bus",
        "group": "edit1",
        "Clip to edit.file": "videos/0001_bus.mp4",
        "Encode Prompt Pair.source_prompt": "A red bus on a street",
        "Encode Prompt Pair.target_prompt": "A tram on a street",
        "Mask: white may change.file": "masks/0001_bus.mp4",
    }
    assert lines[2]["Encode Prompt Pair.target_prompt"] == "A blue b\u00fcs"
    mask = read_video(out / "masks" / "0001_bus.mp4").images
    assert mask.shape == (3, 24, 32, 3)
    for index, frame in enumerate(mask[..., 0]):
        expected = np.zeros((24, 32), bool)
        expected[5:11, 7 + index : 13 + index] = expected[17, 19] = True
        assert ((frame > 0.5).numpy() == expected).all()
        assert set(np.unique(frame.numpy())) == {0.0, 1.0}


def test_the_lines_fit_a_shipped_graph(five, root, tmp_path):
    main(["five", str(five), "--out", str(tmp_path / "out")])
    lines = read_manifest(tmp_path / "out" / "manifest.jsonl")
    folders = Folders(tmp_path, (five, tmp_path / "out"))
    graph = read_workflow(root / "workflows" / "api" / "delta_denoising.json")
    checked = check_lines(graph, lines, all_nodes(folders), folders)
    assert checked[1].files.keys() == {"videos/0002_girl-dog.mp4", "masks/0002_girl-dog.mp4"}


def test_inputs_of_another_graph(five, tmp_path):
    names = ["--clip", "1.file", "--target", "4.prompt", "--target", "9.prompt", "--mask", ""]
    assert main(["five", str(five), "--out", str(tmp_path / "out"), *names, "--source", ""]) == 0
    assert lines_of(tmp_path / "out")[1] == {
        "id": "edit1-001-0002_girl-dog",
        "group": "edit1",
        "1.file": "videos/0002_girl-dog.mp4",
        "4.prompt": "A boy",
        "9.prompt": "A boy",
    }
    assert not (tmp_path / "out" / "masks").exists()


def faults(capsys, *arguments):
    assert main(arguments) == 2
    return capsys.readouterr().err.splitlines()[1:]


def test_a_folder_that_is_not_as_published(five, tmp_path, capsys):
    out = str(tmp_path / "out")
    (told,) = faults(capsys, "five", str(tmp_path), "--out", out)
    assert "is no FiVE-Bench: it has no edit_prompt/edit1_FiVE.json" in told
    (five / "videos" / "0002_girl-dog.mp4").unlink()
    shutil.rmtree(five / "bmasks" / "0001_bus")
    (five / "edit_prompt" / "edit4_FiVE.json").write_text("{")
    bad = [
        {"video_name": "../x", "source_prompt": "a", "target_prompt": "b"},
        {"video_name": "x"},
        5,
    ]
    (five / "edit_prompt" / "edit5_FiVE.json").write_text(json.dumps(bad))
    told = faults(capsys, "five", str(five), "--out", out)
    for sentence, found in zip(
        (
            "edit1_FiVE.json, entry 0: bmasks/0001_bus is missing",
            "edit1_FiVE.json, entry 1: videos/0002_girl-dog.mp4 is missing",
            "edit3_FiVE.json, entry 0: bmasks/0001_bus is missing",
            "edit4_FiVE.json cannot be read",
            "edit5_FiVE.json, entry 0: video_name '../x' leaves its folder",
            "edit5_FiVE.json, entry 1: 'source_prompt' is missing",
            "edit5_FiVE.json, entry 2: it is no object",
        ),
        told,
        strict=True,
    ):
        assert sentence in found
    assert not (tmp_path / "out").exists()


HEAD = [
    "Video name", "Our GT caption", "Style Change Caption", "Object Change Caption",
    "Background Change Caption", "Multiple Changes Caption", "Source",
]  # fmt: skip


@pytest.fixture
def tgve(tmp_path):
    """A folder with three videos of two parts; `tgve(rows)` writes its table anew."""
    folder = tmp_path / "loveu-tgve-2023"

    def write(rows):
        with open(
            folder / "LOVEU-TGVE-2023_Dataset.csv", "w", newline="", encoding="utf-8"
        ) as file:
            csv.writer(file).writerows([HEAD, *rows])
        return folder

    for part, names in {"DAVIS_480p": ["stunt"], "videvo_480p": ["lotus", "swans"]}.items():
        (folder / part / "480p_videos").mkdir(parents=True)
        for name in names:
            (folder / part / "480p_videos" / f"{name}.mp4").write_bytes(b"x")
    write(ROWS)
    return write


ROWS = [
    ["DAVIS Videos:"],
    ["stunt", "A man jumps.", "Pixel art.", "A dog jumps.", "On the moon. ", "A dog there.", "url"],
    [],
    ["Videvo Videos:"],
    ["lotus", "A lotus.", "a", "b", "c", "d, \u00e9", ""],
    ["swans", "Swans.", "e", "f", "g", "h", ""],
]  # fmt: skip


def test_tgve(tgve, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["tgve", str(tgve(ROWS)), "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith("12 lines, of 3 videos.\n")
    lines = lines_of(out)
    assert lines[2] == {
        "id": "stunt-background",
        "group": "background",
        "Clip to edit.file": "DAVIS_480p/480p_videos/stunt.mp4",
        "Encode Prompt Pair.source_prompt": "A man jumps.",
        "Encode Prompt Pair.target_prompt": "On the moon.",
    }
    assert [line["id"] for line in lines[4:8]] == [
        "lotus-style", "lotus-object", "lotus-background", "lotus-multiple",
    ]  # fmt: skip
    assert lines[7]["Encode Prompt Pair.target_prompt"] == "d, \u00e9"
    assert lines[8]["Clip to edit.file"] == "videvo_480p/480p_videos/swans.mp4"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "names no video"),
        ([["Vimeo Videos:"]], "Row 2: no folder is known for the part 'Vimeo Videos:'"),
        ([["stunt", *"abcde"]], "Row 2: 'stunt' comes before the first part"),
        ([["DAVIS Videos:"], ["swans", *"abcde"]], "480p_videos/swans.mp4 is missing"),
        ([["DAVIS Videos:"], ["../stunt", *"abcde"]], "Row 3: Video name '../stunt' leaves"),
        ([["DAVIS Videos:"], ["stunt", *"ab", "", *"cd"]], "no Object Change Caption"),
    ],
)  # fmt: skip
def test_a_table_that_is_not_as_published(tgve, tmp_path, capsys, rows, sentence):
    (told,) = faults(capsys, "tgve", str(tgve(rows)), "--out", str(tmp_path / "out"))
    assert sentence in told
    assert not (tmp_path / "out").exists()


def test_tables_that_are_missing_or_short_of_columns(tgve, tmp_path, capsys):
    (told,) = faults(capsys, "tgve", str(tmp_path))
    assert "is no LOVEU-TGVE-2023: it has no LOVEU-TGVE-2023_Dataset.csv" in told
    file = tgve(ROWS) / "LOVEU-TGVE-2023_Dataset.csv"
    file.write_text("Video name,Our GT caption\n")
    (told,) = faults(capsys, "tgve", str(file.parent))
    assert "has no column Style Change Caption, Object Change Caption" in told
    file.write_bytes(b"\xff\xfe\x00")
    (told,) = faults(capsys, "tgve", str(file.parent))
    assert "cannot be read as UTF-8 text" in told
