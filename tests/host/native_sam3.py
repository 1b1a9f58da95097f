"""SAM 3 of a ComfyUI, tiny and with random weights, in the blueprint and before an edit.

usage: python native_sam3.py COMFYUI FOUND --cpu

Every function whose name begins with `check` is run; FOUND becomes a JSON file that says of each
what went wrong, or nothing. The published weights are gigabytes; these find nothing, but every
wire carries what it carries with them.
"""

import json
import sys
from fractions import Fraction
from functools import cache
from pathlib import Path

if __name__ == "__main__":
    comfyui, found = sys.argv[1:3]
    sys.path.insert(0, str(Path(comfyui).resolve()))
    del sys.argv[1:3]  # what is left is for the host, which reads the command line on import
    import comfy.options

    comfy.options.enable_args_parsing()

import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.sam3_clip as sam3_text
import torch
from comfy_api.latest import InputImpl, Types
from comfy_extras import nodes_sam3, nodes_video
from native_start import run_checks  # beside this file
from rescore.nodes.video import EditedVideo
from rescore.shapeworld.edits import edited
from rescore.shapeworld.showcase import SHOWCASE

from nodes import CLIPTextEncode

ROOT = Path(__file__).resolve().parents[2]
BLUEPRINT = ROOT / "subgraphs" / "Mask from Words (SAM 3, ReScore).json"
SEEN, TOLD = 64, 32  # channels of pictures and texts as they are read, and of all that comes after
SIZES = {
    "embed_dim": SEEN,
    "d_model": TOLD,
    "mem_dim": TOLD,
    "depth": 2,
    "global_att_blocks": (1,),
    "num_queries": 5,
}
TEXT = {
    "hidden_size": SEEN,
    "intermediate_size": 2 * SEEN,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}


@cache
def loaded() -> tuple:
    """What Load Checkpoint gives of such a file: MODEL and CLIP."""
    config = comfy.supported_models.SAM31({"image_model": "SAM31", **SIZES})
    config.set_inference_dtype(torch.float32, None)
    model = random(config.get_model({}))
    sam3_text.SAM3_CLIP_CONFIG.update(TEXT)
    clip = comfy.sd.CLIP(config.clip_target(), parameters=0)
    random(clip.cond_stage_model)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu), clip


def random(module: torch.nn.Module) -> torch.nn.Module:
    """The module with random weights, of which the host makes none."""
    generator = torch.Generator().manual_seed(3)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return module.eval()


FRAMES = edited(SHOWCASE["red_circle"]).source.clip[:2]


def video(frames: torch.Tensor) -> InputImpl.VideoFromComponents:
    return InputImpl.VideoFromComponents(Types.VideoComponents(frames, frame_rate=Fraction(8)))


@cache
def mask(threshold: float) -> torch.Tensor:
    """The mask of the blueprint: every node inside it runs, along its own wires."""
    (whole,) = json.loads(BLUEPRINT.read_text("utf-8"))["definitions"]["subgraphs"]
    made = {-10: (video(FRAMES), "the red circle")}
    nodes = (node for node in whole["nodes"] if node["type"] != "MarkdownNote")
    for node in sorted(nodes, key=lambda node: node["order"]):
        links = [link for link in whole["links"] if link["target_id"] == node["id"]]
        given = {
            node["inputs"][link["target_slot"]]["name"]: made[link["origin_id"]][
                link["origin_slot"]
            ]
            for link in links
        }
        if node["type"] == "SAM3_VideoTrack":
            given["detection_threshold"] = threshold
        made[node["id"]] = RUN[node["type"]](**given)
    (out,) = (link for link in whole["links"] if link["target_id"] == -20)
    return output(out, made)


def output(link: dict, made: dict):
    return made[link["origin_id"]][link["origin_slot"]]


def of_the_host(node: type):
    return lambda **given: node.execute(**given).result


RUN = {
    "GetVideoComponents": of_the_host(nodes_video.GetVideoComponents),
    "CheckpointLoaderSimple": lambda: loaded(),
    "CLIPTextEncode": CLIPTextEncode().encode,
    "SAM3_VideoTrack": of_the_host(nodes_sam3.SAM3_VideoTrack),
    "SAM3_TrackToMask": of_the_host(nodes_sam3.SAM3_TrackToMask),
}


def check_the_blueprint_gives_a_mask_for_each_frame() -> None:
    found = mask(0.0)
    assert found.shape == FRAMES.shape[:3], found.shape
    assert 0 <= found.min() and found.max() == 1
    images = EditedVideo().make(video(FRAMES), 1 - FRAMES, mask=found)[1]
    assert torch.equal(images[found == 0], FRAMES[found == 0])
    assert torch.equal(images[found == 1], (1 - FRAMES)[found == 1])


def check_nothing_found_is_a_black_mask_and_leaves_the_clip_as_it_is() -> None:
    found = mask(1.0)
    assert found.shape == FRAMES.shape[:3] and not found.any()
    images = EditedVideo().make(video(FRAMES), 1 - FRAMES, mask=found)[1]
    assert torch.equal(images, FRAMES)


def check_the_mask_of_a_picture_does_for_all_frames() -> None:
    model, clip = loaded()
    (words,) = CLIPTextEncode().encode(clip, "the red circle")
    found, _ = of_the_host(nodes_sam3.SAM3_Detect)(
        model=model, image=FRAMES[:1], conditioning=words, threshold=0.0, refine_iterations=1
    )
    assert found.shape == FRAMES[:1].shape[:3], found.shape
    images = EditedVideo().make(video(FRAMES), 1 - FRAMES, mask=found)[1]
    assert images.shape == FRAMES.shape


if __name__ == "__main__":
    run_checks(globals(), found)
