"""The two commands of this repository, for a machine with nothing but Python 3.10 or newer.

    python3 dev.py demo [options]       edit the shipped clip and write the result to demo_out/
    python3 dev.py test [pytest args]   lint, browser tests and the whole test suite, on the CPU
    python3 dev.py lint                 lint alone

Each sets up `.venv` beside this file first. A stamp, written last, names what the environment was
made from: while it holds, a run starts at once; an environment that was left half-made, or whose
requirements have changed, is mended. Only the standard library is used here.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

if sys.version_info < (3, 10):
    sys.exit(
        f"dev.py needs Python 3.10 or newer, but {sys.executable} is {sys.version.split()[0]}: "
        "start it with a newer one, for example python3.12 dev.py test"
    )

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
REQUIREMENTS = ROOT / "requirements-dev.txt"
HOST_REQUIREMENTS = ROOT / "tests" / "host" / "requirements.txt"
STAMP = VENV / "rescore.stamp"
HOST_STAMP = VENV / "rescore-host.stamp"
FRONT_ENDS = VENV / "front_ends"


class SetupError(Exception):
    """The environment could not be made; the message says what to do."""


def say(text):
    """Print one line at once, so that it stays in order with the output of the tools."""
    print(f"[dev] {text}", flush=True)


def python(*arguments):
    """Run the environment's Python and return its exit status.

    Isolated (-I), so that neither the working folder nor PYTHONPATH can stand in for a module: this
    folder's `nodes` must never be found as the top-level module of that name.
    """
    return subprocess.run([str(PYTHON), "-I", *map(str, arguments)], check=False).returncode


def pip_install(*arguments):
    """Install into the environment, or raise a SetupError."""
    if python("-m", "pip", "install", "--disable-pip-version-check", *arguments) != 0:
        raise SetupError(
            f"pip could not install {' '.join(map(str, arguments))} (its messages are above): "
            "check the network connection and the free disk space, then run the same command again."
        )


def fingerprint(*files):
    """A digest of what an environment is made from: these files, the Python and the place."""
    parts = [f"{sys.version_info[0]}.{sys.version_info[1]}".encode(), str(ROOT).encode()]
    parts += [file.read_bytes() for file in files]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_current(stamp, wanted):
    """Whether the stamp is there and names this fingerprint."""
    return stamp.is_file() and stamp.read_text(encoding="ascii") == wanted


def venv_works():
    """Whether the environment has a Python that starts, is of our version and has pip."""
    check = (
        "import sys, importlib.util as u;"
        f"sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])} or not u.find_spec('pip'))"
    )
    try:
        return python("-c", check) == 0
    except OSError:
        return False


def make_venv():
    """Make the environment anew, or raise a SetupError."""
    say(f"making {VENV} with Python {sys.version.split()[0]}")
    if sys.platform == "linux" and "PIP_EXTRA_INDEX_URL" not in os.environ:
        say("torch for Linux brings gigabytes of CUDA with it; for its small CPU build, stop here")
        say("and set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu")
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False).returncode:
        raise SetupError(
            f"Python could not make a virtual environment at {VENV} (its messages are above): on "
            "Debian and Ubuntu install the package python3-venv, then run the same command again."
        )


def set_up():
    """Make or mend the environment: the pinned developer set and this pack, editable."""
    wanted = fingerprint(REQUIREMENTS, ROOT / "pyproject.toml")
    works = venv_works()
    if works and is_current(STAMP, wanted):
        return
    STAMP.unlink(missing_ok=True)
    if not works:
        make_venv()
    say(f"installing {REQUIREMENTS.name} and the pack into {VENV.name}")
    pip_install("-r", REQUIREMENTS)
    pip_install("--no-deps", "--no-build-isolation", "-e", ROOT)
    STAMP.write_text(wanted, encoding="ascii")
    say("the environment is ready")


def find_comfyuis():
    """The folders of the ComfyUIs that the host tests run in ($COMFYUI_DIR, default ~/ComfyUI)."""
    named = [name for name in os.environ.get("COMFYUI_DIR", "").split(os.pathsep) if name]
    folders = [Path(name).expanduser() for name in named or ["~/ComfyUI"]]
    return [folder for folder in folders if (folder / "main.py").is_file()]


def set_up_hosts():
    """Install what ComfyUIs on this machine need to start, never moving a pinned package."""
    comfyuis = find_comfyuis()
    if not comfyuis or not HOST_REQUIREMENTS.is_file():
        return
    wanted = fingerprint(REQUIREMENTS, HOST_REQUIREMENTS)
    if not is_current(HOST_STAMP, wanted):
        HOST_STAMP.unlink(missing_ok=True)
        say("installing what ComfyUI needs, for the tests that start it")
        pip_install("-r", HOST_REQUIREMENTS, "-c", REQUIREMENTS)
        HOST_STAMP.write_text(wanted, encoding="ascii")
    for comfyui in comfyuis:
        set_up_front_end(comfyui)


def set_up_front_end(comfyui):
    """Bring the front end that a ComfyUI pins, if it is another than all others need."""
    pin = re.compile(r"^comfyui-frontend-package==(\S+)", re.MULTILINE)
    own, common = (
        pin.search(file.read_text(encoding="utf-8"))
        for file in (comfyui / "requirements.txt", HOST_REQUIREMENTS)
    )
    if own is None or (common and own[1] == common[1]):
        return
    place = FRONT_ENDS / own[1]
    if not place.is_dir():
        say(f"installing the front end of the ComfyUI at {comfyui}")
        unfinished = place.with_name(place.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        pip_install("--no-deps", "--target", unfinished, own[0])
        unfinished.rename(place)


def run_lint():
    """Ruff's rules and its formatting; 0 if both hold."""
    ruff = ("-m", "ruff")
    checked = python(*ruff, "check", ROOT)
    return python(*ruff, "format", "--check", ROOT) or checked


