"""SAM 2 (Ravi et al., 2024): a thing that is pointed at in one frame, followed through a clip."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..pretrained import load_pretrained
from ..unet.layout import problem
from .clip_scorer import Preparation

_KIND = "sam2-video"
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
# How the prompt encoder tells points apart.
_OUTSIDE, _INSIDE, _TOP_LEFT, _BOTTOM_RIGHT = 0, 1, 2, 3


@dataclass(frozen=True)
class Pointed:
    """How one thing is pointed at: a box, points, or both, in pixels (x to the right, y down)."""

    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom
    inside: tuple[tuple[float, float], ...] = ()  # points on it
    outside: tuple[tuple[float, float], ...] = ()  # points on something else

    def __post_init__(self) -> None:
        if self.box is None and not self.inside:
            raise ValueError("Nothing is pointed at: give a box, or at least one point inside.")

    def labelled(self) -> tuple[list[tuple[float, float]], list[int]]:
        """All points with their labels; a box is its two corners, which come first."""
        points, labels = [], []
        if self.box is not None:
            points, labels = [self.box[:2], self.box[2:]], [_TOP_LEFT, _BOTTOM_RIGHT]
        points += [*self.inside, *self.outside]
        labels += [_INSIDE] * len(self.inside) + [_OUTSIDE] * len(self.outside)
        return points, labels


@dataclass(frozen=True, eq=False)
class Tracker:
    """A SAM 2 video model, ready to follow things."""

    name: str
    model: nn.Module

    def modules(self) -> dict[str, nn.Module]:
        """The part that takes memory, by the name of a part that computes on the same device."""
        return {"network": self.model}

    def follow(
        self,
        clip: Float[Tensor, "1 3 f H W"],
        things: Sequence[Pointed],
        key: int,
        *,
        on_frame: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "f H W"]:
        """A mask of 0 and 1 of the things pointed at in frame `key`, joined, on the CPU.

        They are followed from there to the end, then from there back to the beginning. `clip` has
        pixels in 0..1. Frames are prepared when they are reached, and of what the model remembers
        only what it still reads is kept: memory does not grow with the length of the clip.
        `on_frame` is told how many frames are done, and may raise to stop.

        Raises:
            ValueError: if nothing is pointed at, or outside the clip.
        """
        frames, height, width = clip.shape[2:]
        _check(things, key, frames, height, width)
        masks = torch.zeros(frames, height, width)
        for done, (frame, mask) in enumerate(self._walk(clip, things, key), start=1):
            masks[frame] = mask
            if on_frame is not None:
                on_frame(done)
        return masks

    @torch.no_grad()
    def _walk(
        self, clip: Tensor, things: Sequence[Pointed], key: int
    ) -> Iterator[tuple[int, Float[Tensor, "H W"]]]:
        frames = clip.shape[2]
        session = self._session(clip, things, key)
        yield key, self._mask(clip, session, key, reverse=False)
        for frame in range(key + 1, frames):
            yield frame, self._mask(clip, session, frame, reverse=False)
            self._forget(session, frame)
        # Each direction remembers only the frame that was pointed at and its own frames.
        self._forget(session, None)
        for frame in range(key - 1, -1, -1):
            yield frame, self._mask(clip, session, frame, reverse=True)
            self._forget(session, frame)

    def _session(self, clip: Tensor, things: Sequence[Pointed], key: int) -> Any:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        size = _square(self.model.config.image_size)
        prepare = Preparation(None, (size, size), "bilinear", _MEAN, _STD)
        weight = next(self.model.parameters())
        height, width = clip.shape[-2:]
        session = Sam2VideoInferenceSession(
            video_height=height,
            video_width=width,
            inference_device=weight.device,
            inference_state_device=weight.device,
            dtype=weight.dtype,
        )
        session.processed_frames = _Frames(clip, lambda frame: prepare(frame.to(weight)))
        scale = torch.tensor([size / width, size / height])
        for number, thing in enumerate(things):
            points, labels = thing.labelled()
            inputs = {
                "point_coords": rearrange(torch.tensor(points) * scale, "n xy -> 1 1 n xy"),
                "point_labels": torch.tensor([[labels]], dtype=torch.int32),
            }
            session.add_point_inputs(session.obj_id_to_idx(number), key, inputs)
        session.obj_with_new_inputs = list(range(len(things)))
        return session

    def _mask(self, clip: Tensor, session: Any, frame: int, *, reverse: bool) -> Tensor:
        found = self.model(session, frame_idx=frame, reverse=reverse).pred_masks
        logits = functional.interpolate(found.float(), tuple(clip.shape[-2:]), mode="bilinear")
        return (logits > 0).any(dim=0)[0].float().cpu()

    def _forget(self, session: Any, frame: int | None) -> None:
        """Drop what no later frame reads: pictures of masks, and all that is too far from `frame`.

        Without `frame` everything but what was made in the frame that was pointed at.
        """
        config = self.model.config
        reach = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        for outputs in session.output_dict_per_obj.values():
            tracked = outputs["non_cond_frame_outputs"]
            for number in list(tracked):
                if frame is None or abs(number - frame) > reach:
                    del tracked[number]
                    continue
                for picture in ("high_res_masks", "pred_masks"):
                    tracked[number].pop(picture, None)


class _Frames(Mapping[int, Tensor]):
    """A clip as the session reads it: a frame is prepared when it is asked for, and never kept."""

    def __init__(self, clip: Tensor, prepare: Callable[[Tensor], Tensor]) -> None:
        self.clip, self.prepare = clip, prepare

    def __getitem__(self, frame: int) -> Tensor:
        return self.prepare(self.clip[:, :, frame])[0]

    def __len__(self) -> int:
        return self.clip.shape[2]

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))


def load_sam2(folder: Path) -> Tracker:
    """A SAM 2 model as transformers saves it, in float32.

    Raises:
        ModelError: if something else, too little or damaged files lie there, or pickles.
        ImportError: if the installed transformers is too old to know it.
    """
    try:
        from transformers import Sam2VideoModel
    except ImportError:
        from transformers import __version__

        raise ImportError(
            f"SAM 2 needs transformers 4.56 or newer, and {__version__} is installed. Install it "
            "into ComfyUI's Python: python -m pip install -U transformers"
        ) from None
    model = load_pretrained(Sam2VideoModel, folder, _KIND)
    try:
        size = _square(model.config.image_size)
        Preparation(None, (size, size), "bilinear", _MEAN, _STD)  # which checks the numbers
    except (IndexError, TypeError, ValueError) as error:
        raise problem(_KIND, folder, f"has a config.json with image_size {error}.") from error
    return Tracker(folder.name, model)


def _square(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


def _check(things: Sequence[Pointed], key: int, frames: int, height: int, width: int) -> None:
    if not things:
        raise ValueError("Nothing is pointed at: give a box, or at least one point inside.")
    if not 0 <= key < frames:
        raise ValueError(
            f"Frame {key} was asked for, and the clip has frames 0 to {frames - 1}. Choose one of "
            "them."
        )
    for thing in things:
        for x, y in thing.labelled()[0]:
            if not (0 <= x <= width and 0 <= y <= height):
                raise ValueError(
                    f"The point {x:g}, {y:g} lies outside the clip, which is {width} pixels wide "
                    f"and {height} high. Positions count from the upper left corner."
                )
