"""The walls between the rooms: who may import whom, and what no line of the pack may do.

The rules are read off the syntax trees of the sources. Each also meets a snippet that breaks it, so
that a rule which no longer catches anything is seen.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("attention", "headless", "nodes", "pipelines", "shapeworld")
OUTSIDE = ("benchmarks", "tests", "workflows")  # may import everything

HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras"}
HOST |= {"execution", "folder_paths", "latent_preview", "node_helpers", "nodes", "server"}
# Room or file -> the rooms it may import beside its own. "" is the `__init__.py` at the root.
NEIGHBOURS = {
    "": {"nodes"},
    "attention": set(),
    "headless": {"nodes", "shapeworld"},  # the demo holds its edit against the truth
    "nodes": {"attention", "pipelines", "shapeworld"},  # the models that come with the pack
    "nodes/host/videos.py": {"headless"},  # files of videos are read and written in one way
    "pipelines": {"attention"},
    "shapeworld": {"pipelines"},
}
# Room or file -> the packages from outside the standard library it may import.
ARRAYS = {"einops", "jaxtyping", "numpy", "torch"}
MODELS = {"diffusers", "safetensors", "transformers"}
PACKAGES = {
    "": set(),
    "attention": {"einops", "jaxtyping", "torch"},
    "attention/dit": {"einops", "jaxtyping", "torch"},
    "attention/unet": {"diffusers", "einops", "jaxtyping", "torch"},
    "headless": ARRAYS | {"PIL", "av", "matplotlib", "tqdm"},
    "headless/batch": ARRAYS | {"filelock", "ray", "tqdm"},
    # The one file that opens connections: to the ComfyUI servers its user has named.
    "headless/batch/server.py": {"requests", "urllib3"},
    "nodes": ARRAYS,
    "nodes/charts.py": ARRAYS | {"PIL"},
    "nodes/table_picture.py": ARRAYS | {"PIL"},
    "nodes/host": ARRAYS | HOST | {"PIL"},
    "nodes/preview_file.py": ARRAYS | {"av"},
    "pipelines": ARRAYS | {"kornia"},
    "pipelines/flow/estimation.py": ARRAYS | {"cv2", "torchvision"},  # where they are installed
    "pipelines/models": ARRAYS | MODELS,
    "pipelines/models/fetch.py": {"huggingface_hub"},  # the command that downloads a model
    "shapeworld": ARRAYS | MODELS | {"PIL", "matplotlib", "tokenizers", "tqdm"},
}
# Inside `pipelines`: a room or file, and the others it may import. A loop says what comes next and
# may look into `attention`, as models may; formulas may not, nor may they import a loop.
INSIDE = {
    "cascade": {"inversion", "models"},
    "compare": set(),
    "controls": {"windows", "models", "steps"},
    "distillation": {"controls", "models", "steps", "windows"},
    "fingerprint": set(),
    "flow": {"models"},
    "inversion": {"controls", "fingerprint", "models", "windows"},
    "masks": {"compare", "distillation", "models", "windows"},
    "measures": {"flow", "models"},  # how a clip moves is measured along its optical flow
    "models": set(),
    "steps": set(),
    "tuning": {"inversion", "models"},
    "unchanged": {"distillation", "models", "steps"},
    "windows": {"models"},
}
LOOPS = {
    "controls.py": {"controls"},
    "distillation": {"inspection", "prediction", "score_distillation"},
    "inversion": {"attention_sampling", "ddim_inversion", "drift", "null_text"},
    "masks": {"edit_masks"},
    "tuning": {"one_shot_tuning", "tuned_edit"},
    "unchanged.py": {"unchanged"},  # judges what loops have made
}
# Words of one family of models: how its noise is told, what its parts and layers are called. Room
# or file -> those that it may say. A loop and a technique know levels, denoisers and layers alone.
FAMILY_WORDS = {"alphas_bar", "attn1", "unet", "up_blocks"}
MAY_SAY = {
    "attention": set(),
    "attention/dit": {"attn1"},
    "attention/unet": FAMILY_WORDS,
    "nodes": {"up_blocks"},  # in tooltips: patterns of layers are an option for experts
    "nodes/host": {"unet"},  # what ComfyUI calls a device
    "pipelines": set(),
    "pipelines/models/cascade": FAMILY_WORDS,
    "pipelines/models/fetch.py": {"unet"},  # what the folder of a model calls a part
    "pipelines/models/layout.py": {"unet"},
    "pipelines/models/process.py": {"alphas_bar"},
    "pipelines/models/unet": FAMILY_WORDS,
}
# These may import from the room of a family: they load its models, or tune them.
LOADERS = ("nodes/", "pipelines/tuning/")
_FAMILY_ROOM = re.compile(r"^\s*from \.+([a-z]+\.)*unet(\.\w+)? import")
# The attention of a family: room -> who builds its models, and alone may import it.
BUILDERS = {
    "attention.dit": ("pipelines/models/wan", "nodes/host"),
    "attention.unet": ("pipelines/models/unet", "pipelines/models/cascade"),
}

UNSAFE_MODULES = {"cPickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
PROCESS_MODULES = {"multiprocessing", "pty", "subprocess"}
NETWORK_MODULES = {"ftplib", "http", "smtplib", "socket", "socketserver", "urllib", "xmlrpc"}
CONNECTING = {"headless/batch/cluster.py": {"socket"}}  # whether a cluster listens at all
FORBIDDEN_CALLS = {"compile", "eval", "exec", "os.popen", "os.system", "torch.hub.load"}


class Import(NamedTuple):
    """One imported thing: `target` is dotted, from the pack's root if `inside`."""

    target: str
    inside: bool
    line: int


