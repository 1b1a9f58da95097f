"""What every test stands on: the pack as `rescore`, a device to run on, a fresh interpreter."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IMPORTABLE = ROOT / "tests" / "importable.py"

runpy.run_path(str(IMPORTABLE))


class RootIsAFolder:
    """Lets pytest see the repository root as a plain folder.

    As a package it would be imported by the name of the folder, outside `rescore`, and that name
    need not even be one that can be imported.
    """

    @staticmethod
    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(RootIsAFolder)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cpu",
        help="torch device of the tests that take one, e.g. cuda; they are skipped if it is absent",
    )
    parser.addoption(
        "--every-graph",
        action="store_true",
        help="run every shipped graph ten times in a real ComfyUI and watch its memory: 15 minutes",
    )


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest):
    """The torch device named by --device (the CPU by default); skips when this machine lacks it."""
    import torch

    wanted = torch.device(request.config.getoption("--device"))
    present = torch.accelerator.current_accelerator(check_available=True)
    if wanted.type != "cpu" and (present is None or present.type != wanted.type):
        pytest.skip(f"this machine has no {wanted.type} device")
    return wanted


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope="module")
def benchmarks_on_the_path(root):
    """The modules of `benchmarks/` by their own names, as their commands import each other."""
    folder, known = root / "benchmarks", set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
    for name in set(sys.modules) - known:
        # By their short names alone; other libraries must not be imported twice.
        file = getattr(sys.modules[name], "__file__", None)
        if not name.startswith("rescore") and file and Path(file).is_relative_to(folder):
            sys.modules.pop(name)


@pytest.fixture
def fresh_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs code in a new interpreter that can import `rescore`, in an empty working folder.

    `fresh_python(code, *arguments)` returns the finished process with its text output; `options`
    are the interpreter's own, e.g. `("-W", "error")`. The command line of a room is started with
    `import runpy; runpy.run_module("rescore.headless", run_name="__main__", alter_sys=True)`.
    """

    def run(code: str, *arguments: str, options: tuple[str, ...] = ()):
        importable = f"__import__('runpy').run_path({str(IMPORTABLE)!r})"
        command = [sys.executable, *options, "-c", f"{importable}\n{code}", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False
        )

    return run
