"""The stand-ins: the host's contract word for word, and what each computes."""

import json

import av
import numpy as np
import pytest
import torch
from PIL import Image
from rescore.headless.core_nodes import CORE_NODES, core_nodes
from rescore.headless.runner import run_workflow
from rescore.headless.specs import input_specs

SIDE = 16384

# ComfyUI 0.8.0: (name, type, default, min, max, step) or (name, "COMBO", choices) or (name, type);
# an optional input's name ends with "?". Workflows store widget values in this order.
CONTRACT = {
    "LoadVideo": ([("file", "COMBO", ("a.mp4", "b.MOV"))], ["VIDEO"]),
    "GetVideoComponents": ([("video", "VIDEO")], ["IMAGE", "AUDIO", "FLOAT"]),
    "CreateVideo": (
        [("images", "IMAGE"), ("fps", "FLOAT", 30.0, 1.0, 120.0, 1.0), ("audio?", "AUDIO")],
        ["VIDEO"],
    ),
    "SaveVideo": (
        [
            ("video", "VIDEO"),
            ("filename_prefix", "STRING", "video/ComfyUI", None, None, None),
            ("format", "COMBO", ("auto", "mp4")),
            ("codec", "COMBO", ("auto", "h264")),
        ],
        [],
    ),
    "LoadImage": ([("image", "COMBO", ("c.png", "d.jpg"))], ["IMAGE", "MASK"]),
    "SaveImage": (
        [("images", "IMAGE"), ("filename_prefix", "STRING", "ComfyUI", None, None, None)],
        [],
    ),
    "PreviewImage": ([("images", "IMAGE")], []),
    "MaskToImage": ([("mask", "MASK")], ["IMAGE"]),
    "ImageToMask": (
        [("image", "IMAGE"), ("channel", "COMBO", ("red", "green", "blue", "alpha"))],
        ["MASK"],
    ),
    "SolidMask": (
        [
            ("value", "FLOAT", 1.0, 0.0, 1.0, 0.01),
            ("width", "INT", 512, 1, SIDE, 1),
            ("height", "INT", 512, 1, SIDE, 1),
        ],
        ["MASK"],
    ),
    "ThresholdMask": ([("mask", "MASK"), ("value", "FLOAT", 0.5, 0.0, 1.0, 0.01)], ["MASK"]),
    "ImageCompositeMasked": (
        [
            ("destination", "IMAGE"),
            ("source", "IMAGE"),
            ("x", "INT", 0, 0, SIDE, 1),
            ("y", "INT", 0, 0, SIDE, 1),
            ("resize_source", "BOOLEAN", False, None, None, None),
            ("mask?", "MASK"),
        ],
        ["IMAGE"],
    ),
}
OUTPUT_NODES = {"SaveVideo", "SaveImage", "PreviewImage"}


def test_the_contract_covers_every_stand_in():
    assert set(CONTRACT) == set(CORE_NODES)


def as_in_0_8(cls: type) -> type:
    """What it declares without the group of inputs that later hosts added."""
    groups = {group: inputs for group, inputs in cls.INPUT_TYPES().items() if group != "later"}
    return type(cls.__name__, (), {"INPUT_TYPES": classmethod(lambda cls: groups)})


@pytest.mark.parametrize("name", CONTRACT)
def test_contract(folders, name):
    for file in ("b.MOV", "a.mp4", "c.png", "d.jpg", "e.txt"):
        (folders.inputs[0] / file).write_bytes(b"")
    cls = core_nodes(folders)[name]
    inputs, outputs = CONTRACT[name]
    declared = []
    for spec in input_specs(as_in_0_8(cls)).values():
        entry = [spec.name if spec.required else f"{spec.name}?", spec.type]
        limits = [spec.options.get(key) for key in ("default", "min", "max", "step")]
        if spec.choices is not None:
            entry.append(spec.choices)
            assert limits[0] in (None, spec.choices[0])
        elif any(limit is not None for limit in limits):
            entry += limits
        declared.append(tuple(entry))
    assert declared == inputs
    assert list(cls.RETURN_TYPES) == outputs
    assert getattr(cls, "OUTPUT_NODE", False) == (name in OUTPUT_NODES)
    assert callable(getattr(cls, cls.FUNCTION))
    json.dumps(cls.INPUT_TYPES())


def call(folders, name, **inputs):
    """Run one stand-in as the runner does."""
    cls = core_nodes(folders)[name]
    return getattr(cls(), cls.FUNCTION)(**inputs)


