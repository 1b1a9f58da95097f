"""What decides whether a host can be started, and what it is started with; no host is needed."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from rescore.tests.host.start import host_environment, missing_packages, place_pack

HERE = Path(__file__).resolve().parent


def test_missing_packages_are_named_whatever_their_version(tmp_path):
    (tmp_path / "requirements.txt").write_text(
        "torch\nno-such_package.at-all==1.2\n\n#a comment\npytest~=0.1\ntorchvision\nspandrel\n"
    )
    assert missing_packages(tmp_path) == ["no-such_package.at-all"]


def test_a_folder_without_comfyui_is_a_reason_to_skip(tmp_path):
    absent = runpy.run_path(str(HERE / "conftest.py"))["absent"]
    assert absent(tmp_path) == (
        f"no ComfyUI at {tmp_path}; set COMFYUI_DIR to a folder that holds its main.py"
    )
    (tmp_path / "main.py").touch()
    (tmp_path / "requirements.txt").write_text("no-such-package\n")
    assert "needs packages this Python lacks: no-such-package; " in absent(tmp_path)
    (tmp_path / "requirements.txt").write_text("torch\n")
    assert absent(tmp_path) is None


@pytest.mark.parametrize("links", [True, False])
def test_the_pack_is_placed_as_a_link_or_a_copy(tmp_path, monkeypatch, links):
    pack, custom_nodes = tmp_path / "working copy", tmp_path / "custom_nodes"
    custom_nodes.mkdir()
    for name in ("__init__.py", "nodes/loop.py", ".venv/lib.py", "tests/test_loop.py"):
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        (pack / name).touch()
    if not links:

        def refuse(*args, **kwargs):
            raise OSError("a required privilege is not held by the client")

        monkeypatch.setattr(Path, "symlink_to", refuse)
    place = place_pack(pack, custom_nodes)
    assert (place.name, place.is_symlink()) == ("rescore", links)
    assert (place / "__init__.py").exists()
    assert (place / "nodes" / "loop.py").exists()
    assert (place / ".venv").exists() == links
    assert (place / "tests").exists() == links


def test_the_host_ends_with_the_process_that_started_it(tmp_path):
    main = tmp_path / "main.py"
    main.write_text("import sys, time; print(__name__, sys.argv, flush=True); time.sleep(60)")
    command = [sys.executable, str(HERE / "launch.py"), str(main), "--cpu"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == f"__main__ {[str(main), '--cpu']}\n"
        process.stdin.close()
        assert process.wait(timeout=10) == 0


def test_an_error_of_the_host_is_told_and_is_its_exit(tmp_path):
    main = tmp_path / "main.py"
    main.write_text("import no_such_module")
    command = [sys.executable, str(HERE / "launch.py"), str(main)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.wait(timeout=10) == 1
        assert process.stderr.read().endswith(
            "ModuleNotFoundError: No module named 'no_such_module'\n"
        )


def test_the_stand_ins_let_the_host_and_diffusers_import_and_refuse_to_work(tmp_path):
    code = """
import torchaudio.functional, torchvision.transforms.functional
from torchaudio.transforms import MelScale
from torchvision.models.optical_flow import raft_large
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvF
from transformers import CLIPTextModel, CLIPTokenizer
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
assert InterpolationMode.BILINEAR.value == "bilinear"
for use in (torchvision.transforms.functional.resize, torchaudio.functional.resample):
    try:
        use(None, 5)
    except RuntimeError as refusal:
        print(refusal)
"""
    environment = host_environment(tmp_path) | {"PYTHONPATH": str(HERE / "stand_ins")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (
        0,
        "torchvision.transforms.functional.resize needs the real torchvision; "
        "only a stand-in is installed here.\n"
        "torchaudio.functional.resample needs the real torchaudio; "
        "only a stand-in is installed here.\n",
    ), done.stderr
