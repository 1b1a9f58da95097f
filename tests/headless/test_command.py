"""The command line in a process of its own: exit status, messages, folders, and being stopped."""

import json
import signal
import subprocess
import sys

import pytest

RUN = "import runpy; runpy.run_module('rescore.headless', run_name='__main__', alter_sys=True)"

WORKFLOW = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
    "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
    "3": {
        "class_type": "ImageCompositeMasked",
        "inputs": {
            "destination": ["2", 0],
            "source": ["2", 0],
            "x": 5,
            "y": 3,
            "resize_source": False,
        },
        "_meta": {"title": "Shift"},
    },
    "4": {
        "class_type": "CreateVideo",
        "inputs": {"images": ["3", 0], "audio": ["2", 1], "fps": ["2", 2]},
    },
    "5": {
        "class_type": "SaveVideo",
        "inputs": {
            "video": ["4", 0],
            "filename_prefix": "moved",
            "format": "auto",
            "codec": "auto",
        },
    },
}


@pytest.fixture
def place(tmp_path, write_clip, smooth_frames):
    """`workflows/api/shift.json` beside `workflows/input/clip.mp4`, in the working folder."""
    for name in ("api", "input"):
        (tmp_path / "workflows" / name).mkdir(parents=True)
    (tmp_path / "workflows" / "api" / "shift.json").write_text(json.dumps(WORKFLOW))
    write_clip(tmp_path / "workflows" / "input" / "clip.mp4", smooth_frames(5, 24, 32))
    return tmp_path


def test_a_run(fresh_python, place):
    done = fresh_python(RUN, "workflows/api/shift.json", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert (place / "out" / "moved_00001_.mp4").is_file()
    lines = done.stdout.splitlines()
    assert lines[0].startswith("[1/5] ") and lines[0].endswith("node 1 (LoadVideo)")
    assert 'node 3 (ImageCompositeMasked, "Shift")' in done.stdout
    assert "    wrote " in done.stdout and "1 file(s) in out." in lines[-1]
    assert done.stderr == ""


def test_settings_reach_their_nodes(fresh_python, place):
    from rescore.headless.video_read import read_video

    done = fresh_python(
        RUN,
        "workflows/api/shift.json",
        "--out",
        "out",
        "--set",
        "Shift.x=20",
        "--set",
        "3.y=10",
        "--set",
        "SaveVideo.filename_prefix=7",
    )
    assert done.returncode == 0, done.stderr
    source = read_video(place / "workflows" / "input" / "clip.mp4").images
    moved = read_video(place / "out" / "7_00001_.mp4").images
    source[:, 10:, 20:] = source[:, :-10, :-20].clone()
    assert (moved - source).abs().mean() < 0.02


def test_input_folders_come_from_the_command_line(fresh_python, place):
    (place / "workflows" / "api" / "shift.json").rename(place / "shift.json")
    (place / "workflows" / "input").rename(place / "clips")
    without = fresh_python(RUN, "shift.json", "--out", "out")
    assert without.returncode == 2 and "no input folder; name one with --input" in without.stderr
    assert not (place / "out").exists()
    assert fresh_python(RUN, "shift.json", "--out", "out", "--input", "clips").returncode == 0
    missing = fresh_python(RUN, "shift.json", "--out", "out", "--input", "nowhere")
    assert missing.returncode == 2 and "--input nowhere: there is no such folder" in missing.stderr


def test_check_runs_nothing(fresh_python, place):
    done = fresh_python(RUN, "workflows/api/shift.json", "--out", "out", "--check")
    assert done.returncode == 0 and "is sound: 5 node(s) would run" in done.stdout
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.json", "--out", "out"], "Cannot read the workflow none.json"),
        (
            ["workflows/api/shift.json", "--out", "out", "--set", "3.x"],
            "expected NODE.INPUT=VALUE",
        ),
        (
            ["workflows/api/shift.json", "--out", "out", "--set", "3.resize_sorce=5"],
            "did you mean 'resize_source'?",
        ),
        (
            ["workflows/api/shift.json", "--out", "out", "--set", "3.x=-5"],
            "must lie in [0, 16384]",
        ),
        (["workflows/api/shift.json"], "--out"),
    ],
)
def test_faults_are_status_2(fresh_python, place, arguments, sentence):
    done = fresh_python(RUN, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr and "Traceback" not in done.stderr
    assert not (place / "out").exists()


def test_a_failing_node_is_status_1_and_one_sentence(fresh_python, place):
    (place / "workflows" / "input" / "clip.mp4").write_text("no film\n" * 99)
    done = fresh_python(RUN, "workflows/api/shift.json", "--out", "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("Node 2 (GetVideoComponents): 'clip.mp4' is not a video")
    assert list((place / "out").iterdir()) == []
    verbose = fresh_python(RUN, "workflows/api/shift.json", "--out", "out", "--verbose")
    assert verbose.returncode == 1 and "Traceback" in verbose.stderr


# Encodes for ever: each frame that the encoder takes makes it wait for the next.
SLOW = """
import signal, sys, time
# Of what runs in the background of a script, the shell has interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from rescore.headless import video_write
class Slowly(video_write.Scaler):
    def __call__(self, frame):
        print("ENCODING", flush=True)
        time.sleep(600)  # until the signal comes, however slow the machine
video_write.Scaler = Slowly
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_being_stopped_in_the_middle_of_a_write_leaves_no_file(root, place, number):
    code = f"__import__('runpy').run_path({str(root / 'tests' / 'importable.py')!r})\n{SLOW}\n{RUN}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "workflows/api/shift.json", "--out", "out"],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "ENCODING" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert [path for path in (place / "out").rglob("*") if path.is_file()] == []
    if number != signal.SIGKILL:
        assert process.returncode == 130, errors
        assert "Stopped." in output and "Traceback" not in errors