def test_video_from_file_to_file(folders, write_clip, smooth_frames, tone):
    from fractions import Fraction

    frames = smooth_frames(7, 24, 32)
    sound = (tone(0.5, 16000, 1), 16000)
    rate = Fraction(30000, 1001)
    write_clip(folders.inputs[0] / "a.mp4", frames, rate=rate, sound=sound)
    (video,) = call(folders, "LoadVideo", file="a.mp4")
    images, audio, fps, depth, colours = call(folders, "GetVideoComponents", video=video)
    assert (depth, colours) == (8, "sRGB")
    assert images.shape == (7, 24, 32, 3) and images.dtype == torch.float32
    assert fps == pytest.approx(29.97, abs=0.001) and audio["sample_rate"] == 16000
    (made,) = call(folders, "CreateVideo", images=images, fps=fps, audio=audio)
    assert made.get_components().frame_rate == rate
    saved = call(
        folders,
        "SaveVideo",
        video=made,
        filename_prefix="video/x",
        format="auto",
        codec="auto",
        prompt={"1": {}},
    )
    assert saved["ui"]["images"] == [
        {"filename": "x_00001_.mp4", "subfolder": "video", "type": "output"}
    ]
    again = core_nodes(type(folders)(folders.out, (folders.out,)))["LoadVideo"]()
    parts = again.load("video/x_00001_.mp4")[0].get_components()
    assert parts.images.shape == images.shape and parts.frame_rate == rate
    assert parts.audio["sample_rate"] == 16000


def graph_of(host: str, **save) -> dict:
    """A clip through all video nodes, as a host of this release exports it."""
    late = host == "0.33"
    parts = {"images": ["2", 0], "audio": ["2", 1], "fps": ["2", 2]}
    graph = {
        "1": ("LoadVideo", {"file": "a.mp4"}),
        "2": ("GetVideoComponents", {"video": ["1", 0]}),
        "9:3": ("CreateVideo", parts | ({"bit_depth": ["2", 3]} if late else {})),
        "4": ("SaveVideo", {"video": ["9:3", 0], "filename_prefix": "x", **save}),
        "5": ("PreviewImage", {"images": ["2", 0]}),
    }
    if late:
        graph["6"] = ("SaveVideo", {"video": ["4", 0], "filename_prefix": "y", "format": "auto"})
        graph["7"] = ("SaveImage", {"images": ["5", 0], "filename_prefix": "z"})
    return {
        key: {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}
        for key, (kind, inputs) in graph.items()
    }


ENCODING = {"format.codec.encoding": "re-encode", "format.codec.encoding.crf": 30.0}
EXPORTS = {
    "0.8": ("0.8", {"format": "auto", "codec": "auto"}, None),
    "0.8 mp4": ("0.8", {"format": "mp4", "codec": "h264"}, None),
    "0.33": ("0.33", {"format": "auto", "format.codec": "auto"}, None),
    "0.33 old codec": ("0.33", {"format": "mp4", "codec": "h264", "codec.encoding": "auto"}, None),
    "0.33 crf": ("0.33", {"format": "mp4", "format.codec": "h264", **ENCODING}, None),
    "0.33 webm": ("0.33", {"format": "webm", "format.codec": "auto"}, "webm is not written here"),
    "0.33 mkv": ("0.33", {"format": "mkv", "format.codec": "auto"}, "mkv is not written here"),
    "0.33 av1": ("0.33", {"format": "mp4", "format.codec": "av1"}, "av1 is not written here"),
    "0.33 HDR": (
        "0.33",
        {
            "format": "mp4",
            "format.codec": "h264",
            **ENCODING,
            "format.codec.encoding.color_space": "HDR",
        },
        "HDR is not written here; saved as sRGB",
    ),
    "unknown": ("0.33", {"format": "mp4", "format.codec": "auto", "hue": [1, 2, 3]}, "'hue' is un"),
}


@pytest.mark.parametrize("case", EXPORTS)
def test_graphs_as_hosts_export_them(folders, write_clip, smooth_frames, case, caplog):
    host, save, said = EXPORTS[case]
    write_clip(folders.inputs[0] / "a.mp4", smooth_frames(5, 24, 32), sound=None)
    run = run_workflow(graph_of(host, **save), out=folders.out, inputs=folders.inputs)
    names = ["x_00001_.mp4", *(["y_00001_.mp4"] if host == "0.33" else [])]
    assert [path.name for path in run.saved if path.suffix == ".mp4"] == names
    assert (said in caplog.text) if said else caplog.text == ""
    prompt = graph_of(host, **save)
    with av.open(str(folders.out / "x_00001_.mp4")) as container:
        assert json.loads(container.metadata["prompt"]) == prompt


