"""Long clips in overlapping windows of frames, whose results are blended."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from .models.denoiser import Cond, Predict
from .models.process import Latents, Level, Prediction

# The frames of a clip that a call of a model gets.
Frames: TypeAlias = slice | list[int]
# Makes a function of one window into a function of many windows, with results in their order.
Spread: TypeAlias = Callable[[Callable[..., Any]], Callable[[Iterable[tuple]], Iterable[Any]]]


def one_by_one(work: Callable[..., Any]) -> Callable[[Iterable[tuple]], Iterable[Any]]:
    """Compute one window after another, each only when its result is asked for."""
    return partial(starmap, work)


@dataclass(frozen=True)
class Windows:
    """Windows of `length` frames. Neighbours share `overlap` frames, or a few more.

    With `anchored`, the model also gets the first frame of the clip in front of each window that
    begins later, and its output there is dropped. Wan and its kind need that: their first latent
    frame shows one picture and the later ones several, and the model takes its first frame for one.
    """

    length: int
    overlap: int
    anchored: bool = False

    def __post_init__(self) -> None:
        if self.length < 2 or not 0 <= self.overlap < self.length:
            raise ValueError(
                f"Windows of {self.length} frames with an overlap of {self.overlap} cannot cover a "
                "clip: a window has at least 2 frames, and its overlap is shorter than that."
            )

    def over(self, frames: int) -> list[slice]:
        """The windows of a clip, evenly spread; one window if the clip is no longer than that."""
        if frames <= self.length:
            return [slice(0, frames)]
        last = frames - self.length
        count = -(-last // (self.length - self.overlap)) + 1
        starts = torch.linspace(0, last, count, dtype=torch.float64).round().long().tolist()
        return [slice(start, start + self.length) for start in starts]


def called_for(windows: Windows | None, span: slice) -> Frames:
    """The frames that the model gets for a window."""
    if windows is None or not windows.anchored or span.start == 0:
        return span
    return [0, *range(span.start, span.stop)]


def has_anchor(frames: Frames) -> bool:
    """Whether the first of the frames of a call is an anchor, whose output is dropped."""
    return isinstance(frames, list)


def without_anchor(prediction: Prediction, frames: Frames) -> Prediction:
    """The prediction for the frames of the window itself."""
    return Prediction(*(p[:, :, 1:] for p in prediction)) if has_anchor(frames) else prediction


def spans_of(windows: Windows | None, frames: int) -> list[slice]:
    """The windows of a clip; without windows, all frames at once."""
    return [slice(0, frames)] if windows is None else windows.over(frames)


def blended(
    parts: Sequence[Float[Tensor, "b c _ h w"]], spans: Sequence[slice], frames: int
) -> Float[Tensor, "b c {frames} h w"]:
    """Blend the results of all windows to one clip; a single result is returned as it is.

    Where windows overlap, each counts more, the further a frame is from its ends. So there is no
    jump from window to window.
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    total = first.new_zeros(*first.shape[:2], frames, *first.shape[3:])
    weight = first.new_zeros(frames, 1, 1)
    for part, span in zip(parts, spans, strict=True):
        depth = _depth(span.stop - span.start).to(first)
        padding = (0, 0, 0, 0, span.start, frames - span.stop)
        total = total + torch.nn.functional.pad(depth * part, padding)
        weight[span] += depth
    return total / weight


def windowed(predict: Predict, windows: Windows | None) -> Predict:
    """`predict` for clips of any length: it is called for each window, and the results are blended.

    The text embedding is one for the clip `[b, l, d]`, read by all windows, or one for each frame
    `[b, f, l, d]`. Without windows the result is `predict` itself.
    """
    if windows is None:
        return predict

    def window_by_window(z: Latents, level: Level, cond: Cond) -> Prediction:
        spans = windows.over(z.shape[2])
        parts = []
        for span in spans:
            frames = called_for(windows, span)
            said = predict(z[:, :, frames], level, text_of(cond, frames))
            parts.append(without_anchor(said, frames))
        return blended_predictions(parts, spans, z.shape[2])

    return window_by_window


def blended_predictions(
    parts: Sequence[Prediction], spans: Sequence[slice], frames: int
) -> Prediction:
    """Blend the predictions of all windows to one for the clip."""
    return Prediction(*(blended(part, spans, frames) for part in zip(*parts, strict=True)))


def text_of(cond: Tensor, frames: Frames) -> Tensor:
    """The part of a text embedding that some frames read."""
    return cond if cond.ndim == 3 else cond[:, frames]


def _depth(length: int) -> Float[Tensor, "{length} 1 1"]:
    """The distance of each frame from the nearer end of its window, counted from 1."""
    frame = torch.arange(1, length + 1, dtype=torch.float64)
    return torch.minimum(frame, length + 1 - frame)[:, None, None]
