"""Pictures between PyAV's frames and RGB arrays: colours, depth, size, and which way is up.

The arithmetic is swscale's, by libavfilter's `scale`. `VideoFrame.reformat` calls swscale, too, but
places the chroma samples of 4:2:0 elsewhere when it reads than when it writes, so that colours
smear a little more with every pass, and it cannot map HDR.
"""

from __future__ import annotations

import logging

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorPrimaries, ColorTrc

logger = logging.getLogger(__name__)

ACCURATE = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
# Of limited range, swscale's way to more than 8 bits makes white 255/256 of what it is.
FULL_RANGE = "out_range=pc", "yuv444p16le|rgb48le|gray16le"
TO_BT709 = "out_primaries=bt709:out_transfer=bt709"
HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
WIDE = {
    ColorPrimaries.BT2020: "BT.2020",
    ColorPrimaries.SMPTE431: "DCI-P3",
    ColorPrimaries.SMPTE432: "Display P3",
}
LINEAR, LOGARITHMIC = ColorTrc.LINEAR, (ColorTrc.LOG, ColorTrc.LOG_SQRT)
# The codes of H.273 for the matrices between YUV and RGB that swscale knows, and "not said".
MATRICES, UNSAID = {0, 1, 2, 4, 5, 6, 7, 9}, 2
# Formats at which swscale ends the whole process: sensor data, and grey floats with alpha.
DEADLY = ("bayer", "yaf32")


class Scaler:
    """Brings frames to one pixel format, in a graph that is built anew when frames change.

    Args:
        steps: one or more conversions, as options of the filter `scale` and a pixel format, or
            several (`a|b`) of which the nearest is taken.
    """

    def __init__(self, *steps: tuple[str, str]):
        self.steps = steps
        self._kind: tuple | None = None
        self._graph: Graph | None = None

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame, converted; its timing is lost."""
        kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if kind != self._kind:
            self._kind, self._graph = kind, self._build(*kind)
        self._graph.push(frame)
        return self._graph.pull()

    def _build(self, width: int, height: int, name: str, matrix: int, colour_range: int) -> Graph:
        graph = Graph()
        source = graph.add(
            "buffer",
            f"video_size={width}x{height}:pix_fmt={name}:colorspace={matrix}:range={colour_range}:"
            "time_base=1/1",
        )
        filters = [source]
        for options, formats in self.steps:
            filters.append(graph.add("scale", f"{ACCURATE}:{options}"))
            filters.append(graph.add("format", f"pix_fmts={formats}"))
        graph.link_nodes(*filters, graph.add("buffersink")).configure()
        return graph


class Developer:
    """Turns the decoded frames of one clip into upright RGB arrays of one size."""

    def __init__(self, name: str):
        self.name = name
        self.bits = 8
        self._size: tuple[int, int] | None = None
        self._turn: tuple[int, int, bool] = (1, 1, False)
        self._scalers: dict[tuple[bool, str], Scaler] = {}
        self._said: set[str] = set()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """One frame `[H, W, 3]`, uint8, or uint16 if it has more than 8 bits.

        Raises:
            ValueError: a pixel format that is no picture.
        """
        if frame.format.name.startswith(DEADLY):
            raise ValueError(f"{self.name} holds {frame.format.name} data, not finished pictures.")
        size = frame.width, frame.height
        if self._size is None:
            self._size, self._turn = size, self._orientation(frame)
        elif size != self._size:
            self._say(
                f"changes its frame size from {_written(self._size)} to {_written(size)}; all "
                "frames are brought to the first size"
            )
        bits = max(part.bits for part in frame.format.components)
        self.bits = max(self.bits, bits)
        kind = bits > 8, self._settle_colours(frame)
        if kind not in self._scalers:
            self._scalers[kind] = self._scaler(*kind)
        return self._upright(self._scalers[kind](frame).to_ndarray())

    def _scaler(self, deep: bool, colours: str) -> Scaler:
        options = f"w={self._size[0]}:h={self._size[1]}{colours}"
        if deep:
            return Scaler(FULL_RANGE, (options, "rgb48le"))
        return Scaler((options, "gbrp"))

    def _settle_colours(self, frame: av.VideoFrame) -> str:
        """Options that bring wide or HDR colours to BT.709; what is usual or unknown stays."""
        if frame.colorspace not in MATRICES:
            self._say(
                f"has a colour matrix that is not known here (code {frame.colorspace} of H.273); "
                "its colours will be off"
            )
            frame.colorspace = UNSAID
        hdr, wide = HDR.get(frame.color_trc), WIDE.get(frame.color_primaries)
        if hdr:
            self._say(f"is HDR ({hdr}); it is tone-mapped to the SDR colours of BT.709")
            frame.color_primaries = frame.color_primaries if wide else ColorPrimaries.BT2020
            return f":{TO_BT709}:intent=perceptual"
        if frame.color_trc in LOGARITHMIC:
            self._say("holds logarithms of light, which are not undone: it will look flat")
        if wide:
            self._say(f"has the colours of {wide}; they are brought to those of BT.709")
        if frame.color_trc == LINEAR:
            self._say("holds linear light, which is brought to the curve of BT.709")
        elif wide:
            frame.color_trc = ColorTrc.BT709
        else:
            frame.color_trc = ColorTrc.UNSPECIFIED
            frame.color_primaries = ColorPrimaries.UNSPECIFIED
            return ""
        return f":{TO_BT709}"

    def _orientation(self, frame: av.VideoFrame) -> tuple[int, int, bool]:
        """Signs of x and y, and whether the two change places, as the display matrix says."""
        a, b, c, d = _display_matrix(frame)
        straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
        if min(straight, crossed) > 0.01 * max(straight, crossed):
            angle = np.rad2deg(np.arctan2(b, a))
            self._say(
                f"asks to be turned clockwise by {angle:.0f} degrees; only quarter turns "
                "and mirrors are applied, so its frames are used as they are stored"
            )
            return 1, 1, False
        return (_sign(c), _sign(b), True) if crossed > straight else (_sign(a), _sign(d), False)

    def _upright(self, array: np.ndarray) -> np.ndarray:
        x, y, crossed = self._turn
        return (array.swapaxes(0, 1) if crossed else array)[::y, ::x]

    @property
    def crossed(self) -> bool:
        """Whether frames lie on their side as they are stored."""
        return self._turn[2]

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.warning("%s %s.", self.name, what)


def _display_matrix(frame: av.VideoFrame) -> tuple[float, float, float, float]:
    """The matrix that puts the stored point (x, y) at (a x + c y, b x + d y), y downwards."""
    try:
        data = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # PyAV does not know every kind of side data, such as Exif's
        angle = np.deg2rad(frame.rotation)
        return np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(data, "<i4", 5).tolist()
    return a, b, c, d


def _sign(value: float) -> int:
    return -1 if value < 0 else 1


def _written(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
