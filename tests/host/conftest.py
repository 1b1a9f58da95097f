"""The running hosts of the whole session, and their logs beside every failure.

Every test that uses a host runs once in each ComfyUI that COMFYUI_DIR names.
"""

import os
import re
from pathlib import Path

import pytest
from rescore.headless.pictures import Developer
from rescore.tests.host.browser import find_browser, started
from rescore.tests.host.start import (
    front_end_root,
    front_end_version,
    missing_packages,
    running,
)
from rescore.workflows.host_nodes import needs_host

HOSTS = [
    Path(folder).expanduser()
    for folder in os.environ.get("COMFYUI_DIR", "").split(os.pathsep)
    if folder
] or [Path("~/ComfyUI").expanduser()]


def version_of(comfyui: Path) -> str:
    """What a test is called by that runs in this host."""
    file = comfyui / "comfyui_version.py"
    found = file.is_file() and re.search(r'__version__ = "(.+)"', file.read_text("utf-8"))
    return found[1] if found else "no host"


def absent(comfyui: Path) -> str | None:
    """Why no host can be started from this folder, or None."""
    if not (comfyui / "main.py").is_file():
        return f"no ComfyUI at {comfyui}; set COMFYUI_DIR to a folder that holds its main.py"
    missing = missing_packages(comfyui)
    if missing:
        return (
            f"the ComfyUI at {comfyui} needs packages this Python lacks: {', '.join(missing)}; "
            "python -m pip install -r tests/host/requirements.txt brings them"
        )
    root = front_end_root(comfyui)
    if root is not None and not root.is_dir():
        return (
            f"the ComfyUI at {comfyui} needs its front end {front_end_version(comfyui)}, which is "
            f"not at {root}; python3 dev.py test brings it"
        )
    return None


@pytest.fixture(scope="session", params=HOSTS, ids=version_of)
def comfyui(request, root: Path):
    """A ComfyUI with this pack, started once; holds every file of workflows/input as its input."""
    reason = absent(request.param)
    if reason:
        pytest.skip(reason)
    with running(request.param, root) as host:
        for clip in (root / "workflows" / "input").glob("*"):
            host.put_input(clip)
        yield host


NATIVE_SINCE = 0, 16  # the first ComfyUI that loads the tiny Wan


def skip_if_too_old(comfyui, workflow: dict) -> None:
    """Skip a test of a workflow on the host's own model where the host cannot load the tiny Wan."""
    if needs_host(workflow) and comfyui.version() < NATIVE_SINCE:
        pytest.skip("this ComfyUI cannot load the tiny Wan")


@pytest.fixture(scope="session")
def object_info(comfyui) -> dict:
    """What the host says of every node it has."""
    return comfyui.get("/object_info")


@pytest.fixture
def decoded_alike(comfyui, monkeypatch):
    """The headless runner decodes as the host does, without its own care for colours."""
    kind = "rgb24" if comfyui.version() < (0, 20) else "gbrp16le"
    monkeypatch.setattr(Developer, "__call__", lambda self, frame: frame.to_ndarray(format=kind))


@pytest.fixture(scope="module")
def browser(comfyui):
    """A browser for the pages of one module.

    The host comes first: both have an event loop, and the host's cannot start in the browser's.
    """
    pytest.importorskip(
        "playwright",
        reason="no Playwright; python -m pip install -r tests/host/requirements.txt brings it",
    )
    executable = find_browser()
    if executable is None:
        pytest.skip("no Chromium on the PATH; install one or name it in CHROMIUM")
    with started(executable) as browser:
        yield browser


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Shows what the host printed last with the failure of a test that uses it."""
    report = yield
    host = getattr(item, "funcargs", {}).get("comfyui")
    if report.failed and host is not None:
        report.sections.append(("ComfyUI log, its end", host.log()[-6000:]))
    return report
