"""Writes the shipped graphs, blueprints and clips, and a picture of what each graph makes.

python workflows/make.py                graphs and clips
python workflows/make.py --tuned        also tunes the weights that the graph ei2_apply loads
python workflows/make.py --pictures     runs every graph headless for its thumbnail, too
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import torch
from einops import rearrange
from graph import Graph, Node
from graphs import (
    blueprints,
    cascade,
    distillation,
    inversion,
    looking,
    native,
    objects,
    tuning,
    video,
    wan,
)
from host_nodes import needs_host
from PIL import Image
from rescore.headless.demo import save_strip
from rescore.headless.runner import run_workflow
from rescore.headless.video import Video, VideoComponents
from rescore.headless.video_write import encode_mp4
from rescore.shapeworld.edits import edited, second_object
from rescore.shapeworld.showcase import FPS, SHOWCASE, TWO_OBJECTS
from torch.nn import functional

HERE = Path(__file__).resolve().parent
# Graphs whose edits move on the first page, and their pictures.
MOVING = {"delta_denoising": "edit.gif", "wan_edit": "wan_edit.gif"}
GRAPHS: tuple[Callable[[], Graph], ...] = (
    video.edit_video,
    video.edit_video_by_inversion,
    objects.remove_object,
    objects.add_object,
    distillation.delta_denoising,
    distillation.edit_region,
    distillation.assd,
    distillation.dreammotion,
    cascade.dreammotion_cascade,
    distillation.flow_enhanced,
    distillation.mixed_terms,
    distillation.mask_from_the_model,
    inversion.videodirector,
    inversion.videodirector_background,
    inversion.pivotal_reconstruction,
    tuning.ei2,
    tuning.ei2_apply,
    tuning.tune_a_video,
    wan.wan_edit,
    wan.wan_flowedit,
    wan.wan_drfs,
    wan.wan_flowalign,
    wan.wan_dfvedit,
    wan.wan_flowdirector,
    wan.wan_dreammotion,
    native.wan_edit_native,
    native.wan_edit_sampler,
    native.native_flowedit,
    native.native_assd,
    native.native_dreammotion,
    looking.step_by_step,
    looking.measures,
)


def write_clips() -> None:
    """The clips that the graphs edit, and the masks a user would paint for them."""
    (HERE / "input").mkdir(exist_ok=True)
    for name, edit in SHOWCASE.items():
        clips = edited(edit)
        mask = clips.paint[..., None].expand(-1, -1, -1, 3).float()
        for suffix, images in (("", clips.source.clip), ("_mask", mask)):
            write_clip(f"{name}{suffix}", images)
    both = second_object(TWO_OBJECTS)
    write_clip("two_objects", both.present.clip)
    write_clip("one_object", both.absent.clip)
    write_clip("second_object_mask", both.change[..., None].expand(-1, -1, -1, 3).float())
    screen = edited(SHOWCASE["red_circle"])
    write_clip("screen", on_a_screen(screen.source.clip, wall=0.8))
    mask = screen.paint[..., None].expand(-1, -1, -1, 3).float()
    write_clip("screen_mask", (on_a_screen(mask, wall=0.0) > 0.5).float())


def write_clip(name: str, images: torch.Tensor) -> None:
    video = VideoComponents(images.contiguous(), Fraction(FPS))
    (HERE / "input" / f"{name}.mp4").write_bytes(encode_mp4(video))


def on_a_screen(clip: torch.Tensor, wall: float) -> torch.Tensor:
    """A clip `[f, h, w, 3]`, half as large again, on a wall of 192 x 128, lit from the left."""
    screen = functional.interpolate(
        rearrange(clip, "f h w c -> f c h w"), (96, 96), mode="bilinear"
    )
    light = wall * torch.linspace(1, 0.6, 192)
    picture = light[:, None].expand(len(clip), 128, -1, 3).clone()
    picture[:, 16:112, 70:166] = rearrange(screen, "f c h w -> f h w c")
    return picture


def write_graphs(folder: Path = HERE) -> None:
    (folder / "api").mkdir(parents=True, exist_ok=True)
    for make in GRAPHS:
        graph = make()
        for file, content in (
            (folder / f"{graph.name}.json", graph.ui()),
            (folder / "api" / f"{graph.name}.json", graph.api()),
        ):
            file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_blueprints(folder: Path = HERE.parent / "subgraphs") -> None:
    folder.mkdir(exist_ok=True)
    for make in (native.edit_video_wan, native.edit_video_shapeworld, *blueprints.BLUEPRINTS):
        blueprint = make()
        content = json.dumps(blueprint.file(), indent=2) + "\n"
        (folder / f"{blueprint.title}.json").write_text(content, "utf-8")


def write_tuned() -> None:
    """What the graph `ei2` learns, for the graph `ei2_apply`."""
    graph = Graph("ei2", "")
    tuning.learn(graph, "ei2")
    with tempfile.TemporaryDirectory() as out:
        run_workflow(graph.api(), out=Path(out), inputs=[HERE / "input"], report=print)
        (learned,) = Path(out).rglob("*.safetensors")
        tuning.TUNED.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(learned, tuning.TUNED)


def write_pictures(names: list[str]) -> None:
    """A thumbnail of each graph: source above, edit below, frame by frame.

    Graphs on ComfyUI's own models run in a ComfyUI alone, and their thumbnails stay as they are.
    """
    for make in GRAPHS:
        graph = make()
        if names and graph.name not in names:
            continue
        if needs_host(graph.api()):
            continue
        with tempfile.TemporaryDirectory() as out:
            ids = [str(number) for number in _source_and_edit(graph)]
            result = run_workflow(
                graph.api(), out=Path(out), inputs=[HERE / "input"], keep=ids, report=print
            )
            clips = {number: _frames(result.values[number][0]) for number in ids}
            some = {number: clip[:: -(-len(clip) // 16)] for number, clip in clips.items()}
            save_strip(some, HERE / f"{graph.name}.jpg")
            if picture := MOVING.get(graph.name):
                save_moving(clips.values(), HERE / "screenshots" / picture)


def save_moving(clips: Iterable[torch.Tensor], file: Path, zoom: int = 3) -> None:
    """Clips `[f, h, w, 3]` in 0..1 side by side, as a picture that moves."""
    wide = rearrange(list(clips), "n f h w c -> f h n w c")
    wide = functional.pad(wide, (0, 0, 0, 4), value=1.0)  # white between them
    frames = (rearrange(wide, "f h n w c -> f h (n w) c").clamp(0, 1) * 255).round().byte()
    first, *others = (
        Image.fromarray(frame.numpy()).resize(
            (zoom * frame.shape[1], zoom * frame.shape[0]), Image.Resampling.NEAREST
        )
        for frame in frames
    )
    first.save(file, save_all=True, append_images=others, duration=1000 // FPS, loop=0)


def _source_and_edit(graph: Graph) -> tuple[int, int]:
    """The nodes whose first outputs are the clip and the edit, as frames or as videos."""

    def first(kind: str) -> Node:
        return next(node for node in graph.nodes if node.kind == kind)

    if any(node.kind == "ReScoreCompareClips" for node in graph.nodes):
        edited = first("ReScoreCompareClips").inputs["edited"]
        return first("GetVideoComponents").number, edited.node.number
    return first("LoadVideo").number, first("SaveVideo").inputs["video"].node.number


def _frames(clip: torch.Tensor | Video) -> torch.Tensor:
    return clip if isinstance(clip, torch.Tensor) else clip.get_components().images


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tuned", action="store_true", help=f"tune {tuning.TUNED.name} anew")
    parser.add_argument("--pictures", nargs="*", metavar="NAME", help="thumbnails of these, or all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    write_clips()
    if options.tuned:
        write_tuned()
    write_graphs()
    write_blueprints()
    if options.pictures is not None:
        write_pictures(options.pictures)
