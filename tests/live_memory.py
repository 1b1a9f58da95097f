"""What a run leaves in memory, whoever holds it: Python, a graph, or a circle through both."""

import gc
from typing import NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Live(NamedTuple):
    """How much is there that was made under a `Watch`: storages, and graphs that Python reaches."""

    storages: int
    bytes: int
    nodes: int


class Watch(TorchDispatchMode):
    """Within the `with`, sees every storage that torch makes.

    A tensor that only a graph holds is no Python object, and a circle through a graph is invisible
    to Python's collector: so storages themselves are asked whether they are still there.
    """

    def __init__(self) -> None:
        super().__init__()
        # Weak references keep an address from being given to another storage.
        self._seen: dict[int, StorageWeakRef] = {}
        self._made: dict[int, int] = {}

    def __enter__(self) -> "Watch":
        # The collector passes over what is there before, which would take most of its time.
        gc.freeze()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        gc.unfreeze()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self._see((args, kwargs))
        result = func(*args, **kwargs)
        for storage in self._see(result):
            self._made[storage._cdata] = storage.nbytes()
        return result

    def _see(self, tree) -> list[torch.UntypedStorage]:
        """The storages of some tensors that have not been met before."""
        storages = [part.untyped_storage() for part in tree_iter(tree) if isinstance(part, Tensor)]
        new = [storage for storage in storages if storage._cdata not in self._seen]
        self._seen.update((storage._cdata, StorageWeakRef(storage)) for storage in new)
        return new

    def live(self) -> Live:
        """What is left of all that, once the collectors of Python and of autograd have been by."""
        # What a failed backward pass had still to do, autograd drops at the thread's next one.
        torch.zeros((), requires_grad=True).clone().backward()
        gc.collect()
        there = [made for key, made in self._made.items() if not self._seen[key].expired()]
        return Live(len(there), sum(there), len(graph_nodes()))


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
