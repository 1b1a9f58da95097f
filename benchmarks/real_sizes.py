"""What fits a card: the memory that one step of every method takes with models of real size.

    python benchmarks/real_sizes.py                   every step, in minutes, on any machine
    python benchmarks/real_sizes.py --rows "DDS, 8 frames" DDS --video-width 448 --video-height 256
    python benchmarks/real_sizes.py --device cuda     run for real on the card here, and timed
    python benchmarks/real_sizes.py --report          also writes benchmarks/real_sizes_report,
                                                      with a card its folder "card"
    python benchmarks/real_sizes.py --tiny            on the shape world's models
    python benchmarks/real_sizes.py --run             three steps of DreamMotion and a null-text
                                                      step with numbers, on the CPU; writes run.md

ZeroScope, Stable Diffusion 1.5 and AnimateDiff v3 as published, with random weights: nothing is
downloaded. By default nothing is computed either: the pack's own loops run on tensors that have a
size and no numbers (torch's device "meta"), with attention as fused kernels do it, and the bytes
that live at a time are counted. Not in them: what kernels take within an operation, the allocator's
slack and the CUDA context, together 0.5 to 1 GiB; hence the gibibyte that is left free.
"""

import argparse
import gc
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from measuring import add_settings, made, markdown, settings_of, write_report
from memory import peak_memory
from real_sizes_lab import TINY, Case, Lab, Run
from real_sizes_rows import GROUPS, ROWS
from real_sizes_run import run
from torch import nn
from without_numbers import on_meta

REPORT = Path(__file__).resolve().parent / "real_sizes_report"
CARD_REPORT = REPORT / "card"
GIB = 2**30
CARDS = (8, 12, 16, 24, 32, 48, 80)  # GiB
LEFT_FREE = 1  # of them, for the system and what is not counted


@dataclass(frozen=True)
class Cost:
    """Bytes of a method's weights and, on top of them, of a step at its peak; seconds of a step."""

    weights: int
    peak: int
    seconds: float | None = None  # only where a card has run it

    @property
    def total(self) -> int:
        return self.weights + self.peak

    @property
    def card(self) -> int | None:
        """The smallest card that holds it, GiB; None if none does."""
        fitting = (card for card in CARDS if self.total <= (card - LEFT_FREE) * GIB)
        return next(fitting, None)


