"""Draws the pictures of the help pages from the pack's own nodes, at the shape world's tiny size.

python workflows/help_pictures.py            all of them, into js/docs/img
python workflows/help_pictures.py box_mask   only those named

A few minutes on a CPU. Pictures of whole graphs are the thumbnails that `make.py --pictures` draws.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from make import on_a_screen
from PIL import Image
from rescore import NODE_CLASS_MAPPINGS
from rescore.headless.demo import save_strip
from rescore.headless.runner import run_workflow
from rescore.headless.workflow import read_workflow
from rescore.nodes.host import writing_to
from rescore.nodes.layouts import samples_of
from rescore.pipelines.inversion.sampling import ddim_sample
from rescore.shapeworld.edits import edited
from rescore.shapeworld.scene import caption
from rescore.shapeworld.showcase import SHOWCASE
from torch import Tensor
from torch.nn.functional import interpolate

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "js" / "docs" / "img"
THUMBNAILS = (
    "assd",
    "delta_denoising",
    "dreammotion",
    "edit_video",
    "edit_video_by_inversion",
    "ei2",
    "flow_enhanced",
    "pivotal_reconstruction",
    "videodirector",
    "videodirector_background",
    "wan_edit_native",
    "wan_edit_sampler",
    "wan_flowalign",
    "wan_flowdirector",
)


def node(name: str, **inputs: object) -> tuple:
    """What a node gives for these inputs and its defaults for the rest."""
    cls = NODE_CLASS_MAPPINGS[f"ReScore{name}"]
    defaults = {
        key: spec[1]["default"]
        for key, spec in cls.INPUT_TYPES()["required"].items()
        if "default" in spec[1]
    }
    with torch.inference_mode():  # as the host runs it
        given = getattr(cls(), cls.FUNCTION)(**defaults | inputs)
    return given["result"] if isinstance(given, dict) else given


def clip(name: str = "red_circle") -> Tensor:
    """A shipped clip, `[f, h, w, 3]` in 0..1."""
    return edited(SHOWCASE[name]).source.clip


def mask(name: str) -> Tensor:
    """What a user would paint to edit it, `[f, h, w]`."""
    return edited(SHOWCASE[name]).paint.float()


def save(file: str, *rows: Tensor, zoom: int = 2) -> None:
    """Clips or masks as rows of one picture, every other frame."""
    grey = (r if r.ndim == 4 else r[..., None].expand(-1, -1, -1, 3) for r in rows)
    save_strip({str(i): row[::2] for i, row in enumerate(grey)}, IMAGES / f"{file}.jpg", zoom=zoom)


def delta_denoising() -> Tensor:
    """The edit that the graph of this name makes."""
    return made_by("delta_denoising", "ReScoreEditedVideo")[1]


def made_by(graph: str, kind: str) -> tuple:
    """What the node of one kind gives in a shipped graph."""
    nodes = read_workflow(HERE / "api" / f"{graph}.json")
    (number,) = (key for key, entry in nodes.items() if entry["class_type"] == kind)
    return made_in(graph)[number]


@cache
def made_in(graph: str) -> dict[str, tuple]:
    """What every node gives in a shipped graph."""
    nodes = read_workflow(HERE / "api" / f"{graph}.json")
    with tempfile.TemporaryDirectory() as out:
        result = run_workflow(nodes, out=Path(out), inputs=[HERE / "input"], keep=list(nodes))
    return result.values


def beside_white(small: Tensor, like: Tensor) -> Tensor:
    """Frames in the middle of white ones, as large as those of another clip."""
    canvas = torch.ones_like(like)
    top, left = ((a - b) // 2 for a, b in zip(like.shape[1:3], small.shape[1:3], strict=True))
    canvas[:, top : top + small.shape[1], left : left + small.shape[2]] = small
    return canvas


def round_trip() -> Tensor:
    """The clip through the VAE and back."""
    (model,) = node("LoadShapeWorldModel")
    (latent,) = node("VideoVAEEncode", model=model, images=clip())
    return node("VideoVAEDecode", model=model, latent=latent)[0]


# --- one function for each picture, under the picture's name -------------------------------------


def compare_clips() -> None:
    (together,) = node("CompareClips", source=clip(), edited=delta_denoising())
    save("compare_clips", together)


def box_mask() -> None:
    path = {"left": 0.12, "top": 0.3, "right": 0.5, "bottom": 0.76}
    end = {f"end_{edge}": at + 0.38 * (edge in ("left", "right")) for edge, at in path.items()}
    save("box_mask", clip(), node("BoxMask", images=clip(), moves=True, **path, **end)[0])


def bounding_box_mask() -> None:
    painted = mask("red_circle")
    save("bounding_box_mask", painted, node("BoundingBoxMask", mask=painted)[0])


def ellipse_mask() -> None:
    triangle = edited(SHOWCASE["green_triangle"]).source.mask.float()
    save("ellipse_mask", triangle, node("EllipseMask", mask=triangle)[0])


def crop_to_region() -> None:
    crop, _, region = made_by("edit_region", "ReScoreCropToRegion")
    whole = on_a_screen(clip(), wall=0.8)
    box = torch.zeros(whole.shape[:3])
    box[:, region.rows, region.columns] = 1
    drawn = node("ShowMask", images=whole, mask=box, opacity=0.0)[0]
    save("crop_to_region", drawn, beside_white(crop, whole), zoom=1)


def paste_region() -> None:
    edit = made_by("edit_region", "ReScoreVideoVAEDecode")[0]
    whole = made_by("edit_region", "ReScorePasteRegion")[0]
    save("paste_region", beside_white(edit, whole), whole, zoom=1)


def pick_keyframes() -> None:
    """Every keyframe below the frame that it is of."""
    source = clip("slow_circle")
    keyframes = node("PickKeyframes", images=source, width=16, height=16)[0]
    source = source[torch.linspace(0, len(source) - 1, len(keyframes)).round().int()]
    save_strip(
        {"clip": source, "keyframes": beside_white(keyframes, source)},
        IMAGES / "pick_keyframes.jpg",
        zoom=2,
    )


def interpolate_keyframes() -> None:
    """Two keyframes and what is made between them, each with white where the other has a frame."""
    keyframes, *_ = made_by("dreammotion_cascade", "ReScoreVideoVAEDecode")
    made, *_ = made_by("dreammotion_cascade", "ReScoreInterpolateKeyframes")
    known = torch.ones_like(made)
    known[::4] = keyframes
    save_strip(
        {"keyframes": known[:9], "made": made[:9]}, IMAGES / "interpolate_keyframes.jpg", zoom=6
    )


def enlarge_clip() -> None:
    small, *_ = made_by("dreammotion_cascade", "ReScoreInterpolateKeyframes")
    large, *_ = made_by("dreammotion_cascade", "ReScoreEnlargeClip")
    some = slice(None, None, 4)
    save_strip(
        {"small": beside_white(small, large)[some], "large": large[some]},
        IMAGES / "enlarge_clip.jpg",
        zoom=2,
    )


def resample_clip() -> None:
    """The clip, and made anew under another colour from ever more noise."""
    rows = [clip()]
    for strength in (0.3, 0.6, 0.9):
        (latent,) = node("ResampleClip", strength=strength, cfg=5.0, **colour_edit())
        model = colour_edit()["model"]
        rows.append(node("VideoVAEDecode", model=model, latent=latent)[0])
    save("resample_clip", *rows)


def grow_feather_mask() -> None:
    triangle = edited(SHOWCASE["green_triangle"]).source.mask.float()
    wider = node("GrowFeatherMask", mask=triangle, grow=6, feather=6.0)[0]
    save("grow_feather_mask", triangle, wider)


def show_flow() -> None:
    """Two discs over a ground that stands still, all of them textured: flat areas have no flow."""
    size, random = 128, torch.Generator().manual_seed(0)
    grain = torch.rand(3, 3, size // 4, size // 4, generator=random)
    tints = torch.tensor([[0.6, 0.6, 0.6], [1.0, 0.5, 0.4], [0.4, 0.6, 1.0]])[..., None, None]
    ground, *discs = interpolate(grain, (size, size), mode="bicubic").clamp(0, 1) * tints
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    frames = []
    for i in range(9):
        frame = ground
        for disc, (cx, cy), (dx, dy) in zip(
            discs, ((32, 40), (92, 96)), ((3, 0), (0, -3)), strict=True
        ):
            inside = (x - cx - dx * i) ** 2 + (y - cy - dy * i) ** 2 < 22**2
            frame = torch.where(inside, disc.roll((dy * i, dx * i), (1, 2)), frame)
        frames.append(frame.movedim(0, -1))
    images = torch.stack(frames)
    (flow,) = node("OpticalFlow", images=images)
    save("show_flow", images[:-1], node("ShowFlow", flow=flow)[0], zoom=1)


def video_vae() -> None:
    save("video_vae", clip(), round_trip())


def colour_edit() -> dict[str, object]:
    """What a loop is given to turn the red circle blue: model, prompts, latent."""
    edit = SHOWCASE["red_circle"]
    (model,) = node("LoadShapeWorldModel")
    prompts = node(
        "EncodePromptPair",
        model=model,
        source_prompt=caption(edit.source),
        target_prompt=caption(edit.target),
    )[0]
    (latent,) = node("VideoVAEEncode", model=model, images=clip())
    return {"model": model, "prompts": prompts, "latent": latent}


def inspect_gradient() -> None:
    energy = node("InspectGradient", terms=node("DeltaDenoising")[0], **colour_edit())[0]
    save("inspect_gradient", clip(), energy)


def mask_from_gradient() -> None:
    found = node("MaskFromGradient", terms=node("DeltaDenoising")[0], **colour_edit())[0]
    save("mask_from_gradient", clip(), node("ShowMask", images=clip(), mask=found)[0])


def mask_from_words() -> None:
    found = node("MaskFromWords", words="red circle", **colour_edit())[0]
    save("mask_from_words", clip(), node("ShowMask", images=clip(), mask=found)[0])


def show_mask() -> None:
    shown = node("ShowMask", images=clip(), mask=mask("red_circle"))[0]
    save("show_mask", clip(), shown)


def prompts() -> None:
    """Plain sampling from one noise under two prompts."""
    edit = SHOWCASE["red_circle"]
    (model,) = node("LoadShapeWorldModel")
    negative = model.encode_prompt("").embedding
    noise = torch.randn(1, 4, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = []
    for text in (caption(edit.source), caption(edit.target)):
        cond = model.encode_prompt(text).embedding
        guided = partial(model.denoiser.guided, cond=cond, uncond=negative, cfg=5.0)
        z = ddim_sample(noise, guided, model.process.grid(50))
        samples = samples_of(z, model)
        rows.append(node("VideoVAEDecode", model=model, latent={"samples": samples})[0])
    save("prompts", *rows)


def measures_table() -> None:
    """The source, its edit, and the source through the VAE alone, by measures without weights."""
    painted, table = mask("red_circle"), ()
    rows = {"source": clip(), "edit": delta_denoising(), "VAE alone": round_trip()}
    for label, shown in rows.items():
        taken = [
            node("WarpingError", images=shown)[0],
            node("MotionSmoothness", images=shown)[0],
            node("MotionFidelity", source=clip(), edited=shown, mask=painted)[0],
        ]
        if label != "source":
            pair = {"source": clip(), "edited": shown, "mask": painted}
            taken = [node("PSNR", **pair)[0], node("SSIM", **pair)[0], *taken]
        given = {f"measure_{i}": measure for i, measure in enumerate(taken, start=1)}
        (table,) = node("CollectMeasures", label=label, measures=table, **given)
    with tempfile.TemporaryDirectory() as out, writing_to(Path(out)):
        picture = node("MeasuresTable", measures=table)[0]
    pixels = (picture[0] * 255).round().byte().numpy()
    Image.fromarray(pixels).save(IMAGES / "measures_table.jpg", quality=85)


PICTURES: tuple[Callable[[], None], ...] = (
    bounding_box_mask,
    box_mask,
    compare_clips,
    crop_to_region,
    ellipse_mask,
    enlarge_clip,
    grow_feather_mask,
    inspect_gradient,
    interpolate_keyframes,
    mask_from_gradient,
    mask_from_words,
    measures_table,
    paste_region,
    pick_keyframes,
    prompts,
    resample_clip,
    show_flow,
    show_mask,
    video_vae,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="pictures to draw; all of them if none is named")
    names = parser.parse_args().names
    torch.set_num_threads(1)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in THUMBNAILS:
        if not names or name in names:
            shutil.copy(HERE / f"{name}.jpg", IMAGES)
    for draw in PICTURES:
        if not names or draw.__name__ in names:
            draw()


if __name__ == "__main__":
    main()
