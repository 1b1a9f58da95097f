"""Blueprints: graphs that ComfyUI lists as one node, with a few inputs and outputs of their own.

The front end reads them from `subgraphs/` of every pack. Inside they are graphs like any other;
what comes from outside has the number -10, what goes out -20.
"""

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from graph import GAP, WIDGETS, Graph, Node, Output

INSIDE, OUTSIDE = -10, -20
_ROW, _WIDE = 20, 160


class Blueprint(Graph):
    """A graph with inputs and outputs of its own.

    Its numbers are a real model's. No widget in front can switch them: what is set there is passed
    on when the graph runs, and nothing inside hears of it before. So the note inside says what a
    tiny model wants otherwise.
    """

    note_title = "About this blueprint"

    def __init__(self, name: str, title: str, description: str) -> None:
        super().__init__(name, "")
        self.title, self.description = title, description
        self._inputs: list[tuple[str, str, Any]] = []
        self._outputs: list[tuple[str, Output]] = []
        self.tiny = ""  # what to set for a tiny model
        self._door = Node.__new__(Node)
        self._door.number, self._door.kind, self._door.group = INSIDE, "", ""
        self._door.cls = type("Door", (), {"RETURN_TYPES": ()})

    def comes_in(self, name: str, kind: str, start: Any = None) -> Output:
        """An input of the whole: a socket, or a widget with the value that it starts with."""
        self._inputs.append((name, kind, start))
        self._door.cls.RETURN_TYPES = tuple(kind for _, kind, _ in self._inputs)
        return Output(self._door, len(self._inputs) - 1, start)

    def goes_out(self, name: str, output: Output) -> None:
        """An output of the whole."""
        self._outputs.append((name, output))

    @property
    def about(self) -> str:
        """What it is for, and what a tiny model wants otherwise."""
        return f"{self.description}\n\n{self.tiny}".strip()

    def _in_front(self, bottom: int) -> list[dict[str, Any]]:
        """The note alone."""
        return [self._written(bottom, -GAP // 2)]

    def file(self) -> dict[str, Any]:
        """What stands in the file of a blueprint."""
        inside = self.ui()
        links = [
            dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link,
                     strict=True))
            for link in inside["links"]
        ]  # fmt: skip
        for slot, (_, output) in enumerate(self._outputs):
            number = len(links) + 1
            links.append(
                {
                    "id": number,
                    "origin_id": output.node.number,
                    "origin_slot": output.slot,
                    "target_id": OUTSIDE,
                    "target_slot": slot,
                    "type": output.node.cls.RETURN_TYPES[output.slot],
                }
            )
            (source,) = (n for n in inside["nodes"] if n["id"] == output.node.number)
            leaving = source["outputs"][output.slot]
            leaving["links"] = [*(leaving["links"] or []), number]
        nodes = inside["nodes"]
        right = max(node["pos"][0] + node["size"][0] for node in nodes)
        whole = {
            "id": str(uuid5(NAMESPACE_URL, f"rescore/{self.name}/whole")),
            "version": 1,
            "state": {
                "lastGroupId": len(inside["groups"]),
                "lastNodeId": len(nodes),
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.title,
            "inputNode": {"id": INSIDE, "bounding": [-2 * _WIDE, 0, _WIDE, _ROW * 8]},
            "outputNode": {"id": OUTSIDE, "bounding": [right + _WIDE, 0, _WIDE, _ROW * 3]},
            "inputs": [
                self._end(links, i, name, kind, INSIDE, -2 * _WIDE)
                for i, (name, kind, _) in enumerate(self._inputs)
            ],
            "outputs": [
                self._end(links, i, name, output.node.cls.RETURN_TYPES[output.slot], OUTSIDE, right)
                for i, (name, output) in enumerate(self._outputs)
            ],
            "widgets": [],
            "nodes": nodes,
            "groups": inside["groups"],
            "links": links,
            "extra": {},
            "category": "ReScore",
            "description": self.description,
        }
        return {
            "id": inside["id"],
            "revision": 0,
            "last_node_id": 1,
            "last_link_id": 0,
            "nodes": [self._one(whole["id"])],
            "links": [],
            "version": 0.4,
            "definitions": {"subgraphs": [whole]},
            "extra": {},
        }

    def _end(self, links, slot: int, name: str, kind: str, door: int, x: float) -> dict[str, Any]:
        side = "origin" if door == INSIDE else "target"
        here = [
            link["id"]
            for link in links
            if (link[f"{side}_id"], link[f"{side}_slot"]) == (door, slot)
        ]
        return {
            "id": str(uuid5(NAMESPACE_URL, f"rescore/{self.name}/{door}/{name}")),
            "name": name,
            "type": kind,
            "linkIds": here,
            "pos": [x, _ROW * (slot + 1)],
        }

    def _one(self, kind: str) -> dict[str, Any]:
        """The node that stands for the whole."""
        slots = []
        for name, type_, _ in self._inputs:
            slot = {"name": name, "type": type_, "link": None}
            if type_ in WIDGETS:
                slot["widget"] = {"name": name}
            slots.append(slot)
        widgets = [(name, start) for name, type_, start in self._inputs if type_ in WIDGETS]
        return {
            "id": 1,
            "type": kind,
            "pos": [0, 0],
            "size": [400, 420],
            "flags": {},
            "order": 0,
            "mode": 0,
            "title": self.title,
            "inputs": slots,
            "outputs": [
                {"name": name, "type": output.node.cls.RETURN_TYPES[output.slot], "links": None}
                for name, output in self._outputs
            ],
            "properties": {
                "proxyWidgets": [["-1", name] for name, _ in widgets],
                "cnr_id": "rescore",
                "ver": "0.1.0",
            },
            "widgets_values": [start for _, start in widgets],
        }
