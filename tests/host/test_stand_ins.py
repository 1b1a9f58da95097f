"""The headless runner's stand-ins against the real nodes: the same contract, the same pictures."""

import json

import av
import numpy as np
import pytest
from PIL import Image
from rescore.headless.core_nodes import CORE_NODES, core_nodes
from rescore.headless.paths import Folders
from rescore.headless.runner import run_workflow
from rescore.headless.specs import InputSpec, input_specs
from rescore.tests.host.graph import DYNAMIC, declared

pytestmark = pytest.mark.host

FILE_LISTS = {"file", "image"}  # choices that are the files of the input folder


def hosts_inputs(info: dict) -> dict[str, InputSpec]:
    """The inputs of a node of /object_info; of a list that brings widgets with it, the list."""
    found = {}
    for section in ("required", "optional"):
        for name, kind, options in declared(info, section):
            choices = kind if isinstance(kind, list) else options.get("options")
            if kind == DYNAMIC:
                choices = [choice["key"] for choice in choices]
            kind = kind if choices is None else "COMBO"
            found[name] = InputSpec(name, kind, section == "required", options, choices)
    return found


def covers(host: InputSpec, ours: InputSpec) -> bool:
    """Whether the host takes every value of an input that its stand-in takes."""
    low, high = (ours.options.get(key) for key in ("min", "max"))
    lowest, highest = host.options.get("min", low), host.options.get("max", high)
    if low is not None and not lowest <= low <= high <= highest:
        return False
    return ours.name in FILE_LISTS or set(ours.choices or ()) <= set(host.choices or ())


@pytest.mark.parametrize("name", CORE_NODES)
def test_what_the_stand_in_takes_and_gives_the_host_takes_and_gives(object_info, tmp_path, name):
    """Newer hosts take more: wider ranges, more choices, further inputs that may be left out."""
    info = object_info[name]
    cls = core_nodes(Folders(tmp_path, (tmp_path,)))[name]
    ours, theirs = input_specs(cls), hosts_inputs(info)
    assert list(theirs)[: len(ours)] == list(ours)
    for spec in ours.values():
        host = theirs[spec.name]
        assert spec.type == host.type
        assert covers(host, spec), host
        for key in ("default", "step"):
            if key in host.options:
                assert spec.options.get(key) == host.options[key]
    assert not any(theirs[key].required for key in theirs.keys() - ours.keys())
    names = getattr(cls, "RETURN_NAMES", info["output_name"])
    count = len(cls.RETURN_TYPES)
    assert list(cls.RETURN_TYPES) == info["output"][:count]
    assert list(names[:count]) == info["output_name"][:count]
    assert getattr(cls, "OUTPUT_NODE", False) == info["output_node"]


def node(class_type: str, **inputs) -> dict:
    """One node as JSON."""
    return {"class_type": class_type, "inputs": inputs}


def picture_graph() -> dict:
    """Every stand-in that makes pictures or masks, each saved under its own prefix."""
    image, mask, clip = ["picture", 0], ["picture", 1], ["parts", 0]
    scale = {"image": clip, "width": 23, "height": 29}
    paste = {"destination": clip, "source": image, "x": 5, "y": 3}
    shown = {
        "image": image,
        "clip": clip,
        "pick": node("ImageFromBatch", image=clip, batch_index=1, length=2),
        "repeat": node("RepeatImageBatch", image=image, amount=2),
        "paste": node("ImageCompositeMasked", **paste, resize_source=False, mask=mask),
        "cover": node("ImageCompositeMasked", **paste, resize_source=True),
    }
    for method in ("nearest-exact", "bilinear", "area", "bicubic", "lanczos"):
        for crop in ("disabled", "center"):
            shown[f"{method}_{crop}"] = node(
                "ImageScale", **scale, upscale_method=method, crop=crop
            )
    masks = {
        "alpha": mask,
        "blue": node("LoadImageMask", image="picture.png", channel="blue"),
        "green": node("ImageToMask", image=clip, channel="green"),
        "solid": node("SolidMask", value=0.4, width=13, height=7),
        "inverse": node("InvertMask", mask=mask),
        "hard": node("ThresholdMask", mask=mask, value=0.5),
        "grown": node("GrowMask", mask=mask, expand=2, tapered_corners=True),
        "shrunk": node("GrowMask", mask=mask, expand=-1, tapered_corners=False),
    }
    graph = {
        "picture": node("LoadImage", image="picture.png"),
        "video": node("LoadVideo", file="film.mp4"),
        "parts": node("GetVideoComponents", video=["video", 0]),
    }
    for name, source in masks.items():
        if isinstance(source, dict):
            graph[name] = source
            source = [name, 0]
        shown[f"mask_{name}"] = node("MaskToImage", mask=source)
    for name, source in shown.items():
        if isinstance(source, dict):
            graph[f"make_{name}"] = source
            source = [f"make_{name}", 0]
        graph[f"save_{name}"] = node("SaveImage", images=source, filename_prefix=name)
    return graph


def write_inputs(folder):
    """An RGBA picture and a short film in `folder`."""
    noise = np.random.default_rng(0).integers(0, 256, (11, 17, 4), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "picture.png")
    with av.open(str(folder / "film.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 34, 22, "yuv420p"
        for _ in range(4):
            frame = np.repeat(np.repeat(noise[..., :3], 2, axis=0), 2, axis=1)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            noise = np.roll(noise, 1, axis=1)
        output.mux(stream.encode(None))


def test_same_pictures(comfyui, decoded_alike, tmp_path):
    graph = picture_graph()
    write_inputs(comfyui.input)
    outputs = comfyui.run(json.loads(json.dumps(graph))).outputs
    result = run_workflow(graph, out=tmp_path, inputs=[comfyui.input], node_classes={})
    assert set(result.files) == set(outputs)
    for name, files in result.files.items():
        theirs = comfyui.files(outputs[name])
        assert len(files) == len(theirs), name
        for ours, real in zip(files, theirs, strict=True):
            with Image.open(ours) as first, Image.open(real) as second:
                a, b = np.array(first).astype(int), np.array(second).astype(int)
            assert a.shape == b.shape, name
            # The host cuts 8-bit values off, we round: for Lanczos, which sharpens, twice.
            assert np.abs(a - b).max() <= (4 if "lanczos" in name else 1), name
