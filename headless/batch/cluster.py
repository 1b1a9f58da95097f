"""Ray as a batch uses it: started here or joined, asked for its size, and watched."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import ray

from ..errors import BatchError, WorkflowError, printable, sentence

Machine: TypeAlias = Mapping[str, float]

PATIENCE = 20.0  # seconds within which a cluster that lives answers, however busy it is


@dataclass(frozen=True)
class Share:
    """What one worker takes of a machine: cores and cards, which may be parts of one."""

    cpus: float = 1
    gpus: float | None = None  # None: 1 where a machine has cards, else 0

    def within(self, machines: Sequence[Machine]) -> tuple[Share, int]:
        """The share with its cards settled, and how many workers of it the machines hold.

        Raises:
            WorkflowError: no machine could give as much.
        """
        most = {name: max(machine.get(name, 0) for machine in machines) for name in ("CPU", "GPU")}
        gpus = (1 if most["GPU"] else 0) if self.gpus is None else self.gpus
        wanted = {"CPU": self.cpus, "GPU": gpus}
        for name, amount in wanted.items():
            if amount > most[name]:
                raise WorkflowError(
                    [
                        f"--{name.lower()}s-per-task asks for {amount:g} {name}, and no machine of "
                        f"the cluster has more than {most[name]:g}. Ask for less."
                    ]
                )
        counts = (
            min((machine.get(n, 0) // amount for n, amount in wanted.items() if amount), default=1)
            for machine in machines
        )
        return Share(self.cpus, gpus), int(sum(counts))


@contextmanager
def connected(address: str | None, log: Path) -> Iterator[None]:
    """Within the `with`, Ray is there: started on this machine, or the cluster at `address`.

    What Ray itself says, of retries above all, goes to `log`. A Ray that runs already stays.

    Raises:
        WorkflowError: there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    try:
        if address not in (None, "auto"):
            _knock(address)
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError) as error:
        where = f"the cluster at {address}" if address else "Ray on this machine"
        raise WorkflowError(
            [
                f"Cannot reach {where}: {sentence(printable(error, 300))} Is it running, is this "
                "the address that 'ray start --head' has told, and does this machine have its "
                "token (RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token)?"
            ]
        ) from error
    try:
        with open(log, "a", encoding="utf-8", buffering=1) as file, redirect_stdout(file):
            yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See that somebody listens at `HOST:PORT`; Ray itself would go on trying for a long time."""
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdecimal():
        raise ValueError("the address is no HOST:PORT.")
    socket.create_connection((host, int(port)), timeout=PATIENCE).close()


def machines() -> list[Machine]:
    """What each machine of the cluster has: "CPU", "GPU", ..."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_alive() -> None:
    """See that the cluster answers. Ray itself would end this process only after a minute.

    Raises:
        BatchError: it does not.
    """
    answered = threading.Event()

    def ask() -> None:
        ray.nodes()
        answered.set()

    threading.Thread(target=ask, daemon=True).start()
    if not answered.wait(PATIENCE):
        raise BatchError(
            "The cluster has gone away: it does not answer any more. Start it again, then go on "
            "with --resume. What is done is whole."
        )
