"""The headless runner's stand-ins against the real nodes: the same contract, the same pictures."""

import json

import av
import numpy as np
import pytest
from PIL import Image
from rescore.headless.core_nodes import CORE_NODES, core_nodes
from rescore.headless.paths import Folders
from rescore.headless.runner import run_workflow
from rescore.headless.specs import input_specs

pytestmark = pytest.mark.host

FILE_LISTS = {"file", "image"}  # choices that are the files of the input folder


def contract(info: dict) -> list[tuple]:
    """What a node of /object_info says about its inputs, in order."""
    entries = []
    for group in ("required", "optional"):
        for name, entry in info["input"].get(group, {}).items():
            kind, options = entry[0], entry[1] if len(entry) > 1 else {}
            choices = kind if isinstance(kind, list) else options.get("options")
            if choices is not None:
                kind = "COMBO"
                choices = None if name in FILE_LISTS else tuple(choices)
            limits = tuple(options.get(key) for key in ("default", "min", "max", "step"))
            entries.append((name, kind, group == "required", choices, *limits))
    return entries


@pytest.mark.parametrize("name", CORE_NODES)
def test_contract(object_info, tmp_path, name):
    info = object_info[name]
    cls = core_nodes(Folders(tmp_path, (tmp_path,)))[name]
    declared = [
        (
            spec.name,
            spec.type,
            spec.required,
            spec.choices if spec.name not in FILE_LISTS or spec.choices is None else None,
            *(spec.options.get(key) for key in ("default", "min", "max", "step")),
        )
        for spec in input_specs(cls).values()
    ]
    assert declared == contract(info)
    assert list(cls.RETURN_TYPES) == info["output"]
    assert getattr(cls, "OUTPUT_NODE", False) == info["output_node"]
    if hasattr(cls, "RETURN_NAMES"):
        assert list(cls.RETURN_NAMES) == info["output_name"]


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


def test_same_pictures(comfyui, tmp_path):
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
            assert np.abs(a - b).max() <= 1, name  # the host cuts 8-bit values off, we round
