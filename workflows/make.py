"""Writes the shipped graphs, each for people (UI format) and for tools (API), and their clips.

    python workflows/make.py

One description serves both formats, so the twins cannot drift apart. Widget values, slots and types
are taken from the nodes themselves.
"""

import json
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import rescore
import torch
from rescore.headless.core_nodes import core_nodes
from rescore.headless.paths import Folders
from rescore.headless.video import VideoComponents
from rescore.headless.video_write import encode_mp4
from rescore.shapeworld.edits import edited
from rescore.shapeworld.showcase import FPS, SHOWCASE

HERE = Path(__file__).resolve().parent
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
COLUMN, GAP, WIDTH, HEADER = 400, 40, 340, 80
GROUPS = ("Load", "Describe", "Edit", "Result")
COLOURS = {"Load": "#3f789e", "Describe": "#8a8", "Edit": "#a1309b", "Result": "#b58b2a"}


class Output(NamedTuple):
    """One output of a node, to be wired to an input of another."""

    node: "Node"
    slot: int


class Node:
    """A node of a graph: its class, its title, the group it stands in, and all its inputs."""

    def __init__(self, number: int, cls: type, kind: str, title: str, group: str, inputs) -> None:
        self.number, self.cls, self.kind, self.title, self.group = number, cls, kind, title, group
        sections = cls.INPUT_TYPES()
        self.declared = {**sections.get("required", {}), **sections.get("optional", {})}
        self.required = sections.get("required", {})
        if unknown := inputs.keys() - self.declared.keys():
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}.")
        self.inputs = {
            name: inputs.get(name, options(spec).get("default"))
            for name, spec in self.declared.items()
            if name in inputs or is_widget(spec)
        }

    def __getitem__(self, name: str) -> Output:
        names = getattr(self.cls, "RETURN_NAMES", self.cls.RETURN_TYPES)
        return Output(self, tuple(names).index(name))

    @property
    def height(self) -> int:
        tall = sum(90 for spec in self.declared.values() if options(spec).get("multiline"))
        return HEADER + 24 * (len(self.declared) + len(self.cls.RETURN_TYPES)) + tall


def is_widget(spec: tuple) -> bool:
    return isinstance(spec[0], list) or spec[0] in WIDGETS


def options(spec: tuple) -> dict[str, Any]:
    return spec[1] if len(spec) > 1 else {}


def widget_values(node: Node) -> list[Any]:
    """The values of a node's widgets as the front end stores them: by position."""
    values, upload = [], False
    for name, spec in node.declared.items():
        if not is_widget(spec):
            continue
        value = node.inputs[name]
        values.append(options(spec).get("default", 0) if isinstance(value, Output) else value)
        seeds = spec[0] == "INT" and name in ("seed", "noise_seed")
        if options(spec).get("control_after_generate", seeds):
            values.append("fixed")
        upload |= bool(options(spec).get("video_upload") or options(spec).get("image_upload"))
    return [*values, "image"] if upload else values