def run_browser_tests():
    """The tests of js/ under node; 0 if they pass, None if there is nothing to run them with."""
    files = sorted((ROOT / "js" / "tests").glob("*.test.mjs"))
    if not files:
        say("skipped: there is no js/tests/*.test.mjs")
        return None
    node = shutil.which("node")
    if node is None:
        say("skipped: node is not installed, so the browser code is not tested here")
        return None
    return subprocess.run([node, "--test", *map(str, files)], check=False).returncode


def run_pytest(arguments):
    """The test suite, or the part the arguments name; pytest's own exit status.

    A process for each core, of one thread: on models of this size more threads make no speed.
    """
    os.chdir(ROOT)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parallel = ("-n", os.cpu_count() or 1, "--dist", "loadfile")
    return python("-m", "pytest", *parallel, *arguments)


def demo(arguments):
    """Edit the shipped clip; later arguments, e.g. another --out, take precedence."""
    return python("-m", "rescore.headless.demo", "--out", ROOT / "demo_out", *arguments)


def lint(arguments):
    """Lint alone."""
    if arguments:
        raise SetupError(f"lint takes no arguments, but got: {' '.join(arguments)}")
    return run_lint()


def test(arguments):
    """Every check, each to its end even when an earlier one failed; 1 if any of them failed."""
    set_up_hosts()
    results = []
    for name, step in (
        ("lint", run_lint),
        ("browser tests", run_browser_tests),
        ("tests", lambda: run_pytest(arguments)),
    ):
        say(f"--- {name}")
        start = time.monotonic()
        results.append((name, step(), time.monotonic() - start))
    words = {None: "skipped", 0: "passed"}
    for name, status, seconds in results:
        say(f"{name:15s} {words.get(status, 'FAILED'):8s} {seconds:6.1f} s")
    return int(any(status for _, status, _ in results))


COMMANDS = {"demo": demo, "test": test, "lint": lint}


def main(arguments):
    """Run the command the arguments name and return the exit status."""
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        set_up()
        return COMMANDS[arguments[0]](arguments[1:])
    except SetupError as error:
        print(f"dev.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
