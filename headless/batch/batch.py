"""The Python interface: `run_batch` checks a manifest and runs its lines."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ray
from tqdm import tqdm

from ..errors import WorkflowError
from ..paths import Folders
from ..runner import all_nodes
from .check import Checked, check_lines
from .cluster import Share, connected, machines
from .dispatch import Dispatch, Hand
from .manifest import Line
from .pack import code
from .report import Table, groups_of, tables, write_report
from .results import Results, digest, json_digest, opened
from .server import Server, server_nodes
from .worker import Outcome, Setup, Worker

RETRIES = 3


@dataclass(frozen=True)
class Summary:
    """How a batch ended: how many lines are done, how many of those were before it, and failures.

    `failed` holds the sentence for each id; `report` is the page that shows all lines, `tables` are
    those at its head.
    """

    done: int
    before: int
    failed: dict[str, str]
    report: Path
    tables: list[Table]


@dataclass(frozen=True)
class Options:
    """How a batch is run.

    Attributes:
        address: of a Ray cluster; None starts Ray on this machine.
        share: what a worker takes of a machine.
        workers: how many, None for as many as the machines hold.
        retries: how often a line is tried again whose process died.
        resume: go on with a batch that was stopped.
        cards: how many shares a worker has, windows of long clips being split between them.
        servers: addresses of running ComfyUI servers, which then run the lines.
    """

    address: str | None = None
    share: Share = field(default_factory=Share)
    workers: int | None = None
    retries: int = RETRIES
    resume: bool = False
    cards: int = 1
    servers: tuple[str, ...] = ()


def check_batch(
    graph: Mapping[str, object],
    lines: Sequence[Line],
    *,
    out: Path,
    inputs: Sequence[Path] = (),
    servers: Sequence[str] = (),
    node_classes: Mapping[str, type] | None = None,
) -> list[Checked]:
    """Check all lines with their graph; nothing runs and nothing is written.

    Raises:
        WorkflowError: with a sentence for each fault.
    """
    folders = Folders(Path(out), tuple(Path(folder) for folder in inputs))
    if servers:
        node_classes = server_nodes(servers[0], folders)
    else:
        node_classes = all_nodes(folders, node_classes)
    return check_lines(graph, lines, node_classes, folders)


def run_batch(
    graph: Mapping[str, object],
    lines: Sequence[Line],
    *,
    out: Path,
    inputs: Sequence[Path] = (),
    options: Options | None = None,
    node_classes: Mapping[str, type] | None = None,
) -> Summary:
    """Run every line of a manifest that is not done yet.

    Args:
        graph: the parsed API-format JSON.
        out: the folder of the results, see `results.py`.
        inputs: the folders that files are looked up in, in order.
        node_classes: node classes by id, beside the stand-ins; the pack's own by default.

    Raises:
        WorkflowError: the manifest, the graph, the output folder or the address is wrong; nothing
            has run.
        BatchError: the batch cannot go on, as the disk is full or the cluster has gone away.
    """
    options = options or Options()
    checked = check_batch(
        graph, lines, out=out, inputs=inputs, servers=options.servers, node_classes=node_classes
    )
    with opened(Path(out), graph, resume=options.resume) as results:
        waiting, models = _pending(results, checked)
        run = _Run(results, len(checked), len(checked) - len(waiting))
        try:
            if waiting:
                _run(waiting, models, node_classes, options, run)
        finally:
            run.bar.close()
            report = write_report(results, checked)
        return Summary(
            run.done, run.before, run.failed, report, tables(groups_of(results, checked))
        )


def _run(
    waiting: Sequence[Checked],
    models: dict[str, str],
    node_classes: Mapping[str, type] | None,
    options: Options,
    run: _Run,
) -> None:
    """Have workers run what waits."""
    with connected(options.address, run.results.out / "ray.log"):
        hands = _hands(options, run.results.batch, node_classes, len(waiting))
        try:
            Dispatch(waiting, hands, run.ended, run.say, models).run()
        finally:
            for hand in hands:
                ray.kill(hand.actor)


def _pending(results: Results, checked: Sequence[Checked]) -> tuple[list[Checked], dict[str, str]]:
    """The lines that are not done, and the fingerprints of the models of those that are."""
    waiting: list[Checked] = []
    models: dict[str, str] = {}
    problems = []
    for entry in checked:
        record = results.record(entry.line.id)
        if record is None:
            waiting.append(entry)
        elif record["prompt"] != json_digest(entry.prompt):
            problems.append(
                f"Line {entry.line.number}: '{entry.line.id}' is done with other values. Give it "
                f"another id, or remove {results.done_folder / entry.line.id} to run it again."
            )
        else:
            models |= record["models"]
    if problems:
        raise WorkflowError(problems)
    return waiting, models


def _hands(
    options: Options, batch: str, node_classes: Mapping[str, type] | None, lines: int
) -> list[Hand]:
    """The workers, one actor each, no more than there are lines.

    Raises:
        WorkflowError: the cluster has no room for one.
    """
    alive = {"max_restarts": -1, "max_task_retries": options.retries}
    if options.servers:
        make = ray.remote(Server).options(num_cpus=0, **alive)
        return [Hand(make.remote(address, batch)) for address in options.servers]
    share, most = options.share.within(machines())
    if options.cards > most:
        raise WorkflowError(
            [
                f"--split-windows {options.cards} asks for as many cards or cores as a worker has "
                f"shares, and the cluster has room for {most}. Ask for less, or add machines."
            ]
        )
    most //= options.cards
    setup = Setup(batch, code(), share, options.cards, node_classes)
    make = ray.remote(Worker).options(num_cpus=share.cpus, num_gpus=share.gpus, **alive)
    place = f"rescore-batch-{secrets.token_hex(8)}"
    count = min(options.workers or most, most, lines)
    return [Hand(make.remote(setup, f"{place}-{number}")) for number in range(count)]


class _Run:
    """What a batch has come to, as it is shown and written."""

    def __init__(self, results: Results, total: int, before: int) -> None:
        self.results, self.done, self.before = results, before, before
        self.failed: dict[str, str] = {}
        # disable=None: a bar on a terminal, nothing in a log
        self.bar = tqdm(total=total, initial=before, unit="line", disable=None)

    def say(self, text: str) -> None:
        """One line of text, beside the bar."""
        self.bar.write(" ".join(text.split()), file=sys.stderr)

    def ended(self, checked: Checked, outcome: Outcome, files: dict[str, bytes]) -> None:
        """Keep what became of a line."""
        line = checked.line
        record = {
            "id": line.id,
            "group": line.group,
            "status": outcome.status,
            "settings": line.settings,
            "prompt": json_digest(checked.prompt),
            "inputs": {name: digest(data) for name, data in files.items()},
            **outcome.record,
        }
        if outcome.status == "done":
            self.results.publish(line, outcome.files, record)
            self.done += 1
        else:
            self.results.fail(line, {**record, "sentence": outcome.sentence})
            self.failed[line.id] = outcome.sentence
            self.say(f"{line} failed: {outcome.sentence}")
        self.bar.update()