def test_the_quality_asked_for_is_the_quality_written(folders, write_clip):
    noise = np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3), dtype=np.uint8)
    write_clip(folders.inputs[0] / "a.mp4", noise)
    sizes = []
    for crf in (10, 40):
        save = {"format": "mp4", "format.codec": "h264", **ENCODING}
        save["format.codec.encoding.crf"] = crf
        run = run_workflow(graph_of("0.33", **save), out=folders.out, inputs=folders.inputs)
        sizes.append(run.files["4"][0].stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def test_ten_bits_are_told_and_saved_as_eight(folders, write_clip, smooth_frames, caplog):
    write_clip(folders.inputs[0] / "a.mp4", smooth_frames(5, 24, 32), pix_fmt="yuv420p10le")
    run_workflow(graph_of("0.33", format="auto"), out=folders.out, inputs=folders.inputs)
    assert "Videos are saved with 8 bits here, not with 10." in caplog.text


@pytest.mark.parametrize("name", ["LoadVideo", "LoadImage"])
def test_loaders_check_their_file_before_the_run(folders, name):
    cls = core_nodes(folders)[name]
    assert "is not in the input folder" in cls.VALIDATE_INPUTS("none.mp4")
    assert "leaves its folder" in cls.VALIDATE_INPUTS("../x")
    assert "expected a file name" in cls.VALIDATE_INPUTS(5)
    assert cls.VALIDATE_INPUTS(None) is True  # linked: known only when it runs
    (folders.inputs[0] / "a").write_bytes(b"")
    assert cls.VALIDATE_INPUTS("a") is True


def test_rgba_image(folders):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(folders.inputs[0] / "a.png")
    image, mask = call(folders, "LoadImage", image="a.png")
    assert np.array_equal(image.numpy()[0], pixels[..., :3].astype(np.float32) / 255)
    assert np.allclose(mask.numpy()[0], 1 - pixels[..., 3] / 255, atol=1e-6)


def test_image_without_alpha_has_the_hosts_empty_mask(folders):
    Image.new("RGB", (7, 5), (255, 0, 51)).save(folders.inputs[0] / "a.png")
    image, mask = call(folders, "LoadImage", image="a.png")
    assert image.shape == (1, 5, 7, 3)
    assert torch.allclose(image[0, 0, 0], torch.tensor([1.0, 0.0, 0.2]))
    assert mask.shape == (1, 64, 64) and not mask.any()


def test_sixteen_bit_grey_keeps_its_range(folders):
    ramp = np.linspace(0, 65535, 35).astype(np.uint16).reshape(5, 7)
    Image.fromarray(ramp).save(folders.inputs[0] / "a.png")
    image, _ = call(folders, "LoadImage", image="a.png")
    assert np.allclose(image.numpy()[0, ..., 1], ramp / 65535, atol=1e-6)


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7), "floating-point"),
        (np.linspace(0, 2**31 - 1, 35).astype(np.int32).reshape(5, 7), "32-bit"),
        (np.full((5, 7), -1, np.int32), "32-bit"),
    ],
)
def test_pixels_whose_white_is_not_known_are_refused(folders, pixels, kind):
    Image.fromarray(pixels).save(folders.inputs[0] / "a.tiff")
    with pytest.raises(ValueError, match=f"{kind} pixels, and nothing says which number is white"):
        call(folders, "LoadImage", image="a.tiff")


def test_pictures_of_other_sizes_are_left_out_and_told(folders, caplog):
    pictures = [Image.new("RGB", size) for size in ((7, 5), (3, 2), (7, 5))]
    pictures[0].save(folders.inputs[0] / "a.tiff", save_all=True, append_images=pictures[1:])
    frames, _ = call(folders, "LoadImage", image="a.tiff")
    assert len(frames) == 2
    assert "'a.tiff': 1 of its pictures have another size than the first" in caplog.text


def test_animated_image_is_a_batch(folders):
    pages = [Image.new("RGB", (9, 5), colour) for colour in ("red", "lime", "blue")]
    pages[0].save(folders.inputs[0] / "a.gif", save_all=True, append_images=pages[1:])
    image, mask = call(folders, "LoadImage", image="a.gif")
    assert image[:, 2, 4].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert mask.shape == (3, 64, 64)


def test_only_the_first_view_of_a_stereo_picture(folders):
    views = [Image.new("RGB", (8, 6), colour) for colour in ("white", "black")]
    views[0].save(folders.inputs[0] / "a.jpg", "MPO", save_all=True, append_images=views[1:])
    image, _ = call(folders, "LoadImage", image="a.jpg")
    assert image.shape == (1, 6, 8, 3) and image.min() > 0.99


