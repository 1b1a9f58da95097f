"""dev.py on a small repository of the same layout: real environments, real pip, no network."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A build backend in the repository itself: its editable wheel puts `site/` on the path.
BACKEND = """
import pathlib, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "rescore-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("rescore.pth", str(pathlib.Path("site").resolve()))
        info = "rescore-0.1.0.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: rescore\\nVersion: 0.1.0")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any")
        wheel.writestr(info + "RECORD", "")
    return name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
FILES = {
    "pyproject.toml": PYPROJECT,
    "backend.py": BACKEND,
    "requirements-dev.txt": "# nothing\n",
    "site/rescore/__init__.py": "",
    "site/rescore/headless/__init__.py": "",
    "site/rescore/headless/demo.py": "import sys\nprint('demo with', sys.argv[1:])\nsys.exit(7)\n",
    # Stand for the tools: they print what they were asked, and fail when asked to.
    "site/ruff.py": "import os, sys\nprint('ruff', sys.argv[1])\n"
    "sys.exit(sys.argv[1] in os.environ.get('FAILING', ''))\n",
    "site/pytest.py": "import os, sys\nprint('pytest', sys.argv[1:])\n"
    "sys.exit('pytest' in os.environ.get('FAILING', ''))\n",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """The small repository, in a folder with a blank in its name."""
    folder = tmp_path_factory.mktemp("dev") / "a pack"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "dev.py", folder)
    return folder


@pytest.fixture
def dev(repository: Path, tmp_path: Path, monkeypatch) -> Callable:
    """Runs dev.py in the small repository, from elsewhere, with nothing that pip could download."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path / "none"))
    (repository / "requirements-dev.txt").write_text("# nothing\n", encoding="utf-8")

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(repository / "dev.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_demo_sets_up_once_and_hands_on_arguments_and_status(dev, repository):
    first, second = dev("demo"), dev("demo", "--steps", "3")
    assert first.returncode == second.returncode == 7, first.stderr
    out = str(repository / "demo_out")
    assert f"demo with {['--out', out]}" in first.stdout
    assert second.stdout.splitlines() == [f"demo with {['--out', out, '--steps', '3']}"]


def test_changed_requirements_are_installed(dev, repository):
    dev("demo")
    (repository / "requirements-dev.txt").write_text("# still nothing\n", encoding="utf-8")
    assert "installing requirements-dev.txt" in dev("demo").stdout
    assert "installing" not in dev("demo").stdout


def test_failing_pip_is_one_sentence_and_leaves_no_stamp(dev, repository):
    dev("demo")
    (repository / "requirements-dev.txt").write_text("not-there==1.0\n", encoding="utf-8")
    failed = dev("demo")
    assert failed.returncode == 1
    assert "demo with" not in failed.stdout
    assert failed.stderr.splitlines()[-1].startswith("dev.py: pip could not install -r ")
    assert "Traceback" not in failed.stderr
    assert not (repository / ".venv" / "rescore.stamp").exists()
    (repository / "requirements-dev.txt").write_text("# nothing\n", encoding="utf-8")
    assert dev("demo").returncode == 7


def test_half_made_environment_is_mended(dev, repository):
    dev("demo")
    for file in (repository / ".venv" / ("Scripts" if os.name == "nt" else "bin")).glob("python*"):
        file.unlink()
    mended = dev("demo")
    assert mended.returncode == 7, mended.stderr
    assert "making" in mended.stdout


@pytest.mark.parametrize(
    ("failing", "status"), [("", 0), ("check", 1), ("format", 1), ("pytest", 1)]
)
def test_every_check_runs_even_when_one_fails(dev, monkeypatch, failing, status):
    monkeypatch.setenv("FAILING", failing)
    run = dev("test", "-k", "walls")
    lines = run.stdout.splitlines()
    assert run.returncode == status, run.stderr
    assert {"ruff check", "ruff format"} <= set(lines)
    (called,) = (line for line in lines if line.startswith("pytest"))
    assert called.endswith("'-k', 'walls']")  # after ours, so that they take precedence
    assert "[dev] skipped: there is no js/tests/*.test.mjs" in lines
    assert run.stdout.count("FAILED") == status


def test_what_a_comfyui_needs_is_installed_for_the_tests_only(
    dev, repository, tmp_path, monkeypatch
):
    comfyuis = [make_comfyui(tmp_path / name, pin) for name, pin in (("new", "2.0"), ("old", "1"))]
    host = repository / "tests" / "host"
    host.mkdir(parents=True)
    (host / "requirements.txt").write_text("comfyui-frontend-package==2.0\n")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for version in ("1", "2.0"):
        write_front_end(wheels, version)
    monkeypatch.setenv("PIP_FIND_LINKS", wheels.as_uri())
    monkeypatch.setenv("COMFYUI_DIR", os.pathsep.join(map(str, [tmp_path / "none", *comfyuis])))
    assert "ComfyUI" not in dev("demo").stdout
    first = dev("test")
    assert "installing what ComfyUI needs" in first.stdout, first.stderr
    assert f"installing the front end of the ComfyUI at {comfyuis[1]}" in first.stdout
    (brought,) = (repository / ".venv" / "front_ends").iterdir()
    assert brought.name == "1"
    assert (brought / "comfyui_frontend_package" / "static" / "version").read_text() == "1"
    assert "installing" not in dev("test").stdout


def make_comfyui(folder: Path, front_end: str) -> Path:
    """A folder that looks like a ComfyUI with a pinned front end."""
    folder.mkdir()
    (folder / "main.py").touch()
    (folder / "requirements.txt").write_text(f"torch\ncomfyui-frontend-package=={front_end}\n")
    return folder


def write_front_end(folder: Path, version: str) -> None:
    """A wheel of a front end that holds nothing but its version."""
    name = f"comfyui_frontend_package-{version}"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("comfyui_frontend_package/static/version", version)
        about = f"Metadata-Version: 2.1\nName: comfyui-frontend-package\nVersion: {version}"
        wheel.writestr(f"{name}.dist-info/METADATA", about)
        tag = "Wheel-Version: 1.0\nTag: py3-none-any\nRoot-Is-Purelib: true"
        wheel.writestr(f"{name}.dist-info/WHEEL", tag)
        wheel.writestr(f"{name}.dist-info/RECORD", "")


def test_browser_tests_count(dev, repository):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    script = repository / "js" / "tests" / "broken.test.mjs"
    script.parent.mkdir(parents=True)
    script.write_text("import test from 'node:test'; test('no', () => { throw 1; });")
    run = dev("test")
    shutil.rmtree(repository / "js")
    assert run.returncode == 1
    assert "browser tests   FAILED" in run.stdout


@pytest.mark.parametrize(("arguments", "status"), [((), 2), (("tset",), 2), (("--help",), 0)])
def test_unknown_command_shows_the_usage(dev, arguments, status):
    run = dev(*arguments)
    assert run.returncode == status
    assert "python3 dev.py demo" in run.stdout


def test_too_old_a_python_can_read_the_file_that_refuses_it():
    source = (ROOT / "dev.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 7))
    guard = next(node for node in tree.body if isinstance(node, ast.If))
    functions = [node.lineno for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert ast.unparse(guard.test) == "sys.version_info < (3, 10)"
    assert guard.lineno < min(functions)
