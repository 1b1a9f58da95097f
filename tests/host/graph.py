"""Reads a UI-format workflow the way ComfyUI's front end does, against what the host offers.

The front end stores the values of a node's widgets by position. A list that is too short, too long
or shifted loads without a word and runs with other settings, so the positions are checked here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"  # a list whose choice brings further widgets with it
UPLOADS = ("image_upload", "video_upload", "animated_image_upload", "audio_upload")
CONTROL = ("fixed", "increment", "decrement", "randomize")
# What the browser has to itself: notes, and the switch that sets other nodes. They do not run.
ANNOTATIONS = {"Note", "MarkdownNote", "ReScoreTinyOrReal"}


@dataclass(frozen=True)
class Widget:
    """One position of `widgets_values`: the input it sets, or the control the front end adds."""

    name: str
    kind: str  # one of WIDGET_TYPES, "CONTROL" or "UPLOAD"
    options: dict

    @property
    def is_input(self) -> bool:
        return self.kind in WIDGET_TYPES

    @property
    def default(self) -> object:
        """What the front end sets where a graph stores nothing."""
        return self.options.get("default", (self.options.get("options") or [None])[0])


@dataclass(frozen=True)
class Link:
    """A wire of the graph."""

    source: int
    source_slot: int
    target: int
    target_slot: int
    type: str


def declared(info: dict, section: str) -> Iterator[tuple[str, str | list, dict]]:
    """(name, type, options) of a section's inputs, in the order they are shown."""
    for name in info["input_order"].get(section, ()):
        kind, *options = info["input"][section][name]
        yield name, kind, options[0] if options else {}


def is_the_hosts(info: dict) -> bool:
    """Whether a node is the host's own.

    Such a node may have gained inputs and outputs at its end since the host that our graphs are
    written for; in an older graph those have their defaults, and no wires.
    """
    return info.get("python_module", "").partition(".")[0] in ("nodes", "comfy_extras")


def input_type(info: dict, name: str) -> str | None:
    """The type of an input as a wire has it; None when the node has no such input."""
    for section in ("required", "optional"):
        for known, kind, _ in declared(info, section):
            if known == name:
                return "COMBO" if isinstance(kind, list) or kind == DYNAMIC else kind
    return None


def chosen(options: dict) -> tuple[list[str], Iterator[tuple[str, str | list, dict]]]:
    """The choices of a dynamic list, and (name, type, options) of what its first one brings."""
    first, *_ = options["options"]
    sections = first["inputs"].values()
    brought = ((name, *spec) for section in sections for name, spec in section.items())
    return (
        [choice["key"] for choice in options["options"]],
        ((name, kind, rest[0] if rest else {}) for name, kind, *rest in brought),
    )


def widgets(info: dict) -> list[Widget]:
    """The widgets of a node in the order of its `widgets_values`.

    An integer that is a seed is followed by its control; a file input adds an upload button at the
    end of the required inputs. A widget that is linked keeps its position.
    """
    found = []
    for section in ("required", "optional"):
        has_upload = False
        for name, kind, options in declared(info, section):
            found += widgets_of(name, kind, options)
            has_upload |= any(options.get(upload) for upload in UPLOADS)
        if has_upload and section == "required":
            found.append(Widget("upload", "UPLOAD", {}))
    return found


def widgets_of(name: str, kind: str | list, options: dict) -> Iterator[Widget]:
    """The widgets of one input, none if it is set by a wire alone."""
    if isinstance(kind, list):  # a V1 node lists its choices where the type stands
        kind, options = "COMBO", {**options, "options": kind}
    if kind == DYNAMIC:
        choices, brought = chosen(options)
        yield Widget(name, "COMBO", {**options, "options": choices})
        for inner, *spec in brought:
            yield from widgets_of(f"{name}.{inner}", *spec)
    elif kind in WIDGET_TYPES and not options.get("forceInput"):
        yield Widget(name, kind, options)
        if options.get("control_after_generate", kind == "INT" and name in ("seed", "noise_seed")):
            yield Widget(f"{name}: control after generate", "CONTROL", {})


def complaint(widget: Widget, value: object) -> str | None:
    """What is wrong with a stored value, or None."""
    options = widget.options
    if widget.kind in ("INT", "FLOAT"):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (widget.kind == "FLOAT" and isinstance(value, float))):
            return f"is no {widget.kind}"
        # The front end's own limits where the node names none.
        low, high = options.get("min", 0), options.get("max", 2048)
        if not low <= value <= high:
            return f"is outside {low} to {high}"
        grain = options.get("round") or options.get("step", 0.5)
        digits = max(0, -math.floor(math.log10(grain)))
        if widget.kind == "FLOAT" and round(value, digits) != value:
            return f"has more digits than the front end keeps, which rounds to {10**-digits}"
        return None
    if widget.kind == "STRING":
        return None if isinstance(value, str) else "is no STRING"
    if widget.kind == "BOOLEAN":
        return None if isinstance(value, bool) else "is no BOOLEAN"
    choices = CONTROL if widget.kind == "CONTROL" else options.get("options", ())
    if widget.kind == "UPLOAD":
        choices = ("image",)
    return None if value in choices else f"is not among {list(choices)}"


