"""A graph from one description in both formats: for people (UI) and for tools (API).

The twins cannot drift apart. Widget values, slots and types are taken from the nodes themselves.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

import rescore
from host_nodes import HOST_NODES
from real import SWITCH, described, settings_of
from rescore.headless.core_nodes import core_nodes
from rescore.headless.paths import Folders

HERE = Path(__file__).resolve().parent
TITLES = rescore.NODE_DISPLAY_NAME_MAPPINGS
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
COLUMN, GAP, WIDTH, HEADER = 400, 40, 340, 80
# How much higher than its rows the browser makes a node, in the renderer that makes it higher; with
# pictures and clips of the shape world, which are square. Held by tests/host/test_layout.py.
PICTURE, PLOT, VIDEO = 210, 130, 330
AT_ONCE = {"LoadVideo": VIDEO, "ReScoreViewComparison": 364}
IN_A_RUN = {
    "SaveVideo": VIDEO,
    "PreviewImage": 350,  # as wide as the node in the front end of early 2026
    "ReScoreASSDStep": PICTURE,
    "ReScoreAttentionControlledSampling": PICTURE,
    "ReScoreDDIMInversion": PICTURE,
    "ReScoreReconstruct": PICTURE,
    "ReScoreNullTextOptimisation": PICTURE + PLOT,
    "ReScoreOneShotTune": PICTURE + PLOT,
    "ReScoreScoreDistillation": PICTURE + PLOT,
    "ReScoreInterpolateKeyframes": PICTURE,
    "ReScoreEnlargeClip": PICTURE,
    "ReScoreEditVideo": PICTURE + PLOT,
    "ReScoreEditVideoByInversion": PICTURE,
}
GROUPS = ("Load", "Describe", "Edit", "Result")
COLOURS = {"Load": "#3f789e", "Describe": "#8a8", "Edit": "#a1309b", "Result": "#b58b2a"}
# What belongs to one clip alone, and what to do with another.
_MASKED = """**With another clip:** the mask that comes with the graph fits its own clip alone. \
Load yours in *{}*: a video in black and white with as many frames as the clip, of any size. Or \
put another node in place of *ThresholdMask*: *Box Mask*, which follows the clip's length and \
size, or *Load Image (as Mask)*, one picture for all frames. Where an input *mask* may stay empty, \
you can also cut its wire: then all may change."""


class Output(NamedTuple):
    """One output of a node, to be wired to an input of another."""

    node: "Node"
    slot: int
    start: Any = None  # of an input of a blueprint: what it starts with, on its widgets inside, too


class Node:
    """A node of a graph: its class, its title, the group it stands in, and all its inputs."""

    def __init__(self, number: int, cls: type, kind: str, title: str, group: str, inputs) -> None:
        self.number, self.cls, self.kind, self.title, self.group = number, cls, kind, title, group
        self.models: list[dict[str, str]] = []  # the files it loads, as the front end offers them
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

    def is_set(self, name: str) -> bool:
        """Whether an input is a widget, with a value of its own."""
        return is_widget(self.declared[name]) and not isinstance(self.inputs[name], Output)

    @property
    def height(self) -> int:
        """Its height when the graph is opened."""
        tall = sum(90 for spec in self.declared.values() if options(spec).get("multiline"))
        tall += AT_ONCE.get(self.kind, 0)
        return HEADER + 24 * (len(self.declared) + len(self.cls.RETURN_TYPES)) + tall

    @property
    def room(self) -> int:
        """Its height when a run has added all that it shows."""
        return self.height + IN_A_RUN.get(self.kind, 0)


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
        if isinstance(value, Output):
            value = options(spec).get("default", 0) if value.start is None else value.start
        values.append(value)
        seeds = spec[0] == "INT" and name in ("seed", "noise_seed")
        if options(spec).get("control_after_generate", seeds):
            values.append("fixed")
        upload |= bool(options(spec).get("video_upload") or options(spec).get("image_upload"))
    return [*values, "image"] if upload else values


class Graph:
    """One workflow, built node by node."""

    note_title = "About this graph"

    def __init__(self, name: str, note: str) -> None:
        self.name, self.note, self.nodes = name, note, []
        # By node and input, what a real model wants where that is not what the node begins with.
        self.real: dict[str, dict[str, Any]] = {}
        self.app: tuple[list[tuple[Node, str]], list[Node]] | None = None
        folders = Folders(out=HERE, inputs=(HERE / "input",))
        self.classes = {**core_nodes(folders), **HOST_NODES, **rescore.NODE_CLASS_MAPPINGS}

    def add(self, kind: str, group: str, title: str | None = None, **inputs: Any) -> Node:
        title = title or TITLES.get(kind, kind)
        node = Node(len(self.nodes) + 1, self.classes[kind], kind, title, group, inputs)
        self.nodes.append(node)
        return node

    @property
    def settings(self) -> list[dict[str, Any]]:
        """What a real model wants otherwise, where the graph is for a tiny one."""
        return settings_of(self.nodes, self.real)

    @property
    def about(self) -> str:
        """The note, what the switch sets for a real model, and what to do with another clip."""
        masks = [_MASKED.format(n.title) for n in self.nodes if n.title.startswith("Mask: ")]
        real = [described(self.settings)] if self.settings else []
        return "\n\n".join([self.note, *real, *masks])

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
            "id": str(uuid5(NAMESPACE_URL, f"rescore/{self.name}")),  # the front end wants a UUID
            "revision": 0,
            "last_node_id": len(self.nodes) + 2,
            "last_link_id": len(links),
            "nodes": [
                *(self._ui_node(node, places[node.number], numbered) for node in self.nodes),
                *self._in_front(top - GAP),
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
            "extra": {"ds": {"scale": 0.7, "offset": [60, 260]}, **self._app()},
            "version": 0.4,
        }

    def _app(self) -> dict[str, Any]:
        """Which widgets and results App mode shows, where the graph says so in `app`."""
        if self.app is None:
            return {}
        inputs, outputs = self.app
        named = [[str(node.number), name] for node, name in inputs]
        if self.settings:
            named.append([str(len(self.nodes) + 2), "settings"])
        return {"linearData": {"inputs": named, "outputs": [str(n.number) for n in outputs]}}

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
                bottoms[column] += node.room + GAP
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
                **({"models": node.models} if node.models else {}),
            },
            "widgets_values": widget_values(node),
        }

    def _in_front(self, bottom: int) -> list[dict[str, Any]]:
        """The note above the graph, and in front of it the switch; a run leaves both out."""
        switch = self._switch(bottom) if self.settings else []
        return [self._written(bottom, (COLUMN if switch else 0) - GAP // 2), *switch]

    def _written(self, bottom: int, left: int) -> dict[str, Any]:
        """The note, above the graph."""
        height = 60 + 22 * (self.about.count("\n") + len(self.about) // 90)
        return {
            "id": len(self.nodes) + 1,
            "type": "MarkdownNote",
            "pos": [left, bottom - height],
            "size": [760, height],
            "flags": {},
            "order": len(self.nodes),
            "mode": 0,
            "title": self.note_title,
            "inputs": [],
            "outputs": [],
            "properties": {},
            "widgets_values": [self.about],
            "color": "#432",
            "bgcolor": "#653",
        }

    def _switch(self, bottom: int) -> list[dict[str, Any]]:
        """The switch, which sets what a real model wants and brings back what has shipped."""
        node = Node(len(self.nodes) + 2, self.classes[SWITCH], SWITCH, TITLES[SWITCH], "", {})
        shown = self._ui_node(node, [-GAP // 2, bottom - node.height], {})
        shown["properties"]["settings"] = self.settings
        return [shown]
