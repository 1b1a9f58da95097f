"""The headless runner's stand-ins against the real nodes: the same contract, the same pictures."""

import json
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image
from rescore.headless.core_nodes import CORE_NODES, core_nodes
from rescore.headless.paths import Folders
from rescore.headless.runner import run_workflow
from rescore.headless.specs import InputSpec, input_specs, output_types
from rescore.tests.headless.test_core_nodes import as_in_0_8
from rescore.tests.host.graph import DYNAMIC, declared

pytestmark = pytest.mark.host

FILE_LISTS = {"file", "image"}  # choices that are the files of the input folder


def hosts_inputs(info: dict) -> dict[str, InputSpec]:
    """The inputs of a node of /object_info, those that a choice brings with it at the end."""
    inputs = [
        InputSpec(name, kind, section == "required", options)
        for section in ("required", "optional")
        for name, kind, options in declared(info, section)
    ]
    found: dict[str, InputSpec] = {}
    for spec in inputs:  # grows on the way
        choices = spec.type if isinstance(spec.type, list) else spec.options.get("options")
        if spec.type == DYNAMIC:
            for choice in choices:
                for group in choice["inputs"].values():
                    for name, (kind, *options) in group.items():
                        name = f"{spec.name}.{name}"
                        inputs.append(InputSpec(name, kind, False, *(options or [{}])))
            choices = [choice["key"] for choice in choices]
        if choices is not None:
            before = found[spec.name].choices if spec.name in found else ()
            spec = replace(spec, type="COMBO", choices=(*before, *choices))
        found[spec.name] = spec
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
    ours, theirs = input_specs(as_in_0_8(cls)), hosts_inputs(info)
    assert list(theirs)[: len(ours)] == list(ours)
    for spec in ours.values():
        host = theirs[spec.name]
        assert spec.type == host.type
        assert covers(host, spec), host
        for key in ("default", "step"):
            if key in host.options:
                assert spec.options.get(key) == host.options[key]
    names = getattr(cls, "RETURN_NAMES", info["output_name"])
    count = len(cls.RETURN_TYPES)
    assert list(cls.RETURN_TYPES) == info["output"][:count]
    assert list(names[:count]) == info["output_name"][:count]
    assert tuple(info["output"]) == output_types(cls)[: len(info["output"])]
    assert getattr(cls, "OUTPUT_NODE", False) == info["output_node"]


@pytest.mark.parametrize("name", CORE_NODES)
def test_all_that_graphs_of_this_host_hold_is_known(object_info, tmp_path, name):
    known = input_specs(core_nodes(Folders(tmp_path, (tmp_path,)))[name])
    for host in hosts_inputs(object_info[name]).values():
        ours = known[host.name].choices or ()
        assert host.name in FILE_LISTS or set(host.choices or ()) <= set(ours)


def node(class_type: str, **inputs) -> dict:
    """One node as JSON."""
    return {"class_type": class_type, "inputs": inputs}


def picture_graph() -> dict:
    """Every stand-in that makes pictures or masks, each saved under its own prefix."""
    image, mask, clip = ["picture", 0], ["picture", 1], ["parts", 0]
    paste = {"destination": clip, "source": image, "x": 5, "y": 3}
    shown = {
        "image": image,
        "clip": clip,
        "paste": node("ImageCompositeMasked", **paste, resize_source=False, mask=mask),
        "cover": node("ImageCompositeMasked", **paste, resize_source=True),
    }
    masks = {
        "alpha": mask,
        "green": node("ImageToMask", image=clip, channel="green"),
        "solid": node("SolidMask", value=0.4, width=13, height=7),
        "hard": node("ThresholdMask", mask=mask, value=0.5),
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
        # Without loss and in RGB: of YUV, the host's reader makes other colours than ours.
        stream = output.add_stream("libx264rgb", rate=24, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 34, 22, "rgb24"
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
            # The host cuts 8-bit values off, we round: for Lanczos, which sharpens, twice.
            # The host cuts 8-bit values off, where we round, and its reader of videos adds a level.
            assert np.abs(a - b).max() <= 2, name
