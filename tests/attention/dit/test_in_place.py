"""Gradients through blocks that write into their inputs, against those of blocks that do not."""

from contextlib import nullcontext

import pytest
import torch
from rescore.attention.checkpointing import checkpointed
from rescore.attention.dit.in_place import WritesAside, unchecked
from torch import nn


class Block(nn.Module):
    """Two streams that read each other, as those of clip and text do."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place

    def forward(self, clip, text):
        if not self.in_place:
            clip = clip + (clip * text).tanh()
            clip = torch.addcmul(clip, clip.sin(), text)
            return clip * clip.sin(), text + clip.tanh()
        clip += (clip * text).tanh()
        clip.addcmul_(clip.sin(), text)
        text += clip.tanh()
        clip *= clip.sin()
        return clip, text


def gradient(in_place: bool, checkpoint: bool):
    blocks = [Block(in_place) for _ in range(3)]
    leaf = torch.linspace(-0.7, 0.9, 7, dtype=torch.float64).requires_grad_()
    text = torch.linspace(0.1, 0.3, 7, dtype=torch.float64)
    aside = WritesAside if in_place else nullcontext
    with (
        checkpointed(blocks, lambda _: aside(), in_place=in_place) if checkpoint else nullcontext()
    ):
        with aside(), unchecked() if in_place else nullcontext():
            clip = leaf * 1.0
            for block in blocks:
                clip, text = block(clip, text)
        return torch.autograd.grad(clip.sum() + text.sum(), leaf)[0]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_are_those_of_blocks_that_write_nowhere(checkpoint):
    expected = gradient(False, False)
    assert 0.01 < expected.abs().min() < expected.abs().max() < 100
    found = gradient(True, checkpoint)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_without_it_autograd_refuses_what_was_written_over():
    clip = torch.ones(7, dtype=torch.float64, requires_grad=True) * 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        Block(True)(clip, torch.ones(7, dtype=torch.float64))[0].sum().backward()
