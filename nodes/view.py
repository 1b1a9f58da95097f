"""The node that plays two clips in the browser, with a wipe between them."""

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from . import host, layouts
from .widgets import FLOAT, SOCKET, Node, outputs

if TYPE_CHECKING:
    from pathlib import Path

    import torch

_LONGEST, _SHORTEST = 768, 256  # pixels: limits of a preview's longer side
_BT709, _LIMITED = 1, 1  # codes of the colour matrix (H.273) and of the range that players assume


class ViewComparison(Node):
    TITLE = "View Comparison"
    SEARCH_ALIASES = ["before after", "compare videos", "wipe", "split view", "video player"]
    DESCRIPTION = (
        "Plays source and edit in the node, in step, one wiped over the other; with buttons and "
        "arrow keys for single frames. For a comparison to keep, use Compare Clips."
    )
    CATEGORY = f"{host.CATEGORY}/compare"
    FUNCTION = "view"
    OUTPUT_NODE = True
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        edited=("IMAGE", "The edited clip as it came in, for what follows."),
    )
    REQUIRED = {
        "source": SOCKET("IMAGE", "The clip seen to the left of the wipe."),
        "edited": SOCKET("IMAGE", "The clip seen to the right, of the same size."),
        "fps": FLOAT(8, 0.1, 240, 0.5,
            "Frames per second; wire it to the fps of Get Video Components "
            "to play at the clip's own speed.", round=0.001),
    }  # fmt: skip

    def view(self, source, edited, fps: float):
        from ..pipelines.compare import require_alike

        clips = layouts.clip_from_image(source)[0], layouts.clip_from_image(edited)[0]
        require_alike(*clips)
        place = host.temp_file("rescore_comparison", ".mp4")
        if place is None:
            return {"ui": {}, "result": (edited,)}
        file, entry = place
        frames, height, width = source.shape[:3]
        scale = _scale(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        below = _even(height)
        _write(file, _stacked(clips, (height, width)), (2 * below, _even(width)), fps)
        about = {"width": width, "height": height, "below": below, "frames": frames, "fps": fps}
        return {"ui": {"rescore_comparison": [{**entry, **about}]}, "result": (edited,)}


def _scale(height: int, width: int) -> float:
    """How much a preview is enlarged. Small clips are, as H.264 halves the resolution of colour."""
    longest = max(height, width)
    return _LONGEST / longest if longest > _LONGEST else max(1, _SHORTEST // longest)


def _even(pixels: int) -> int:
    return pixels + pixels % 2


def _stacked(
    clips: tuple["torch.Tensor", "torch.Tensor"], size: tuple[int, int]
) -> Iterator["torch.Tensor"]:
    """Each frame of two clips `[3, f, H, W]` at `size`, one above the other, uint8 `[h, w, 3]`.

    In one video the two stay in step. H.264 needs even sizes: an odd one repeats its last line.
    """
    import torch
    from einops import rearrange
    from torch.nn import functional

    pad = (0, size[1] % 2, 0, size[0] % 2)
    for pair in zip(*(clip.unbind(1) for clip in clips), strict=True):
        frames = torch.stack(pair).float().cpu()
        mode = "area" if size[0] * size[1] < frames[0, 0].numel() else "nearest"
        frames = functional.interpolate(frames, size, mode=mode)
        frames = functional.pad(frames, pad, mode="replicate")
        pixels = (frames.clamp(0, 1) * 255).round().byte()
        yield rearrange(pixels, "two c h w -> (two h) w c")


def _write(
    file: "Path", pictures: Iterator["torch.Tensor"], size: tuple[int, int], fps: float
) -> None:
    """Write pictures `[h, w, 3]` of even `size` as H.264 without B-frames, for single steps."""
    import av

    rate = Fraction(fps).limit_denominator(1001)
    options = {"crf": "15", "preset": "veryfast", "g": "8", "bf": "0"}
    with av.open(str(file), "w", format="mp4") as output:
        video = output.add_stream("libx264", rate=rate, options=options)
        video.height, video.width = size
        video.pix_fmt = "yuv420p"
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
            frame = frame.reformat(
                format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED
            )
            frame.pts, frame.time_base = index, 1 / rate
            output.mux(video.encode(frame))
        output.mux(video.encode(None))


NODE_CLASS_MAPPINGS = {"ReScoreViewComparison": ViewComparison}