def room_of(path: PurePosixPath) -> str:
    """The room a file lies in, "" for a file at the root."""
    return path.parts[0] if len(path.parts) > 1 else ""


def allowed(table: dict[str, set[str]], path: PurePosixPath) -> set[str] | None:
    """What a table grants the file: its own entry, else its nearest folder's; None without any."""
    for place in (path, *path.parents):
        name = "" if str(place) == "." else str(place)
        if name in table:
            return table[name]
    return None


def imports(tree: ast.AST, path: PurePosixPath) -> Iterator[Import]:
    """Every import of a file, at any depth, with relative ones resolved against its place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, False, node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield Import(node.module or "", False, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            climbed = path.parts[: len(path.parts) - node.level]
            base = [*climbed, *(node.module or "").split(".")]
            names = [""] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield Import(".".join(part for part in (*base, name) if part), True, node.lineno)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith(
            ("import_module", "__import__")
        ):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and not str(name.value).startswith("."):
                yield Import(str(name.value), False, node.lineno)


def dotted(node: ast.AST) -> str:
    """The dotted name of an expression such as `torch.hub.load`, "" if it is none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def import_faults(found: Import, path: PurePosixPath) -> Iterator[str]:
    """What is wrong with an import of the standard library or of a package."""
    top, room = found.target.split(".")[0], room_of(path)
    if top in HOST and not str(path).startswith("nodes/host/"):
        yield f"imports the host's {found.target}; only nodes/host may"
    elif top in ("rescore", *ROOMS, *OUTSIDE) and top not in HOST:
        yield f"imports {found.target} by an absolute name; inside the pack imports are relative"
    elif top in UNSAFE_MODULES | PROCESS_MODULES:
        yield f"imports {top}, which the pack never does"
    elif top in NETWORK_MODULES - CONNECTING.get(str(path), set()):
        yield f"imports {found.target}; nothing here may reach the network"
    elif top not in sys.stdlib_module_names and top not in allowed(PACKAGES, path):
        yield f"imports {top}, which {room or 'the root'} must not know"


def neighbour_faults(found: Import, path: PurePosixPath) -> Iterator[str]:
    """What is wrong with an import from inside the pack."""
    room = room_of(path)
    target_room, _, inner = found.target.partition(".")
    if target_room != room and target_room not in allowed(NEIGHBOURS, path):
        yield f"imports {found.target or 'the root'}; {room or 'the root'} may not look there"
    for family, builders in BUILDERS.items():
        theirs = room == "attention" or str(path).startswith(builders)
        if found.target.startswith(family) and not theirs:
            yield f"imports {found.target}, which only {' and '.join(builders)} may"
    if room != "pipelines" or path.name == "__init__.py":
        return
    own, loops = path.parts[1].removesuffix(".py"), LOOPS.get(path.parts[1], set())
    if target_room == "attention" and own != "models" and path.stem not in loops:
        yield "holds formulas, but imports attention"
    elif target_room == "pipelines":
        there, _, name = inner.partition(".")
        if there != own and there not in INSIDE[own]:
            yield f"lies in {own}, which may not look into {there or 'the whole package'}"
        elif path.stem not in loops and name.split(".")[0] in LOOPS.get(there, set()):
            yield f"holds formulas, but imports the loop {name}"


