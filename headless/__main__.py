"""Runs an API-format ComfyUI workflow without ComfyUI.

    python -m rescore.headless workflows/api/NAME.json --set 5.steps=20 --out results

Exit status: 0 done, 1 a node failed, 2 the workflow or the command line is wrong, 130 stopped.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from .errors import NodeError, WorkflowError
from .overrides import CommandLineText
from .workflow import read_workflow


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, example = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m rescore.headless",
        description=summary,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workflow", type=Path, help="API-format JSON (Workflow > Export (API))")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the results; nothing else is written"
    )
    parser.add_argument(
        "--input",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder that LoadVideo and LoadImage read; may be repeated. A workflow in a folder "
        "'api' also reads the folder 'input' beside that one",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="change an input; NODE is an id, or a title or class that only one node has; VALUE is "
        "JSON where it parses and text otherwise; may be repeated",
    )
    parser.add_argument("--check", action="store_true", help="check the workflow, run nothing")
    parser.add_argument("--verbose", action="store_true", help="more log, tracebacks of failures")
    return parser


def parse_settings(settings: Sequence[str]) -> dict[str, CommandLineText]:
    """`NODE.INPUT=VALUE` texts as overrides; of two for one input the later counts."""
    overrides = {}
    for setting in settings:
        target, equals, value = setting.partition("=")
        if not equals:
            raise WorkflowError([f"--set {setting}: expected NODE.INPUT=VALUE."])
        overrides[target.strip()] = CommandLineText(value)
    return overrides


def input_folders(workflow: Path, named: Sequence[Path]) -> list[Path]:
    """The folders named, then `workflows/input` for a workflow in `workflows/api`."""
    for folder in named:
        if not folder.is_dir():
            raise WorkflowError([f"--input {folder}: there is no such folder."])
    folder = workflow.resolve().parent
    shipped = folder.parent / "input"
    return [*named, shipped] if folder.name == "api" and shipped.is_dir() else list(named)


def run(arguments: argparse.Namespace) -> None:
    """Check the workflow and, unless only a check was asked for, run it."""
    raw = read_workflow(arguments.workflow)
    overrides = parse_settings(arguments.set)
    inputs = input_folders(arguments.workflow, arguments.input)
    # torch and the pack are loaded only when the command line is known to be sound
    from .paths import Folders
    from .runner import all_nodes, run_workflow
    from .validate import make_plan

    if arguments.check:
        plan = make_plan(raw, all_nodes(Folders(arguments.out, tuple(inputs))), overrides)
        print(f"{arguments.workflow} is sound: {len(plan.nodes)} node(s) would run.")
        return
    result = run_workflow(raw, out=arguments.out, inputs=inputs, overrides=overrides, report=_say)
    total = sum(result.seconds.values())
    _say(f"Done in {total:.1f} s; {len(result.saved)} file(s) in {arguments.out}.")


def _say(line: str) -> None:
    print(line, flush=True)


def stop(*_: object) -> None:
    """SIGTERM ends a run like Ctrl-C: unwinding, so that nothing half-written is left."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a console that cannot show every letter
    parsed = make_parser().parse_args(arguments)
    level = logging.INFO if parsed.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, stop)
    try:
        run(parsed)
    except WorkflowError as error:
        print(f"{parsed.workflow} was not run:", file=sys.stderr)
        for problem in error.problems:
            print(f"- {problem}", file=sys.stderr)
        return 2
    except NodeError as error:
        if parsed.verbose:
            traceback.print_exception(error)
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Files written before are whole; nothing half-written is left.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