def links(graph: dict) -> dict[int, Link]:
    """The wires of a graph by id, from either layout of the format."""
    found = {}
    for link in graph["links"]:
        if isinstance(link, dict):
            keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
            link = [link[key] for key in keys]
        found[link[0]] = Link(*link[1:6])
    return found


def running_nodes(graph: dict) -> list[dict]:
    """The nodes that take part in a run."""
    return [node for node in graph["nodes"] if node["type"] not in ANNOTATIONS]


def problems(graph: dict, object_info: dict) -> list[str]:
    """Everything a user of this host would find changed or missing after loading the graph."""
    found, wires = [], links(graph)
    nodes = {node["id"]: node for node in graph["nodes"]}
    if len(nodes) != len(graph["nodes"]):
        found.append("two nodes have the same id")
    for node in running_nodes(graph):
        label = f"node {node['id']} ({node['type']})"
        info = object_info.get(node["type"])
        if info is None:
            found.append(f"{label}: the host has no node of this type")
            continue
        if node.get("mode", 0) != 0:
            found.append(f"{label}: is muted or bypassed")
        for trouble in (
            *widget_problems(node, info),
            *input_problems(node, info, wires),
            *output_problems(node, info, wires),
        ):
            found.append(f"{label}: {trouble}")
    for link_id, link in wires.items():
        if link.source not in nodes or link.target not in nodes:
            found.append(f"link {link_id} joins a node that is not there")
    return found


def widget_problems(node: dict, info: dict) -> Iterator[str]:
    """What is wrong with the stored widget values of a node."""
    expected, values = widgets(info), node.get("widgets_values") or []
    if is_the_hosts(info):
        expected = expected[: len(values)]
    if len(values) != len(expected):
        names = [widget.name for widget in expected]
        yield f"{len(values)} widget values {values} for {len(expected)} widgets {names}"
        return
    for widget, value in zip(expected, values, strict=True):
        trouble = complaint(widget, value)
        if trouble:
            yield f"widget {widget.name!r}: {value!r} {trouble}"


def input_problems(node: dict, info: dict, wires: dict[int, Link]) -> Iterator[str]:
    """What is wrong with the wires that come in, and with those that do not."""
    linked = set()
    for slot, given in enumerate(node.get("inputs") or []):
        kind = input_type(info, given["name"])
        if kind is None:
            yield f"has no input {given['name']!r}"
            continue
        if given["type"] != kind:
            yield f"input {given['name']!r} is {given['type']}, the host has {kind}"
        if given.get("link") is None:
            continue
        linked.add(given["name"])
        link = wires.get(given["link"])
        if link is None:
            yield f"input {given['name']!r}: link {given['link']} is not in the graph"
        elif (link.target, link.target_slot) != (node["id"], slot):
            yield f"input {given['name']!r}: link {given['link']} ends elsewhere"
        elif link.type not in (kind, "*") and kind != "*":
            yield f"input {given['name']!r}: link {given['link']} carries {link.type}, not {kind}"
    set_by_widget = {widget.name for widget in widgets(info) if widget.is_input}
    for name, _, _ in declared(info, "required"):
        if name not in linked | set_by_widget:
            yield f"required input {name!r} is not linked"


def output_problems(node: dict, info: dict, wires: dict[int, Link]) -> Iterator[str]:
    """What is wrong with the outputs a node is said to have, and with the wires that leave them."""
    given = node.get("outputs") or []
    known = len(given) if is_the_hosts(info) else None
    types, names = info["output"][:known], info["output_name"][:known]
    if [output["type"] for output in given] != types:
        yield f"outputs {[o['type'] for o in given]}, the host has {types}"
    if [output["name"] for output in given] != names:
        yield f"outputs {[o['name'] for o in given]}, the host says {names}"
    for slot, output in enumerate(given):
        leaving = {
            i for i, link in wires.items() if (link.source, link.source_slot) == (node["id"], slot)
        }
        if set(output.get("links") or []) != leaving:
            yield f"output {output['name']!r} lists links {output.get('links')}, not {leaving}"


def as_prompt(graph: dict, object_info: dict) -> dict:
    """The API-format workflow the front end would post for this graph, without `_meta`."""
    wires, prompt = links(graph), {}
    for node in running_nodes(graph):
        known, values = widgets(object_info[node["type"]]), node.get("widgets_values") or []
        values = [*values, *(widget.default for widget in known[len(values) :])]
        stored = zip(known, values, strict=True)
        inputs = {widget.name: value for widget, value in stored if widget.is_input}
        for given in node.get("inputs") or []:
            if given.get("link") is not None:
                link = wires[given["link"]]
                inputs[given["name"]] = [str(link.source), link.source_slot]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def without_titles(prompt: dict) -> dict:
    """An API-format workflow as a host runs it."""
    return {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for key, node in prompt.items()
    }


def without_additions(posted: dict, shipped: dict, object_info: dict) -> dict:
    """A posted workflow without the inputs that nodes of the host have gained since it was shipped.

    What the browser adds to nodes that load videos is left out, too.
    """

    def kept(key: str, node: dict) -> dict:
        grown = is_the_hosts(object_info[node["class_type"]])
        known = shipped.get(key, {"inputs": {}})["inputs"]
        return {k: v for k, v in node["inputs"].items() if k in known or not grown}

    return {
        key: {"class_type": node["class_type"], "inputs": kept(key, node)}
        for key, node in posted.items()
    }
