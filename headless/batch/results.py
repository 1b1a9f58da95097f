"""The output folder of a batch: what is done, whole and with its record, and what has failed.

    batch.json            the graph and the code that all of it was made with
    results/ID/           the files of a line, and record.json; there as a whole or not at all
    failed/ID.json        the record of a line that failed, with the sentence why
    ray.log, report.html

A line's folder is written under another name, synced to disk and then renamed, so that whoever is
killed leaves either all of it or nothing that counts.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import BatchError, WorkflowError, printable
from .manifest import Line
from .pack import versions

BATCH, RECORD = "batch.json", "record.json"


class Results:
    """The folder of one batch, held by one process at a time; made by `opened`."""

    def __init__(self, out: Path, batch: str) -> None:
        self.out, self.batch = out, batch
        self.done_folder, self.failed_folder = out / "results", out / "failed"
        self._parts = out / ".parts"

    def record(self, line_id: str) -> dict | None:
        """The record of a line that is done; None if it is not."""
        return _read_json(self.done_folder / line_id / RECORD)

    def failure(self, line_id: str) -> dict | None:
        """The record of a line that failed."""
        return _read_json(self.failed_folder / f"{line_id}.json")

    def publish(self, line: Line, files: Mapping[str, bytes], record: dict) -> Path:
        """Write a line's files and its record, at once; its folder.

        Raises:
            BatchError: the disk is full or cannot be written to; nothing of the line is left.
        """
        part = self._parts / f"{line.id}.{secrets.token_hex(4)}"
        target = self.done_folder / line.id
        whole = {**record, "files": {name: digest(data) for name, data in files.items()}}
        try:
            for name, data in {**files, RECORD: _json(whole)}.items():
                _write(part / name, data)
            os.rename(part, target)
            _sync_folder(self.done_folder)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise _cannot_write(error, self.out) from error
        (self.failed_folder / f"{line.id}.json").unlink(missing_ok=True)
        return target

    def fail(self, line: Line, record: dict) -> None:
        """Write the record of a line that failed, in place of an earlier one.

        Raises:
            BatchError: the disk is full or cannot be written to.
        """
        _replace(self.failed_folder / f"{line.id}.json", _json(record), self._parts, self.out)

    def write(self, name: str, text: str) -> Path:
        """Write a file of the batch as a whole, in place of an earlier one.

        Raises:
            BatchError: the disk is full or cannot be written to.
        """
        _replace(self.out / name, text.encode(), self._parts, self.out)
        return self.out / name


@contextmanager
def opened(out: Path, graph: Mapping[str, object], *, resume: bool) -> Iterator[Results]:
    """The output folder of a batch, made or gone on with, and held until the end.

    Raises:
        WorkflowError: the folder cannot be made, belongs to another graph, another version of the
            pack, another running batch, or to something else; or it is to be resumed without being
            said so.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        with lock.acquire(timeout=0):
            yield _claimed(out, graph, resume)
    except Timeout:
        raise WorkflowError(
            [f"Another batch is writing to {out}. Wait for it, or choose another --out."]
        ) from None
    except PermissionError as error:
        raise WorkflowError([f"The output folder {out} cannot be written to."]) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise WorkflowError([f"Cannot make the output folder {out}: {error.strerror}."]) from error


def _claimed(out: Path, graph: Mapping[str, object], resume: bool) -> Results:
    """The folder with its parts, once it is known to be this batch's."""
    mine = {"batch": str(uuid.uuid4()), "graph": json_digest(graph), "versions": versions()}
    theirs = _read_json(out / BATCH)
    if theirs is None and any(entry.name != ".lock" for entry in out.iterdir()):
        raise WorkflowError(
            [f"{out} holds other things and no batch. Choose an empty folder, or a new one."]
        )
    if theirs is not None:
        _check_same(out, theirs, mine, resume)
    results = Results(out, (theirs or mine)["batch"])
    shutil.rmtree(out / ".parts", ignore_errors=True)  # of a batch that was killed
    for folder in (results.done_folder, results.failed_folder, results._parts):
        folder.mkdir(exist_ok=True)
    if theirs is None:
        results.write(BATCH, _json(mine).decode())
    return results


def _check_same(out: Path, theirs: dict, mine: dict, resume: bool) -> None:
    if theirs["graph"] != mine["graph"]:
        raise WorkflowError(
            [f"{out} holds results of another graph. Choose another --out for this one."]
        )
    if not resume:
        raise WorkflowError(
            [f"{out} holds this batch already. Go on with --resume, or choose another --out."]
        )
    then, now = (side["versions"] for side in (theirs, mine))
    if then["code"] != now["code"]:
        raise WorkflowError(
            [
                f"{out} was begun with another version of rescore ({then['rescore']}, code "
                f"{then['code']}; this is {now['rescore']}, code {now['code']}), and its results "
                "would not compare. Finish it with that version, or choose another --out."
            ]
        )


def digest(data: bytes) -> str:
    """How a record names the content of a file."""
    return sha256(data).hexdigest()


def json_digest(content: object) -> str:
    """How a record names a graph with its values."""
    return digest(_json(content))


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _read_json(file: Path) -> dict | None:
    """The content of a file of ours; None if there is no such file."""
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WorkflowError(
            [f"{file} cannot be read ({printable(error, 200)}). Remove it to run its line again."]
        ) from error


def _write(file: Path, data: bytes) -> None:
    """Write a new file and see that it is on the disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "xb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _replace(file: Path, data: bytes, parts: Path, out: Path) -> None:
    """Write a file as a whole, in place of what may be there."""
    part = parts / f"{file.name}.{secrets.token_hex(4)}"
    try:
        _write(part, data)
        os.replace(part, file)
        _sync_folder(file.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _cannot_write(error, out) from error


def _sync_folder(folder: Path) -> None:
    """See that a rename is on the disk, where the system lets folders be synced."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _cannot_write(error: OSError, out: Path) -> BatchError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full: make room"
    else:
        what = f"{error.strerror}: mend that"
    return BatchError(
        f"Cannot write to {out}, {what}, then go on with --resume. What is done is whole."
    )
