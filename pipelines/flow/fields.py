"""Flow fields: warp along them, resize them, and find where they are valid."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from kornia.geometry.transform import remap
from torch import Tensor
from torch.nn import functional

# Forward-backward consistency (Sundaram, Brox & Keutzer, 2010, Eq. 5): the allowed error of the way
# there and back, relative to the squared flows, and in squared pixels.
_RELATIVE, _ABSOLUTE = 0.01, 0.5


def warp(x: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
    """`x` at p + flow(p), for every pixel p: bilinear; outside the picture its edge is repeated."""
    rows, columns = _pixels(flow)
    return remap(
        x, columns + flow[:, 0], rows + flow[:, 1], padding_mode="border", align_corners=True
    )


def visibility(
    forward: Float[Tensor, "b 2 h w"], backward: Float[Tensor, "b 2 h w"]
) -> Bool[Tensor, "b h w"]:
    """Where the content of a pixel is still visible in the other frame.

    The way there and back must end where it began: |forward + backward|^2 < 0.01 (|forward|^2 +
    |backward|^2) + 0.5, with `backward` at the end of `forward` (Sundaram, Brox & Keutzer, 2010,
    "Dense point trajectories by GPU-accelerated large displacement optical flow", Eq. 5). Pixels
    that leave the picture are not visible. For the pixels of the other frame, swap the arguments.
    """
    back = warp(backward, forward)
    round_trip = (forward + back).square().sum(dim=1)
    length = (forward.square() + back.square()).sum(dim=1)
    return _inside(forward) & (round_trip < _RELATIVE * length + _ABSOLUTE)


def resize_flow(
    flow: Float[Tensor, "n 2 H W"],
    height: int,
    width: int,
    *,
    shown: tuple[float, float] = (1.0, 1.0),
) -> Float[Tensor, "n 2 h w"]:
    """The flow on another grid, with its vectors scaled like the picture.

    `shown` is the share of the new grid, (vertical, horizontal), that the picture fills: less than
    1 where the clip was padded to whole latent pixels. In the padding the edge is repeated.
    """
    whole = _whole(flow, shown)
    scale = flow.new_tensor([width / whole[1], height / whole[0]])
    return rearrange(scale, "c -> 1 c 1 1") * _resize(flow, height, width, whole)


@dataclass(frozen=True, eq=False)
class Flow:
    """The optical flow of a clip, from every frame to the next and back, and its visibility.

    For f frames there are f - 1 flows in each direction. Forward flow and its visibility are given
    at the pixels of the earlier frame, backward flow and its visibility at those of the later
    frame. Visibility is false or true, or 0..1.
    """

    forward: Float[Tensor, "n 2 h w"]
    backward: Float[Tensor, "n 2 h w"]
    visible_forward: Bool[Tensor, "n h w"] | Float[Tensor, "n h w"]
    visible_backward: Bool[Tensor, "n h w"] | Float[Tensor, "n h w"]

    @classmethod
    def of(cls, forward: Float[Tensor, "n 2 h w"], backward: Float[Tensor, "n 2 h w"]) -> "Flow":
        """A flow with its visibility computed from both directions (see `visibility`)."""
        return cls(forward, backward, visibility(forward, backward), visibility(backward, forward))

    @property
    def frames(self) -> int:
        """How many frames the clip has."""
        return len(self.forward) + 1

    def resized(
        self, height: int, width: int, *, shown: tuple[float, float] = (1.0, 1.0)
    ) -> "Flow":
        """The flow on another grid, as `resize_flow`; visibility is averaged."""
        whole = _whole(self.forward, shown)
        visible = (
            _resize(rearrange(part.to(self.forward), "n h w -> n 1 h w"), height, width, whole)[
                :, 0
            ]
            for part in (self.visible_forward, self.visible_backward)
        )
        ways = (
            resize_flow(part, height, width, shown=shown) for part in (self.forward, self.backward)
        )
        return Flow(*ways, *visible)

    def every(self, stride: int) -> "Flow":
        """The flow from frame 0 to frame `stride`, from there to 2 * `stride`, and so on.

        Flows are chained: each starts where the one before has ended. A pixel counts as visible if
        it is visible in all frames on its way.
        """
        if stride == 1:
            return self
        forward, seen = _chained(self.forward, self.visible_forward, stride)
        backward, back = _chained(self.backward.flip(0), self.visible_backward.flip(0), stride)
        return Flow(forward, backward.flip(0), seen, back.flip(0))

    def held(self, frames: int) -> "Flow":
        """The flow of the clip with its last frame repeated until there are `frames` frames."""
        more = (0, frames - self.frames)
        return Flow(
            functional.pad(self.forward, (0, 0) * 3 + more),
            functional.pad(self.backward, (0, 0) * 3 + more),
            functional.pad(self.visible_forward, (0, 0) * 2 + more, value=1),
            functional.pad(self.visible_backward, (0, 0) * 2 + more, value=1),
        )

    def to(self, like: Tensor) -> "Flow":
        """The flow, with visibility in 0..1, in the precision and on the device of `like`."""
        return Flow(
            self.forward.to(like),
            self.backward.to(like),
            self.visible_forward.to(like),
            self.visible_backward.to(like),
        )


def _chained(
    flow: Float[Tensor, "n 2 h w"], visible: Tensor, stride: int
) -> tuple[Float[Tensor, "m 2 h w"], Float[Tensor, "m h w"]]:
    """The flows from every `stride`-th frame to the next such frame, and their visibility."""
    visible = rearrange(visible.to(flow), "n h w -> n 1 h w")
    way, seen = flow[::stride], visible[::stride]
    for distance in range(1, stride):
        seen = seen * warp(visible[distance::stride], way)
        way = way + warp(flow[distance::stride], way)
        seen = seen * rearrange(_inside(way), "m h w -> m 1 h w")
    return way, rearrange(seen, "m 1 h w -> m h w")


def _whole(x: Tensor, shown: tuple[float, float]) -> tuple[int, int]:
    """Height and width of a grid of which `x` fills the share `shown`."""
    return round(x.shape[-2] / shown[0]), round(x.shape[-1] / shown[1])


def _resize(x: Tensor, height: int, width: int, whole: tuple[int, int]) -> Tensor:
    padding = (0, whole[1] - x.shape[-1], 0, whole[0] - x.shape[-2])
    padded = functional.pad(x, padding, mode="replicate")
    return functional.interpolate(padded, (height, width), mode="bilinear", antialias=True)


def _pixels(like: Tensor) -> tuple[Float[Tensor, "h 1"], Float[Tensor, " w"]]:
    """The row and the column of every pixel, as tensors that broadcast."""
    rows = torch.arange(like.shape[-2], dtype=like.dtype, device=like.device)
    columns = torch.arange(like.shape[-1], dtype=like.dtype, device=like.device)
    return rows[:, None], columns


def _inside(flow: Float[Tensor, "b 2 h w"]) -> Bool[Tensor, "b h w"]:
    """Whether the flow ends inside the picture, up to the outer edge of its border pixels."""
    rows, columns = _pixels(flow)
    x, y = columns + flow[:, 0], rows + flow[:, 1]
    return (x.clamp(-0.5, flow.shape[3] - 0.5) == x) & (y.clamp(-0.5, flow.shape[2] - 0.5) == y)