def word_faults(line: str, path: PurePosixPath) -> Iterator[str]:
    """The words of one family of models in a file that is for all of them."""
    known = allowed(MAY_SAY, path)
    if str(path).startswith(LOADERS):
        line = _FAMILY_ROOM.sub("", line)
    for word in sorted(FAMILY_WORDS - known) if known is not None else ():
        if re.search(rf"(?<![a-z]){word}(?![a-z])", line):
            yield f"says {word}, which only one family of models has"


def call_faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Calls that would let data become code."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        if name in FORBIDDEN_CALLS:
            yield node.lineno, f"calls {name}"
        if name == "torch.load" and not any(
            keyword.arg == "weights_only"
            and isinstance(keyword.value, ast.Constant)
            and keyword.value.value is True
            for keyword in node.keywords
        ):
            yield node.lineno, "calls torch.load without weights_only=True"


def faults(name: str, source: bytes) -> list[str]:
    """What a file of the pack does that the walls forbid, each as `file:line what`."""
    path = PurePosixPath(name)
    text = source.decode("utf-8")
    tree = ast.parse(text)
    found = list(call_faults(tree))
    for item in imports(tree, path):
        check = neighbour_faults if item.inside else import_faults
        found += [(item.line, fault) for fault in check(item, path)]
    for number, line in enumerate(text.splitlines(), start=1):
        found += [(number, fault) for fault in word_faults(line, path)]
        try:
            line.encode("cp1252")
        except UnicodeEncodeError as error:
            found.append((number, f"holds {line[error.start]!a}, which cp1252 has not"))
    return [f"{name}:{line} {fault}" for line, fault in sorted(found)]


def sources() -> list[str]:
    """The pack's own files, tracked or not."""
    files = [ROOT / "__init__.py", *(f for room in ROOMS for f in (ROOT / room).rglob("*.py"))]
    return sorted(file.relative_to(ROOT).as_posix() for file in files)


@pytest.mark.parametrize("name", sources())
def test_file_keeps_to_its_room(name: str):
    assert faults(name, (ROOT / name).read_bytes()) == []


