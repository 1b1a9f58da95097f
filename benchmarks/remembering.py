"""A model that remembers what it said of the source: rows that edit a clip alike ask it again."""

from dataclasses import replace
from hashlib import blake2b

import torch
from rescore.pipelines.models.denoiser import Denoiser
from torch import Tensor


def remembering(model: Denoiser) -> Denoiser:
    """The same model; a batch whose first half it has seen costs the second half alone.

    For delta denoising, whose batches have the source first. Not where something is read or changed
    inside the model.
    """
    known = {}

    def output(z: Tensor, t: float, text: Tensor) -> Tensor:
        half = len(z) // 2  # sources come first
        pairs = zip(z[:half], text[:half], strict=True)
        names = [(t, *map(_digest, pair)) for pair in pairs]
        if all(name in known for name in names):
            target = model.output(z[half:], t, text[half:])
            return torch.cat([*(known[name] for name in names), target])
        said = model.output(z, t, text)
        known.update(zip(names, said[:half].split(1), strict=True))
        return said

    return replace(model, output=output)


def _digest(part: Tensor) -> bytes:
    return blake2b(part.contiguous().numpy().tobytes(), digest_size=16).digest()
