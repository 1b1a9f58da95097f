"""Runs every line of a manifest with one graph, on this machine or on a Ray cluster.

    python -m rescore.headless.batch graph.json manifest.jsonl --out results

Exit status: 0 all lines are done, 1 some failed or the batch could not go on, 2 the manifest, the
graph or the command line is wrong, 130 stopped.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ..__main__ import input_folders, stop
from ..errors import BatchError, WorkflowError, sentence
from ..workflow import read_workflow
from .manifest import read_manifest


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, example = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m rescore.headless.batch",
        description=summary,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("workflow", type=Path, help="API-format JSON (Workflow > Export (API))")
    add("manifest", type=Path, help="JSON Lines or CSV: an id and NODE.INPUT values a line")
    add("--out", type=Path, required=True, help="folder for results, records and the report")
    add(
        "--input",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder that files of the lines are looked up in; may be repeated. A workflow in a "
        "folder 'api' also reads the folder 'input' beside that one",
    )
    add("--resume", action="store_true", help="go on with what is missing in --out")
    add("--check", action="store_true", help="check every line, run nothing")
    add(
        "--address", help="Ray cluster to join, 'auto' on one of its machines; else Ray starts here"
    )
    add(
        "--gpus-per-task",
        type=_share,
        metavar="N",
        help="cards a worker takes, 0.5 for two workers a card; 1 where there are cards, else 0",
    )
    add("--cpus-per-task", type=_share, default=1, metavar="N", help="cores a worker takes (1)")
    add(
        "--workers", type=_count, metavar="N", help="at most so many; else as many as there is room"
    )
    add(
        "--retries",
        type=int,
        default=3,
        choices=range(21),
        metavar="N",
        help="how often a line is tried again whose process died (3)",
    )
    add(
        "--split-windows",
        type=_count,
        default=1,
        metavar="N",
        help="cards a worker has for a clip: loops that run in windows compute N at a time (1)",
    )
    add(
        "--servers",
        default="",
        metavar="URL,URL",
        help="running ComfyUI servers that run the lines, such as http://127.0.0.1:8188",
    )
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6 or (value > 1 and value != int(value)):
        raise argparse.ArgumentTypeError(f"{text} is neither a part of one nor a whole number")
    return value


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than one")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Check the lines and, unless only a check was asked for, run them; the exit status."""
    graph = read_workflow(arguments.workflow)
    lines = read_manifest(arguments.manifest)
    inputs = input_folders(arguments.workflow, arguments.input)
    servers = tuple(part.strip() for part in arguments.servers.split(",") if part.strip())
    # torch, Ray and the pack are loaded only when the command line is known to be sound
    try:
        from .batch import Options, check_batch, run_batch
        from .cluster import Share
        from .report import as_text
    except ModuleNotFoundError as error:
        raise WorkflowError(
            [f"Batches need {error.name}, which is not installed: pip install rescore[batch]"]
        ) from error
    if arguments.check:
        checked = check_batch(graph, lines, out=arguments.out, inputs=inputs, servers=servers)
        print(f"{arguments.manifest} is sound: {len(checked)} line(s) would run.")
        return 0
    options = Options(
        address=arguments.address,
        share=Share(arguments.cpus_per_task, arguments.gpus_per_task),
        workers=arguments.workers,
        retries=arguments.retries,
        resume=arguments.resume,
        cards=arguments.split_windows,
        servers=servers,
    )
    summary = run_batch(graph, lines, out=arguments.out, inputs=inputs, options=options)
    print("\n\n".join(as_text(table) for table in summary.tables))
    print(f"\n{summary.report}")
    return 1 if summary.failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a console that cannot show every letter
    parsed = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, stop)
    try:
        return run(parsed)
    except WorkflowError as error:
        print(f"{parsed.manifest} was not run:", file=sys.stderr)
        for problem in error.problems:
            print(f"- {problem}", file=sys.stderr)
        return 2
    except BatchError as error:
        print(sentence(str(error)), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. What is done is whole; go on with --resume.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