def bytes_of(modules: Sequence[nn.Module]) -> int:
    """The bytes of all weights and buffers; what modules share counts once."""
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    storages = {id(t): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


@contextmanager
def uncollected() -> Iterator[None]:
    """Within the `with`, what refers to itself stays: when Python clears it is up to chance."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def cost(case: Case, device: str) -> Cost:
    """What the work of a case costs on a device."""
    weights = bytes_of(case.weights)
    with uncollected():
        if device == "cuda":
            return Cost(weights, *_on_card(case))

        def work() -> None:
            with on_meta() if device == "meta" else nullcontext():
                case.work()

        return Cost(weights, peak_memory(work))


def _on_card(case: Case) -> tuple[int, float]:
    """The bytes that a card's work took on top of what was there, and the seconds of a step."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    case.work()
    peak = torch.cuda.max_memory_allocated() - before
    torch.cuda.synchronize()
    began = time.perf_counter()
    case.work()
    torch.cuda.synchronize()
    return peak, (time.perf_counter() - began) / case.steps


class Both(NamedTuple):
    """What a row costs with all clips of a call at once, and with one at a time if it has several.

    None where memory ran out.
    """

    at_once: Cost | None
    one_by_one: Cost | None


def costs(row: str, lab: Lab) -> Both:
    """What a row costs."""

    def tried(lab: Lab) -> tuple[Cost | None, bool]:
        case = ROWS[row](lab)
        try:
            return cost(case, lab.device), case.batched
        except (MemoryError, torch.OutOfMemoryError):
            return None, case.batched

    at_once, batched = tried(lab)
    one_by_one = tried(replace(lab, clips_per_call=1))[0] if batched else None
    return Both(at_once, one_by_one)


# --- tables -------------------------------------------------------------------------------------


def _card(cost: Cost | None) -> str:
    if cost is None:
        return "out of memory"
    return f"over {CARDS[-1]} GB" if cost.card is None else f"{cost.card} GB"


def _gibibytes(count: int) -> str:
    return f"{count / GIB:.1f}"


def table(found: Mapping[str, Both], rows: Sequence[str]) -> list[str]:
    """A line for each row: its memory with all clips of a call at once, and one after the other."""
    timed = any(cost and cost.seconds for both in found.values() for cost in both)
    head = ["step", "weights, GiB", "a step on top, GiB", "together", "card", "clip by clip"]
    lines = []
    for row in rows:
        whole, sliced = found[row]
        line = [row, "", "", "", _card(whole), ""]
        if whole is not None:
            line[1:4] = map(_gibibytes, (whole.weights, whole.peak, whole.total))
        # Where a graph decides, there is nothing to gain.
        if sliced is not None and (whole is None or sliced.peak < 0.98 * whole.peak):
            line[5] = f"{_gibibytes(sliced.total)}, {_card(sliced)}"
        if timed:
            line.append("" if whole is None or whole.seconds is None else f"{whole.seconds:.2f}")
        lines.append(line)
    return markdown(head + ["a step, s"] * timed, lines)


def tables(found: Mapping[str, Both]) -> list[str]:
    """One table for each group, of the rows there are."""
    lines = []
    for group, rows in GROUPS.items():
        if there := [row for row in rows if row in found]:
            lines += [f"## {group}", "", *table(found, there), ""]
    return lines


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, Lab]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=tuple(ROWS))
    parser.add_argument(
        "--device",
        choices=("meta", "cpu", "cuda"),
        default="meta",
        help="meta computes nothing and takes no memory",
    )
    parser.add_argument("--tiny", action="store_true", help="the shape world's models and clips")
    parser.add_argument("--run", action="store_true", help="two methods for real, on the CPU")
    parser.add_argument("--report", action="store_true", help=f"write {REPORT.name}")
    add_settings(parser, Run)
    options = parser.parse_args(arguments)
    given = settings_of(options, Run)
    if options.tiny:
        changed = {k: v for k, v in vars(options).items() if k in asdict(TINY) and v is not None}
        given = replace(TINY, **changed)
    return options, Lab(given, options.device, options.tiny)


def main() -> None:
    options, lab = parse()
    if options.run:
        command = shlex.join(["python", f"benchmarks/{Path(__file__).name}", *sys.argv[1:]])
        return run(replace(lab, device="cpu"), REPORT, command)
    found: dict[str, Both] = {}
    for row in options.rows:
        found[row] = costs(row, lab)
        print("\n".join(table(found, [row])[2:]), flush=True)
        if options.report:
            report(lab, found, tables(found))
    print("\n".join(["", *tables(found)]))


HOW = {
    "meta": "Computed sizes of tensors, with fused attention; no card has run them. Not in them: "
    "what kernels take within an operation, the allocator's slack, and the CUDA context, together "
    "0.5 to 1 GiB.",
    "cpu": "Sizes of tensors, counted while a CPU computed them.",
    "cuda": "Measured as torch's allocator counts, on one {}.",
}


def report(lab: Lab, found: Mapping[str, Both], lines: Sequence[str]) -> None:
    run, on_card = lab.run, lab.device == "cuda"
    how = HOW[lab.device].format(torch.cuda.get_device_name() if on_card else "")
    page = [
        "# What fits a card",
        "",
        made(shlex.join(["python", f"benchmarks/{Path(__file__).name}", *sys.argv[1:]])),
        f"ZeroScope with clips of {run.video_width} x {run.video_height} pixels; AnimateDiff v3 "
        f"and Stable Diffusion 1.5 with {run.image_width} x {run.image_height}.",
        f"{run.frames} frames; a short clip, and what inflated models learn, has {run.short}; a "
        f"long one has {run.long}, in windows of {run.frames}.",
        f"Random weights, unets in {run.precision}, autoencoders in float32. {how}",
        "",
        "Weights are those a step uses; text encoder and autoencoder wait elsewhere. The card is "
        f"the smallest that holds all and leaves {LEFT_FREE} GiB free. Clip by clip is what the "
        "pack falls back to by itself where memory runs out: the clips of a call go through the "
        "model one after the other.",
        "",
        *lines,
    ]
    numbers = {row: [cost and asdict(cost) for cost in both] for row, both in found.items()}
    write_report(
        CARD_REPORT if on_card else REPORT, page, {"settings": asdict(run), "rows": numbers}
    )


if __name__ == "__main__":
    main()
