"""SAM 2 (Ravi et al., 2024): follow an object through a clip, after pointing at it in one frame."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..layout import problem
from ..pretrained import load_pretrained
from .clip_scorer import Preparation

_KIND = "sam2-video"
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
# The labels of points for the prompt encoder.
_OUTSIDE, _INSIDE, _TOP_LEFT, _BOTTOM_RIGHT = 0, 1, 2, 3


@dataclass(frozen=True)
class Pointed:
    """A box, points, or both, that point at one object, in pixels (x to the right, y down)."""

    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom
    inside: tuple[tuple[float, float], ...] = ()  # points on the object
    outside: tuple[tuple[float, float], ...] = ()  # points on something else

    def __post_init__(self) -> None:
        if self.box is None and not self.inside:
            raise ValueError("Nothing is pointed at: give a box, or at least one point inside.")

    def labelled(self) -> tuple[list[tuple[float, float]], list[int]]:
        """All points with their labels. First come the two corners of a box."""
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
        """The part that takes memory, under the name of a part that uses the same device."""
        return {"network": self.model}

    def follow(
        self,
        clip: Float[Tensor, "1 3 f H W"],
        things: Sequence[Pointed],
        key: int,
        *,
        on_frame: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "f H W"]:
        """One mask of 0 and 1 for all objects that `things` point at in frame `key`, on the CPU.

        They are followed from that frame to the end, then from it back to the beginning. `clip` has
        pixels in 0..1. Each frame is prepared only when it is needed, and what the model no longer
        needs is dropped. So memory does not grow with the length of the clip. `on_frame` gets the
        number of frames done, and may raise an exception to stop.

        Raises:
            ValueError: if there are no `things`, or a point lies outside the clip.
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
        # Each direction uses only the frame with the points and its own frames.
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
        """Drop what later frames do not read: pictures of masks, and frames too far from `frame`.

        If `frame` is None, drop all but the frame with the points.
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
    """The frames of a clip for the session: each is prepared when it is read, and not kept."""

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
        ModelError: if files are missing, damaged, of another model, or pickles.
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
        Preparation(None, (size, size), "bilinear", _MEAN, _STD)  # checks the numbers
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
