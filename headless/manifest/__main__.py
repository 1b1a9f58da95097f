"""Turns the published folder of a benchmark into a manifest for rescore.headless.batch.

    python -m rescore.headless.manifest five FOLDER --out five
    python -m rescore.headless.batch graph.json five/manifest.jsonl --input FOLDER --input five \\
        --out results

FOLDER stays as it is. Exit status: 0 written, 1 it cannot be, 2 the folder is not as published.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import WorkflowError
from .pairs import Inputs, write_manifest


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, example = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m rescore.headless.manifest",
        description=summary,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", choices=["five", "tgve"], help="FiVE-Bench, LOVEU-TGVE-2023")
    parser.add_argument("folder", type=Path, help="where the benchmark is unpacked")
    parser.add_argument(
        "--out", type=Path, help="folder for manifest.jsonl (and masks); its default is the name"
    )
    for part, what in (
        ("clip", "the clip"),
        ("source", "the prompt of what the clip shows"),
        ("target", "the prompt of what it should show"),
        ("mask", "the mask"),
    ):
        default = getattr(Inputs(), part)
        parser.add_argument(
            f"--{part}",
            action="append",
            metavar="NODE.INPUT",
            help=f"an input of your graph that takes {what}; may be repeated, '' for none "
            f"({default[0]})",
        )
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Write the manifest and say what is in it."""
    given = {part: getattr(arguments, part) for part in ("clip", "source", "target", "mask")}
    inputs = Inputs(
        **{
            part: tuple(name for name in names if name)
            for part, names in given.items()
            if names is not None
        }
    )
    out = arguments.out or Path(arguments.benchmark)
    if arguments.benchmark == "five":
        from . import five

        pairs = five.read_pairs(arguments.folder)
        if inputs.mask:
            five.write_masks(arguments.folder, out)
    else:
        from . import tgve

        pairs = tgve.read_pairs(arguments.folder)
    write_manifest(out / "manifest.jsonl", pairs, inputs)
    clips = len({pair.clip for pair in pairs})
    print(f"{out / 'manifest.jsonl'}: {len(pairs)} lines, of {clips} videos.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a console that cannot show every letter
    parsed = make_parser().parse_args(arguments)
    try:
        run(parsed)
    except WorkflowError as error:
        print(f"{parsed.folder} was not turned into a manifest:", file=sys.stderr)
        for problem in error.problems:
            print(f"- {problem}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"The manifest cannot be written: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