class Graph:
    """One workflow, built node by node."""

    def __init__(self, name: str, note: str) -> None:
        self.name, self.note, self.nodes = name, note, []
        folders = Folders(out=HERE, inputs=(HERE / "input",))
        self.classes = {**core_nodes(folders), **rescore.NODE_CLASS_MAPPINGS}

    def add(self, kind: str, group: str, title: str | None = None, **inputs: Any) -> Node:
        title = title or rescore.NODE_DISPLAY_NAME_MAPPINGS.get(kind, kind)
        node = Node(len(self.nodes) + 1, self.classes[kind], kind, title, group, inputs)
        self.nodes.append(node)
        return node

    def api(self) -> dict[str, Any]:
        def value(v: Any) -> Any:
            return [str(v.node.number), v.slot] if isinstance(v, Output) else v

        return {
            str(node.number): {
                "class_type": node.kind,
                "inputs": {name: value(v) for name, v in node.inputs.items()},
                "_meta": {"title": node.title},
            }
            for node in self.nodes
        }

    def ui(self) -> dict[str, Any]:
        links = [
            (source, node, name)
            for node in self.nodes
            for name, source in node.inputs.items()
            if isinstance(source, Output)
        ]
        numbered = {(node.number, name): i + 1 for i, (_, node, name) in enumerate(links)}
        places, groups, top = self._layout()
        return {
            "id": f"rescore-{self.name}",
            "revision": 0,
            "last_node_id": len(self.nodes) + 1,
            "last_link_id": len(links),
            "nodes": [
                *(self._ui_node(node, places[node.number], numbered) for node in self.nodes),
                self._note(top),
            ],
            "links": [
                [
                    numbered[node.number, name],
                    source.node.number,
                    source.slot,
                    node.number,
                    [n for n in node.declared if self._is_slot(node, n)].index(name),
                    source.node.cls.RETURN_TYPES[source.slot],
                ]
                for source, node, name in links
            ],
            "groups": groups,
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [60, 260]}},
            "version": 0.4,
        }

    @staticmethod
    def _is_slot(node: Node, name: str) -> bool:
        """Sockets are slots; a widget becomes one when it is wired."""
        return not is_widget(node.declared[name]) or isinstance(node.inputs.get(name), Output)

    def _layout(self) -> tuple[dict[int, list[int]], list[dict[str, Any]], int]:
        """Nodes in one column for each group and depth of it; every group in a frame."""
        depth: dict[int, int] = {}
        for node in self.nodes:
            feeds = [v.node for v in node.inputs.values() if isinstance(v, Output)]
            depth[node.number] = max(
                (depth[f.number] + 1 for f in feeds if f.group == node.group), default=0
            )
        places, groups, x = {}, [], 0
        for index, group in enumerate(g for g in GROUPS if any(n.group == g for n in self.nodes)):
            bottoms: dict[int, int] = defaultdict(int)
            members = [n for n in self.nodes if n.group == group]
            for node in members:
                column = depth[node.number]
                places[node.number] = [x + column * COLUMN, bottoms[column]]
                bottoms[column] += node.height + GAP
            columns = max(depth[n.number] for n in members) + 1
            groups.append(
                {
                    "id": index + 1,
                    "title": group,
                    "bounding": [
                        x - GAP // 2,
                        -HEADER,
                        columns * COLUMN - GAP // 2,
                        max(bottoms.values()) + HEADER,
                    ],
                    "color": COLOURS[group],
                    "font_size": 24,
                    "flags": {},
                }
            )
            x += columns * COLUMN + GAP
        return places, groups, -HEADER

    def _ui_node(self, node: Node, place: list[int], numbered) -> dict[str, Any]:
        own = node.kind in rescore.NODE_CLASS_MAPPINGS
        names = getattr(node.cls, "RETURN_NAMES", node.cls.RETURN_TYPES)
        outputs = defaultdict(list)
        for user in self.nodes:
            for name, source in user.inputs.items():
                if isinstance(source, Output) and source.node is node:
                    outputs[source.slot].append(numbered[user.number, name])
        slots = []
        for name, spec in node.declared.items():
            if not self._is_slot(node, name):
                continue
            kind = "COMBO" if isinstance(spec[0], list) else spec[0]
            slot = {"name": name, "type": kind, "link": numbered.get((node.number, name))}
            if is_widget(spec):
                slot["widget"] = {"name": name}
            elif name not in node.required:
                slot["shape"] = 7  # drawn hollow: optional
            slots.append(slot)
        return {
            "id": node.number,
            "type": node.kind,
            "pos": place,
            "size": [WIDTH, node.height - HEADER // 2],
            "flags": {},
            "order": node.number - 1,
            "mode": 0,
            "title": node.title,
            "inputs": slots,
            "outputs": [
                {"name": name, "type": kind, "links": outputs[slot] or None, "slot_index": slot}
                for slot, (name, kind) in enumerate(zip(names, node.cls.RETURN_TYPES, strict=True))
            ],
            "properties": {
                "cnr_id": "rescore" if own else "comfy-core",
                "ver": "0.1.0" if own else "0.8.0",
                "Node name for S&R": node.kind,
            },
            "widgets_values": widget_values(node),
        }

    def _note(self, top: int) -> dict[str, Any]:
        height = 60 + 22 * (self.note.count("\n") + len(self.note) // 90)
        return {
            "id": len(self.nodes) + 1,
            "type": "MarkdownNote",
            "pos": [-GAP // 2, top - height - GAP],
            "size": [760, height],
            "flags": {},
            "order": len(self.nodes),
            "mode": 0,
            "title": "About this graph",
            "inputs": [],
            "outputs": [],
            "properties": {},
            "widgets_values": [self.note],
            "color": "#432",
            "bgcolor": "#653",
        }


REAL_MODELS = """**With a real model:** replace *Load Shape-World Model* by *Load Video Model* and \
choose `zeroscope_v2_576w` (huggingface.co/cerspense/zeroscope_v2_576w, diffusers layout, in \
`models/diffusers/`; 576 x 320, 8 to 24 frames). Describe your clip in the source prompt, change \
the words that are to change in the target prompt, and paint or load a mask (white may change)."""


def delta_denoising() -> Graph:
    """The first edit: video delta denoising within a mask."""
    graph = Graph(
        "delta_denoising",
        "## Video delta denoising\nThe red circle becomes blue. The clip's own latents move, step "
        "by step, from the source prompt to the target prompt; outside the mask they stay exactly "
        "the source's.\n\n" + REAL_MODELS,
    )
    clip = graph.add("LoadVideo", "Load", "Clip to edit", file="red_circle.mp4")
    mask = graph.add("LoadVideo", "Load", "Mask: white may change", file="red_circle_mask.mp4")
    parts = graph.add("GetVideoComponents", "Load", "Frames of the clip", video=clip["VIDEO"])
    mask_parts = graph.add("GetVideoComponents", "Load", "Frames of the mask", video=mask["VIDEO"])
    model = graph.add("ReScoreLoadShapeWorldModel", "Load", model="shapeworld-t2v")
    prompts = graph.add(
        "ReScoreEncodePromptPair",
        "Describe",
        model=model["model"],
        source_prompt="a red circle moving right on a checker background",
        target_prompt="a blue circle moving right on a checker background",
        negative_prompt="",
    )
    red = graph.add("ImageToMask", "Describe", image=mask_parts["images"], channel="red")
    sharp = graph.add("ThresholdMask", "Describe", mask=red["MASK"], value=0.5)
    latent = graph.add(
        "ReScoreVideoVAEEncode", "Edit", model=model["model"], images=parts["images"]
    )
    term = graph.add("ReScoreDeltaDenoising", "Edit")
    edit = graph.add(
        "ReScoreScoreDistillation",
        "Edit",
        model=model["model"],
        prompts=prompts["prompts"],
        latent=latent["latent"],
        terms=term["terms"],
        steps=100,
        step_size=0.1,
        cfg=9.0,
        mask=sharp["MASK"],
    )
    frames = graph.add(
        "ReScoreVideoVAEDecode", "Result", model=model["model"], latent=edit["latent"]
    )
    result = graph.add(
        "CreateVideo",
        "Result",
        images=frames["images"],
        fps=parts["fps"],
        audio=parts["audio"],
    )
    graph.add("SaveVideo", "Result", "Save the edit", video=result["VIDEO"],
              filename_prefix="rescore/delta_denoising")  # fmt: skip
    pair = graph.add(
        "ReScoreCompareClips", "Result", source=parts["images"], edited=frames["images"]
    )
    graph.add("PreviewImage", "Result", "Source and edit", images=pair["images"])
    return graph


GRAPHS = (delta_denoising,)


def write_clips() -> None:
    """The clips that the graphs edit, and the masks a user would paint for them."""
    (HERE / "input").mkdir(exist_ok=True)
    for name, edit in SHOWCASE.items():
        clips = edited(edit)
        mask = clips.paint[..., None].expand(-1, -1, -1, 3).float()
        for suffix, images in (("", clips.source.clip), ("_mask", mask)):
            file = HERE / "input" / f"{name}{suffix}.mp4"
            file.write_bytes(encode_mp4(VideoComponents(images.contiguous(), Fraction(FPS))))


def write_graphs(folder: Path = HERE) -> None:
    (folder / "api").mkdir(parents=True, exist_ok=True)
    for make in GRAPHS:
        graph = make()
        for file, content in (
            (folder / f"{graph.name}.json", graph.ui()),
            (folder / "api" / f"{graph.name}.json", graph.api()),
        ):
            file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_clips()
    write_graphs()
