"""Containment: no name from a workflow reads outside the input folders or writes outside out."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rescore.headless.paths import (
    Folders,
    find_input,
    next_number,
    output_place,
    publish,
    safe_parts,
)

HOSTILE = [
    "/etc/passwd",
    "\\windows\\system.ini",
    "//server/share/a.mp4",
    "\\\\server\\share\\a.mp4",
    "\\\\?\\C:\\a.mp4",
    "C:\\a.mp4",
    "C:a.mp4",
    "a.mp4:stream",
    "..",
    "../secret.mp4",
    "..\\secret.mp4",
    "sub/../../secret.mp4",
    "sub/.. /secret.mp4",
    "sub/.../secret.mp4",
    "a\0.mp4",
    "a\n.mp4",
    "a\x1b[31m.mp4",
    "\ud800.mp4",
    "\u202egnp.exe",
    "",
    ".",
    "./.",
    "/",
    "x" * 300,
    "é" * 150,
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_are_refused_everywhere(folders, name):
    (folders.inputs[0].parent / "secret.mp4").write_bytes(b"secret")
    with pytest.raises(ValueError, match=r"\.$"):
        find_input(name, folders)
    with pytest.raises(ValueError, match=r"\.$"):
        output_place(name, folders, 1, 1)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_refusals_can_be_printed(name):
    with pytest.raises(ValueError) as refusal:
        safe_parts(name, "file")
    assert str(refusal.value).isprintable()
    str(refusal.value).encode("utf-8")


@pytest.mark.parametrize(
    "name",
    [
        "a.mp4",
        "sub/a.mp4",
        "sub\\a.mp4",
        "./sub//a.mp4",
        "sub/a.mp4 [input]",
        "~",
        "$HOME",
        "%TEMP%",
        "été.mp4",
    ],
)
def test_plain_names_are_found(folders, name):
    root = folders.inputs[0]
    (root / "sub").mkdir()
    for file in ("a.mp4", "sub/a.mp4", "~", "$HOME", "%TEMP%", "été.mp4"):
        (root / file).write_bytes(b"x")
    found = find_input(name, folders)
    assert found.is_file() and found.is_relative_to(root.resolve())


def test_input_folders_are_searched_in_order(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "both.mp4").write_text(name)
    (tmp_path / "second" / "one.mp4").write_text("second")
    folders = Folders(
        tmp_path / "out", (tmp_path / "missing", tmp_path / "first", tmp_path / "second")
    )
    assert find_input("both.mp4", folders).read_text() == "first"
    assert find_input("one.mp4", folders).read_text() == "second"


def test_missing_files_name_what_is_there(folders):
    (folders.inputs[0] / "dancer.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"'dacner\.mp4' is not in .* Did you mean dancer\.mp4\?"):
        find_input("dacner.mp4", folders)
    with pytest.raises(ValueError, match=r"There are: dancer\.mp4\."):
        find_input("zzz", folders)
    with pytest.raises(ValueError, match="no input folder; name one with --input"):
        find_input("zzz", Folders(folders.out))


@pytest.mark.parametrize("kind", ["output", "temp"])
def test_other_folders_cannot_be_read_through_an_annotation(folders, kind):
    (folders.inputs[0] / f"a.mp4 [{kind}]").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=f"asks for the {kind} folder; only input folders are read"
    ):
        find_input(f"a.mp4 [{kind}]", folders)


def test_folders_and_pipes_are_no_files(folders):
    (folders.inputs[0] / "folder.mp4").mkdir()
    with pytest.raises(ValueError, match="is not in the input folder"):
        find_input("folder.mp4", folders)
    if hasattr(os, "mkfifo"):
        os.mkfifo(folders.inputs[0] / "pipe.mp4")
        with pytest.raises(ValueError, match="is not in the input folder"):
            find_input("pipe.mp4", folders)


def link(path: Path, target: Path) -> None:
    """A symbolic link, or a skip where the system forbids them."""
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("this system does not let us make symbolic links")


def test_links_that_lead_out_are_refused(folders, tmp_path):
    root = folders.inputs[0]
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.mp4").write_bytes(b"secret")
    link(root / "link.mp4", tmp_path / "secret.mp4")
    link(root / "dir", tmp_path / "elsewhere")
    link(root / "loop.mp4", root / "loop.mp4")
    for name in ("link.mp4", "dir/a.mp4"):
        with pytest.raises(ValueError, match="a link that leads out of the input folder"):
            find_input(name, folders)
    with pytest.raises(ValueError):
        find_input("loop.mp4", folders)
    link(folders.out / "dir", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="leads out of the output folder through a link"):
        output_place("dir/clip", folders, 1, 1)


def test_links_that_stay_inside_are_fine(folders):
    root = folders.inputs[0]
    (root / "a.mp4").write_bytes(b"x")
    link(root / "b.mp4", root / "a.mp4")
    assert find_input("b.mp4", folders) == (root / "a.mp4").resolve()


def test_an_input_folder_may_itself_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.mp4").write_bytes(b"x")
    link(tmp_path / "alias", tmp_path / "real")
    assert find_input("a.mp4", Folders(tmp_path, (tmp_path / "alias",))).is_file()


NAMES = st.text(st.sampled_from("ab./\\:~ \0\n%[]é\ud800") | st.characters(), max_size=24)


@settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=NAMES)
def test_any_name_is_contained_or_refused(folders, name):
    """Fuzz: whatever the name, the path lies inside, or a printable sentence refuses it."""
    out = folders.out.resolve()
    try:
        folder, stem = output_place(name, folders, 64, 48)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert (folder / f"{stem}_00001_.mp4").resolve().is_relative_to(out)
        assert Path(stem).name == stem
        path = publish(b"data", folder, stem, ".mp4", folders)
        assert path.resolve().is_relative_to(out) and path.read_bytes() == b"data"
    try:
        find_input(name, folders)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        pytest.fail("found a file in an empty folder")


def test_files_are_numbered_like_the_hosts(folders):
    place = output_place("video/clip", folders, 1, 1)
    names = [publish(b"x", *place, ".mp4", folders).name for _ in range(3)]
    assert names == ["clip_00001_.mp4", "clip_00002_.mp4", "clip_00003_.mp4"]
    (folders.out / "video" / "clip_00041_.webm").write_bytes(b"")
    (folders.out / "video" / "clipping_00077_.mp4").write_bytes(b"")
    (folders.out / "video" / "clip_final.mp4").write_bytes(b"")
    assert publish(b"x", *place, ".mp4", folders).name == "clip_00042_.mp4"
    assert folders.saved[-1] == (folders.out / "video" / "clip_00042_.mp4").resolve()


def test_an_existing_file_is_never_replaced(folders, monkeypatch):
    place = output_place("clip", folders, 1, 1)
    (folders.out / "clip_00001_.mp4").write_bytes(b"mine")
    # another run takes the number between our look and our write
    monkeypatch.setattr("rescore.headless.paths.next_number", lambda folder, stem: 1)
    assert publish(b"new", *place, ".mp4", folders).name == "clip_00002_.mp4"
    assert (folders.out / "clip_00001_.mp4").read_bytes() == b"mine"


def test_without_hard_links_files_still_appear_whole(folders, monkeypatch):
    def no_links(source, target):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    path = publish(b"data", *output_place("clip", folders, 1, 1), ".mp4", folders)
    assert path.read_bytes() == b"data"
    assert [entry.name for entry in folders.out.iterdir()] == ["clip_00001_.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="permission bits of POSIX")
def test_files_get_the_usual_permissions(folders):
    (folders.out / "usual").write_bytes(b"")
    path = publish(b"x", *output_place("clip", folders, 1, 1), ".mp4", folders)
    assert path.stat().st_mode == (folders.out / "usual").stat().st_mode


def test_a_failed_write_leaves_nothing(folders, monkeypatch):
    class Full:
        def __init__(self, *_):
            Path(_[0]).write_bytes(b"half")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("rescore.headless.paths.open", Full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        publish(b"data", *output_place("clip", folders, 1, 1), ".mp4", folders)
    assert list(folders.out.iterdir()) == [] and folders.saved == []


def test_placeholders(folders):
    folder, stem = output_place("%width%x%height%/take_%year%_%nonsense%", folders, 640, 480)
    assert folder.name == "640x480"
    assert stem.startswith("take_20") and stem.endswith("_%nonsense%")


def test_numbers_beyond_reason_are_ignored(folders):
    (folders.out / ("clip_" + "9" * 100 + "_.mp4")).write_bytes(b"")
    (folders.out / "clip_\u0663_.mp4").write_bytes(b"")
    assert next_number(folders.out, "clip") == 1
