"""Pictures: exact colours whatever the file's matrix, range and depth, and the right way up."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image
from rescore.headless.video import VideoComponents
from rescore.headless.video_read import read_video
from rescore.headless.video_write import encode_mp4

# Red's and blue's share of luma (H.273), by the code of the matrix.
WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114)}
WEIGHTS |= {7: (0.212, 0.087), 9: (0.2627, 0.0593)}
LIMITED, FULL = 1, 2
COLOURS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (230, 40, 30), (13, 130, 200)]
)


def yuv(colours: np.ndarray, matrix: int, colour_range: int, bits: int) -> np.ndarray:
    """RGB in 0..255 as integer Y, Cb, Cr, by the formulas of H.273."""
    red_share, blue_share = WEIGHTS[matrix]
    red, green, blue = (colours / 255).T
    luma = red_share * red + (1 - red_share - blue_share) * green + blue_share * blue
    chroma = (blue - luma) / (2 - 2 * blue_share), (red - luma) / (2 - 2 * red_share)
    unit, top = 2 ** (bits - 8), 2**bits - 1
    if colour_range == FULL:
        planes = [luma * top, *(part * top + 128 * unit for part in chroma)]
    else:
        planes = [(16 + 219 * luma) * unit, *((128 + 224 * part) * unit for part in chroma)]
    return np.round(planes).clip(0, top).astype(np.uint16 if bits > 8 else np.uint8)


def write_yuv(path, planes, pixel_format, *, frames=2, transfer=2, primaries=2, **tags):
    """Flat squares of 16 pixels side by side, lossless, with colour tags."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=10)
        stream.pix_fmt = pixel_format
        stream.width, stream.height = 16 * planes.shape[1], 16
        stream.codec_context.colorspace = tags.get("matrix", 2)
        stream.codec_context.color_range = tags.get("colour_range", 0)
        stream.codec_context.color_trc, stream.codec_context.color_primaries = transfer, primaries
        frame = av.VideoFrame(stream.width, 16, pixel_format)
        for index, (plane, values) in enumerate(zip(frame.planes, planes, strict=True)):
            narrow = 2 if index and pixel_format.startswith("yuv420") else 1
            row = np.repeat(values, 16 // narrow)
            line = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
            line[:, : len(row)] = row
            plane.update(line)
        frame.colorspace, frame.color_range = tags.get("matrix", 2), tags.get("colour_range", 0)
        frame.color_trc, frame.color_primaries = transfer, primaries
        for index in range(frames):
            frame.pts, frame.time_base = index, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


PLANAR = ["gbrp9le", "gbrp10le", "gbrp12le", "gbrp14le", "gbrp16le"]


@pytest.mark.parametrize("pixel_format", [*PLANAR, "gbrap10le", "gbrap12le", "gbrap16le"])
def test_every_level_of_deep_rgb(tmp_path, pixel_format):
    bits = int("".join(filter(str.isdigit, pixel_format)))
    top = 2**bits - 1
    green, blue, red = np.random.default_rng(0).integers(0, top + 1, (3, 37))
    green[0] = blue[0] = red[0] = top
    planes = [green, blue, red, np.full(37, top)][: 4 if "gbra" in pixel_format else 3]
    planes = [plane.astype(np.uint16) for plane in planes]
    colours = np.stack([red, green, blue], axis=1)
    path = write_yuv(tmp_path / "a.mkv", np.stack(planes), pixel_format)
    assert np.abs(squares(read_video(path)) / 255 - colours / top).max() <= 1 / 65535


def squares(video) -> np.ndarray:
    """The colour in the middle of each square, in 0..255."""
    return video.images[0, 8, 8::16].numpy() * 255


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv444p10le", "yuv420p10le"])
def test_colours_by_the_formula(tmp_path, matrix, colour_range, pixel_format, caplog):
    bits = 10 if "10" in pixel_format else 8
    planes = yuv(COLOURS, matrix, colour_range, bits)
    path = write_yuv(
        tmp_path / "a.mkv", planes, pixel_format, matrix=matrix, colour_range=colour_range
    )
    video = read_video(path)
    assert np.abs(squares(video) - COLOURS).max() <= (0.6 if bits == 10 else 2)
    assert video.bit_depth == bits and caplog.text == ""
    (tmp_path / "b.mp4").write_bytes(encode_mp4(video, crf=0))
    assert np.abs(squares(read_video(tmp_path / "b.mp4")) - COLOURS).max() <= 3


def test_what_is_saved_says_its_colours(tmp_path):
    (tmp_path / "a.mp4").write_bytes(
        encode_mp4(VideoComponents(torch.rand(2, 16, 16, 3), Fraction(10)))
    )
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
    tags = frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range
    assert tags == (1, 1, 1, LIMITED)


@pytest.mark.parametrize("level", [0, 16, 64, 127, 128, 129, 235, 255])
def test_flat_grey_stays_as_it_is(tmp_path, level):
    video = VideoComponents(torch.full((3, 16, 16, 3), level / 255), Fraction(10))
    for _ in range(3):
        (tmp_path / "a.mp4").write_bytes(encode_mp4(video))
        video = read_video(tmp_path / "a.mp4")
    assert np.unique(np.round(video.images.numpy() * 255)).tolist() == [level]


def texture(frames=4, size=64) -> torch.Tensor:
    """Coloured clouds: noise whose spectrum falls off as a photograph's does."""
    generator = np.random.default_rng(0)
    y, x = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    falloff = 1 / np.maximum(np.hypot(x, y), 1 / size) ** 2
    spectrum = np.fft.fft2(generator.normal(size=(3, size, size))) * falloff
    clouds = np.fft.ifft2(spectrum).real
    clouds = 0.5 + 0.18 * clouds / clouds.std()
    frame = torch.from_numpy(clouds.clip(0, 1).astype(np.float32)).permute(1, 2, 0)
    return torch.stack([frame.roll(2 * k, 1) for k in range(frames)])


def test_ten_passes_keep_colours_and_detail(tmp_path):
    first = video = VideoComponents(texture(), Fraction(10))
    for turn in range(11):
        (tmp_path / "a.mp4").write_bytes(encode_mp4(video, crf=0))
        video = read_video(tmp_path / "a.mp4")
        first = video if turn == 0 else first  # the first pass halves the colour's resolution
    change = (video.images - first.images) * 255
    assert change.mean((0, 1, 2)).abs().max() < 0.5
    assert change.abs().mean() < 1 and change.abs().flatten().quantile(0.999) < 8


PQ, HLG, BT2020, BT709_TRANSFER = 16, 18, 9, 1


def pq(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084: light of up to 10000 cd/m2 to a code in 0..1."""
    power = (nits / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


@pytest.mark.slow
@pytest.mark.parametrize(("transfer", "name"), [(PQ, "PQ"), (HLG, "HLG")])
def test_hdr_is_tone_mapped_and_said(tmp_path, transfer, name, caplog):
    nits = np.array([0, 1, 10, 100, 203, 1000])
    codes = pq(nits) if transfer == PQ else np.array([0, 0.1, 0.25, 0.5, 0.75, 1])
    planes = yuv(np.repeat(255 * codes[:, None], 3, axis=1), 9, LIMITED, 10)
    tags = {"matrix": 9, "colour_range": LIMITED, "transfer": transfer, "primaries": BT2020}
    levels = squares(read_video(write_yuv(tmp_path / "a.mkv", planes, "yuv420p10le", **tags)))
    assert np.abs(levels - levels.mean(1, keepdims=True)).max() < 1.5  # grey stays grey
    assert (np.diff(levels[:, 0]) > 8).all() and levels[0].max() < 1 and levels.max() <= 255
    assert 110 < levels[4].mean() < 220  # paper white is bright, and leaves room for highlights
    assert f"is HDR ({name}); it is tone-mapped" in caplog.text


@pytest.mark.slow
def test_wide_colours_are_brought_to_bt709(tmp_path, caplog):
    to_2020 = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    colours = np.array([(128, 128, 128), (200, 100, 50), (90, 160, 110), (255, 255, 255)])
    wide = 255 * ((colours / 255) ** 2.4 @ np.transpose(to_2020)) ** (1 / 2.4)
    planes = yuv(wide, 9, LIMITED, 10)
    tags = {"matrix": 9, "colour_range": LIMITED, "transfer": 14, "primaries": BT2020}
    video = read_video(write_yuv(tmp_path / "a.mkv", planes, "yuv444p10le", **tags))
    assert np.abs(squares(video) - colours).max() < 8 < np.abs(wide - colours).max()
    assert "has the colours of BT.2020" in caplog.text


def test_linear_light_is_brought_to_the_usual_curve(tmp_path, caplog):
    light = np.array([0, 5, 20, 64, 128, 200, 255])
    planes = yuv(np.repeat(light[:, None], 3, axis=1), 1, LIMITED, 8)
    tags = {"matrix": 1, "colour_range": LIMITED, "transfer": 8, "primaries": 1}
    levels = squares(read_video(write_yuv(tmp_path / "a.mkv", planes, "yuv444p", **tags)))
    assert np.abs(levels - 255 * (light[:, None] / 255) ** (1 / 2.4)).max() < 2
    assert "holds linear light" in caplog.text


@pytest.mark.parametrize("transfer", [9, 10])
def test_logarithms_of_light_are_said(tmp_path, transfer, caplog):
    planes = yuv(COLOURS, 1, LIMITED, 8)
    tags = {"matrix": 1, "colour_range": LIMITED, "transfer": transfer, "primaries": 1}
    video = read_video(write_yuv(tmp_path / "a.mkv", planes, "yuv444p", **tags))
    assert np.abs(squares(video) - COLOURS).max() <= 2 and "logarithms of light" in caplog.text


def test_a_matrix_nobody_knows_is_said(tmp_path, caplog):
    planes = yuv(COLOURS, 5, LIMITED, 8)
    path = write_yuv(tmp_path / "a.mkv", planes, "yuv444p", matrix=8, colour_range=LIMITED)
    assert read_video(path).images.shape == (2, 16, 96, 3)
    assert "a colour matrix that is not known here (code 8 of H.273)" in caplog.text


def test_tags_that_mean_nothing_are_no_hindrance(tmp_path):
    planes = yuv(COLOURS, 1, LIMITED, 8)
    tags = {"matrix": 1, "colour_range": LIMITED, "transfer": 3, "primaries": 3}
    video = read_video(write_yuv(tmp_path / "a.mkv", planes, "yuv444p", **tags))
    assert np.abs(squares(video) - COLOURS).max() <= 2


CORNERS = np.zeros((24, 40, 3), np.uint8)
CORNERS[:12, :20], CORNERS[:12, 20:], CORNERS[12:, :20] = (
    (250, 20, 20),
    (20, 250, 20),
    (20, 20, 250),
)


def mp4_with_matrix(path, matrix, aspect=Fraction(1)) -> None:
    """A picture whose quarters differ, and a display matrix written into the track's header."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 40, 24, "yuv444p"
        stream.codec_context.sample_aspect_ratio = aspect
        for index in range(2):
            frame = av.VideoFrame.from_ndarray(CORNERS, format="rgb24").reformat(format="yuv444p")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4
    assert data[start] == 0  # version 0: the matrix stands 40 bytes in
    data[start + 40 : start + 76] = struct.pack(">9i", *matrix)
    path.write_bytes(data)


# (a, b, c, d): the stored point (x, y) is shown at (a x + c y, b x + d y), y downwards.
TURNS = {
    "upright": ((1, 0, 0, 1), lambda a: a),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((-1, 0, 0, -1), lambda a: np.rot90(a, 2)),
    "upside down and mirrored": ((1, 0, 0, -1), np.flipud),
    "clockwise": ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),
    "anticlockwise": ((0, -1, 1, 0), np.rot90),
    "transposed": ((0, 1, 1, 0), lambda a: a.swapaxes(0, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda a: np.rot90(a, 2).swapaxes(0, 1)),
}


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("case", TURNS)
def test_display_matrices(tmp_path, case, scale, caplog):
    (a, b, c, d), turn = TURNS[case]
    unit = scale << 16
    mp4_with_matrix(
        tmp_path / "a.mp4", (a * unit, b * unit, 0, c * unit, d * unit, 0, 0, 0, 1 << 30)
    )
    images = read_video(tmp_path / "a.mp4").images.numpy()
    expected = turn(CORNERS).astype(np.float32) / 255
    assert images.shape == (2, *expected.shape)
    assert np.abs(images - expected).max() <= 4 / 255 and caplog.text == ""


@pytest.mark.parametrize("degrees", [10, 45, -30, 135])
def test_other_angles_are_said_and_not_claimed(tmp_path, degrees, caplog):
    cos, sin = (round(65536 * f(np.deg2rad(degrees))) for f in (np.cos, np.sin))
    mp4_with_matrix(tmp_path / "a.mp4", (cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30))
    images = read_video(tmp_path / "a.mp4").images.numpy()
    assert np.abs(images - CORNERS / 255).max() <= 4 / 255
    assert f"asks to be turned clockwise by {degrees} degrees" in caplog.text
    assert "used as they are stored" in caplog.text


def test_a_matrix_of_zeros_turns_nothing(tmp_path, caplog):
    mp4_with_matrix(tmp_path / "a.mp4", (0,) * 8 + (1 << 30,))
    assert read_video(tmp_path / "a.mp4").images.shape == (2, 24, 40, 3) and caplog.text == ""


@pytest.mark.parametrize(
    ("orientation", "name"), [(1, "upright"), (6, "clockwise"), (3, "upside down")]
)
def test_frames_that_carry_exif(tmp_path, orientation, name):
    """PyAV does not know this kind of side data and refuses to list any."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(CORNERS).save(buffer, "JPEG", exif=exif, quality=100, subsampling=0)
    (tmp_path / "a.mjpeg").write_bytes(3 * buffer.getvalue())
    images = read_video(tmp_path / "a.mjpeg").images.numpy()
    expected = TURNS[name][1](CORNERS) / 255
    assert images.shape == (3, *expected.shape) and np.abs(images - expected).mean() < 0.03


@pytest.mark.parametrize(
    ("aspect", "size"), [("64/45", "102x58"), ("8/9", "64x58"), ("2", "144x58"), ("4/3", "96x58")]
)
def test_oblong_pixels_are_said(tmp_path, aspect, size, caplog):
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 72, 58, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((58, 72, 3), np.uint8))))
        output.mux(stream.encode(None))
    assert read_video(tmp_path / "a.mp4").images.shape == (1, 58, 72, 3)
    assert f"used as they are, 72x58, and look right at {size}" in caplog.text


def test_oblong_pixels_that_lie_on_their_side(tmp_path, caplog):
    unit = 1 << 16
    matrix = (0, unit, 0, -unit, 0, 0, 0, 0, 1 << 30)
    mp4_with_matrix(tmp_path / "a.mp4", matrix, aspect=Fraction(3, 2))
    assert read_video(tmp_path / "a.mp4").images.shape == (2, 40, 24, 3)
    assert "has pixels of 2:3; its frames are used as they are, 24x40, and" in caplog.text
    assert "look right at 24x60" in caplog.text


def raw_h264(pixel_format: str, width=32, height=32, frames=5, level=200) -> bytes:
    """A raw stream of flat grey frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="h264") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        for _ in range(frames):
            array = np.full((height, width, 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            output.mux(stream.encode(frame.reformat(format=pixel_format)))
        output.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "formats", [("yuv420p", "yuv420p10le"), ("yuv420p10le", "yuv420p"), ("yuv420p", "yuv444p")]
)
def test_a_depth_that_changes(tmp_path, formats):
    (tmp_path / "a.h264").write_bytes(b"".join(map(raw_h264, formats)))
    images = read_video(tmp_path / "a.h264").images
    assert images.shape == (10, 32, 32, 3)
    assert (images - 200 / 255).abs().max() <= 2 / 255


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (48, 64)])
def test_a_size_that_changes_is_brought_to_the_first(tmp_path, size, caplog):
    (tmp_path / "a.h264").write_bytes(raw_h264("yuv420p") + raw_h264("yuv420p", *size))
    images = read_video(tmp_path / "a.h264").images
    assert images.shape == (10, 32, 32, 3)
    assert (images - 200 / 255).abs().max() <= 2 / 255
    assert f"changes its frame size from 32x32 to {size[0]}x{size[1]}" in caplog.text
    assert caplog.text.count("changes its frame size") == 1


def test_sensor_data_is_refused_where_it_would_end_the_process(tmp_path):
    with av.open(str(tmp_path / "a.nut"), "w") as output:
        stream = output.add_stream("rawvideo", rate=10)
        stream.width, stream.height, stream.pix_fmt = 1, 1, "bayer_rggb8"
        output.mux(stream.encode(av.VideoFrame(1, 1, "bayer_rggb8")))
        output.mux(stream.encode(None))
    with pytest.raises(ValueError, match="holds bayer_rggb8 data, not finished pictures"):
        read_video(tmp_path / "a.nut")
