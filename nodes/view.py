"""The node that plays up to four clips in the browser, with a wipe or in a grid."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from . import host, layouts
from .widgets import FLOAT, SOCKET, Node, outputs

if TYPE_CHECKING:
    import torch

_LONGEST, _SHORTEST = 768, 256  # limits of the longer side of a preview, in pixels


class ViewComparison(Node):
    TITLE = "View Comparison"
    SEARCH_ALIASES = ["before after", "compare videos", "wipe", "grid", "video player"]
    DESCRIPTION = (
        "Plays source and edit in the node, and up to two clips more, in step: one wiped over "
        "another, or all in a grid. Frame by frame, in a loop of some frames, zoomed in, with "
        "sound. For a comparison to keep, use Compare Clips."
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
    OPTIONAL = {
        "third": SOCKET("IMAGE", "A third clip of the same size: another method, other settings."),
        "fourth": SOCKET("IMAGE", "A fourth clip of the same size."),
        "audio": SOCKET("AUDIO", "The sound of the first clip, which the player can turn on; wire "
            "it to the audio of Get Video Components."),
    }  # fmt: skip

    def view(self, source, edited, fps: float, third=None, fourth=None, audio=None):
        from ..pipelines.compare import require_alike
        from .preview_file import write_preview

        named = {"source": source, "edited": edited, "third": third, "fourth": fourth}
        named = {name: images for name, images in named.items() if images is not None}
        clips = [layouts.clip_from_image(images)[0] for images in named.values()]
        for other in clips[1:]:
            require_alike(clips[0], other)
        place = host.temp_file("rescore_comparison", ".mp4")
        if place is None:
            return {"ui": {}, "result": (edited,)}
        file, entry = place
        frames, height, width = source.shape[:3]
        scale = _scale(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        size = len(clips) * _even(height), _even(width)
        heard = write_preview(file, _stacked(clips, (height, width)), size, frames, fps, audio)
        about = {
            "width": width,
            "height": height,
            "below": _even(height),
            "frames": frames,
            "fps": fps,
            "names": list(named),
            "sound": heard,
        }
        return {"ui": {"rescore_comparison": [{**entry, **about}]}, "result": (edited,)}


def _scale(height: int, width: int) -> float:
    """The scale of a preview. Small clips are enlarged, because H.264 halves colour resolution."""
    longest = max(height, width)
    return _LONGEST / longest if longest > _LONGEST else max(1, _SHORTEST // longest)


def _even(pixels: int) -> int:
    return pixels + pixels % 2


def _stacked(clips: Sequence["torch.Tensor"], size: tuple[int, int]) -> Iterator["torch.Tensor"]:
    """Each frame of all clips `[3, f, H, W]` at `size`, one below another, uint8 `[h, w, 3]`.

    In one video they stay in step. H.264 needs even sizes; to an odd size its last line is added.
    """
    import torch
    from einops import rearrange
    from torch.nn import functional

    pad = (0, size[1] % 2, 0, size[0] % 2)
    for together in zip(*(clip.unbind(1) for clip in clips), strict=True):
        frames = torch.stack(together).float().cpu()
        mode = "area" if size[0] * size[1] < frames[0, 0].numel() else "nearest"
        frames = functional.interpolate(frames, size, mode=mode)
        frames = functional.pad(frames, pad, mode="replicate")
        pixels = (frames.clamp(0, 1) * 255).round().byte()
        yield rearrange(pixels, "clips c h w -> (clips h) w c")


NODE_CLASS_MAPPINGS = {"ReScoreViewComparison": ViewComparison}
