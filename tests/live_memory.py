"""What a run leaves in memory, whoever holds it: Python, a graph, or a circle through both."""

import gc
from typing import NamedTuple

import torch
from rescore.benchmarks.memory import Storages
from torch import Tensor


class Live(NamedTuple):
    """How much is there that was made under a `Watch`: storages, and graphs that Python reaches."""

    storages: int
    bytes: int
    nodes: int


class Watch(Storages):
    """Within the `with`, sees every storage that torch makes.

    A circle through an autograd graph is invisible to Python's collector: so it is storages that
    are counted, and not Python's objects.
    """

    def __enter__(self) -> "Watch":
        # The collector passes over what is there before, which would take most of its time.
        gc.freeze()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        gc.unfreeze()

    def live(self) -> Live:
        """What is left of all that, once the collectors of Python and of autograd have been by."""
        # What a failed backward pass had still to do, autograd drops at the thread's next one.
        torch.zeros((), requires_grad=True).clone().backward()
        gc.collect()
        return Live(len(self.living), self.now, len(graph_nodes()))


def graph_nodes() -> set[torch.autograd.graph.Node]:
    """The autograd nodes that lead on from any tensor that the collector knows."""
    tensors = [found for found in gc.get_objects() if isinstance(found, Tensor)]
    found, waiting = set(), [tensor.grad_fn for tensor in tensors]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [earlier for earlier, _ in node.next_functions]
    return found