def test_every_folder_with_code_is_a_known_room():
    holders = {path.parent.name for path in ROOT.glob("[!.]*/*.py")}
    assert holders <= {*ROOMS, *OUTSIDE}


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("nodes/load.py", "import folder_paths", "imports the host's folder_paths"),
        ("nodes/load.py", "def f():\n    import comfy.utils", "only nodes/host may"),
        ("pipelines/loop.py", "from comfy.utils import ProgressBar", "only nodes/host may"),
        ("headless/run.py", "import nodes", "imports the host's nodes"),
        ("nodes/load.py", "importlib.import_module('comfy.utils')", "only nodes/host may"),
        ("nodes/load.py", "__import__('server')", "only nodes/host may"),
        ("nodes/load.py", "from rescore.pipelines import schedule", "by an absolute name"),
        ("nodes/load.py", "import pipelines.schedule", "by an absolute name"),
        ("shapeworld/score.py", "from benchmarks import table", "by an absolute name"),
        ("__init__.py", "import torch", "the root must not know"),
        ("__init__.py", "from .pipelines import schedule", "the root may not look there"),
        ("nodes/load.py", "import diffusers", "nodes must not know"),
        ("nodes/load.py", "from ..headless import runner", "nodes may not look there"),
        ("pipelines/windows.py", "import diffusers", "pipelines must not know"),
        ("pipelines/models/schedule.py", "from ... import nodes", "pipelines may not look there"),
        ("pipelines/models/unet/sd.py", "from ....nodes import x", "pipelines may not look there"),
        ("pipelines/models/unet/sd.py", "import tqdm", "pipelines must not know"),
        ("pipelines/windows.py", "from ..nodes.host import x", "may not look there"),
        ("pipelines/masks/boxes.py", "from ...attention import x", "but imports attention"),
        ("pipelines/masks/boxes.py", "from .edit_masks import x", "imports the loop edit_masks"),
        ("pipelines/distillation/keys.py", "from .. import masks", "may not look into masks"),
        ("pipelines/models/unet/sd.py", "from ...flow import x", "may not look into flow"),
        ("pipelines/measures/clip.py", "from ..masks import shapes", "may not look into masks"),
        ("pipelines/masks/boxes.py", "import tqdm", "pipelines must not know"),
        ("pipelines/models/unet/sd.py", "import huggingface_hub", "pipelines must not know"),
        ("attention/plan.py", "from ..pipelines.schedule import x", "may not look there"),
        ("attention/plan.py", "import transformers", "attention must not know"),
        ("headless/run.py", "from ..pipelines import schedule", "headless may not look there"),
        ("headless/run.py", "from .. import NODE_CLASS_MAPPINGS", "headless may not look there"),
        ("shapeworld/score.py", "from ..nodes import load", "shapeworld may not look there"),
        ("nodes/load.py", "import pickle", "imports pickle"),
        ("headless/run.py", "from subprocess import run", "imports subprocess"),
        ("nodes/host/native.py", "import urllib.request", "reach the network"),
        ("nodes/load.py", "eval('1')", "calls eval"),
        ("headless/run.py", "exec(code)", "calls exec"),
        ("headless/run.py", "import ray", "headless must not know"),
        ("headless/batch/worker.py", "import requests", "headless must not know"),
        ("headless/run.py", "os.system('ls')", "calls os.system"),
        ("pipelines/models/unet/sd.py", "torch.load(path)", "without weights_only=True"),
        ("nodes/load.py", "torch.load(path, weights_only=False)", "without weights_only=True"),
        ("nodes/load.py", "# \u03b5 is the noise", "cp1252"),
        ("attention/fusion.py", "import diffusers", "attention must not know"),
        ("attention/layers.py", "import numpy", "attention must not know"),
        ("attention/unet/sites.py", "import transformers", "attention must not know"),
        ("attention/fusion.py", "from .unet.layers import UNetLayers", "says unet"),
        ("attention/fusion.py", "SITES = 'up_blocks.*'", "says up_blocks"),
        ("nodes/load.py", "from ..attention.unet.sites import x", "only pipelines/models/unet"),
        ("pipelines/models/words.py", "from ...attention.dit.sites import x", "only pipelines/mo"),
        ("pipelines/windows.py", "from .models.unet.backbone import Backbone", "says unet"),
        ("pipelines/inversion/drift.py", "a = model.process.alphas_bar[t]", "says alphas_bar"),
        ("pipelines/inversion/drift.py", "model._unet(z)", "says unet"),
        ("pipelines/masks/edit_masks.py", "name.endswith('.attn1')", "says attn1"),
        ("pipelines/models/denoiser.py", "def run(unet): ...", "says unet"),
        ("pipelines/models/text.py", "1 - alphas_bar", "says alphas_bar"),
        ("nodes/tuning.py", "model.process.alphas_bar", "says alphas_bar"),
        ("nodes/tuning.py", "tune(model.unet)", "says unet"),
        ("nodes/running.py", "host.load(model, 'unet')", "says unet"),
        ("nodes/similarity.py", "SITES = '*.attn1'", "says attn1"),
    ],
)
def test_an_offence_is_seen(name: str, source: str, complaint: str):
    found = faults(name, source.encode("utf-8"))
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("__init__.py", "from .nodes import NODE_CLASS_MAPPINGS"),
        ("nodes/host/native.py", "import comfy.utils, folder_paths, nodes"),
        ("nodes/load.py", "from . import host\nfrom .host import native\nimport torch"),
        (
            "nodes/load.py",
            "from ..pipelines.models.unet import load\nfrom ..attention import sites",
        ),
        ("pipelines/inversion/null_text.py", "from ...attention import sites\nimport torch"),
        ("pipelines/masks/boxes.py", "from ..models.grid import latent_mask\nimport kornia"),
        ("pipelines/measures/motion.py", "from ..flow import Flow\nfrom .measure import Measure"),
        ("pipelines/models/unet/sd.py", "from .folder import read\nfrom ..text import encode"),
        ("pipelines/models/unet/sd.py", "import diffusers, transformers, safetensors.torch"),
        ("pipelines/models/unet/sd.py", "torch.load(path, weights_only=True)"),
        ("headless/run.py", "from ..nodes import NODE_CLASS_MAPPINGS\nimport av, json"),
        ("headless/batch/worker.py", "from ..runner import run_workflow\nimport ray"),
        ("shapeworld/check.py", "from ..pipelines import inversion\nimport diffusers"),
        ("attention/unet/sites.py", "import diffusers\nfrom ..layers import Site\nX = 'attn1'"),
        ("pipelines/models/unet/sd.py", "from ....attention.unet.layers import UNetLayers"),
        ("nodes/load.py", "def f():\n    from ..pipelines.models.unet.load import x"),
        ("nodes/similarity.py", "'decoder, or up_blocks.1.*'"),
        ("pipelines/models/process.py", "self.alphas_bar[t]"),
        ("pipelines/models/layout.py", "PARTS = ('unet', 'vae')"),
        ("pipelines/inversion/drift.py", "# Of a UNet; unetched, reattn1"),
        ("nodes/load.py", "model.eval()\nre.compile('x')  # caf\u00e9"),
    ],
)
def test_what_is_allowed_passes(name: str, source: str):
    assert faults(name, source.encode("utf-8")) == []