def test_exif_rotation_is_applied(folders):
    image = Image.new("RGB", (8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folders.inputs[0] / "a.jpg", exif=exif)
    assert call(folders, "LoadImage", image="a.jpg")[0].shape == (1, 8, 4, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tiff", "ppm"])
def test_usual_formats(folders, suffix):
    Image.new("RGB", (8, 6), (200, 200, 200)).save(folders.inputs[0] / f"a.{suffix}")
    image, _ = call(folders, "LoadImage", image=f"a.{suffix}")
    assert image.shape == (1, 6, 8, 3) and (image - 200 / 255).abs().max() < 0.01


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 99])
def test_what_is_no_image_is_refused(folders, data):
    (folders.inputs[0] / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"'a\.png' is not an image that can be read"):
        call(folders, "LoadImage", image="a.png")


def test_postscript_is_refused(folders):
    Image.new("RGB", (9, 5)).save(folders.inputs[0] / "a.eps")
    (folders.inputs[0] / "a.eps").rename(folders.inputs[0] / "a.png")
    with pytest.raises(ValueError, match=r"'a\.png' is not an image that can be read"):
        call(folders, "LoadImage", image="a.png")


def test_cut_off_image_is_refused(folders):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = folders.inputs[0] / "a.png"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"'a\.png' is not an image that can be read"):
        call(folders, "LoadImage", image="a.png")


def test_saved_images_are_exact_and_carry_the_workflow(folders):
    pixels = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    call(folders, "SaveImage", images=pixels.float() / 255, filename_prefix="a", prompt={"1": 5})
    for index in (0, 1):
        with Image.open(folders.out / f"a_0000{index + 1}_.png") as image:
            assert np.array_equal(np.array(image), pixels[index].numpy())
            assert json.loads(image.text["prompt"]) == {"1": 5}


def test_batch_number_in_the_prefix(folders):
    call(folders, "SaveImage", images=torch.zeros(2, 4, 4, 3), filename_prefix="f%batch_num%")
    assert sorted(path.name for path in folders.out.iterdir()) == ["f0_00001_.png", "f1_00001_.png"]


def test_mask_basics(folders):
    mask = torch.tensor([[[0.0, 0.25, 0.5, 1.0]]])
    assert call(folders, "ThresholdMask", mask=mask, value=0.5)[0].tolist() == [[[0, 0, 0, 1]]]
    assert call(folders, "MaskToImage", mask=mask)[0].shape == (1, 1, 4, 3)
    solid = call(folders, "SolidMask", value=0.3, width=5, height=3)[0]
    assert solid.shape == (1, 3, 5) and torch.allclose(solid, torch.tensor(0.3))


def test_image_to_mask_and_back(folders):
    image = torch.rand(2, 3, 5, 4)
    for index, channel in enumerate(("red", "green", "blue", "alpha")):
        assert call(folders, "ImageToMask", image=image, channel=channel)[0].equal(
            image[..., index]
        )
    with pytest.raises(ValueError, match="has 3 channels and no alpha"):
        call(folders, "ImageToMask", image=image[..., :3], channel="alpha")


def test_paste(folders):
    below, above = torch.zeros(2, 4, 6, 3), torch.ones(1, 2, 3, 3)

    def pasted(x, y, resize_source=False, **mask):
        inputs = {"destination": below, "source": above, "x": x, "y": y, **mask}
        return call(folders, "ImageCompositeMasked", resize_source=resize_source, **inputs)[0]

    expected = torch.zeros(2, 4, 6, 3)
    expected[:, 1:3, 4:6] = 1  # cut off at the right edge, the one source frame for both
    assert pasted(4, 1).equal(expected) and not below.any()
    mask = torch.tensor([[[0.0, 0.5, 1.0], [1.0, 1.0, 0.0]]])
    masked = pasted(0, 0, mask=mask)
    assert masked[1, :2, :3, 2].equal(mask[0]) and not masked[:, 2:].any()
    assert pasted(0, 0, resize_source=True).all()
    assert not pasted(99, 0).any()


def test_stand_ins_leave_their_inputs_alone(folders):
    with torch.inference_mode():
        image, mask = torch.rand(2, 6, 10, 3), torch.rand(2, 6, 10)
        before = image.clone(), mask.clone()
        place = {"x": 0, "y": 0, "resize_source": False}
        call(folders, "MaskToImage", mask=mask)
        call(
            folders, "ImageCompositeMasked", destination=image, source=1 - image, mask=mask, **place
        )
        call(folders, "SaveImage", images=image, filename_prefix="a")
        assert image.equal(before[0]) and mask.equal(before[1])
