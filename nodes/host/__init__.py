"""All that uses ComfyUI (the host): folders, memory, progress, Cancel. Without it, plain torch.

The other modules of this folder import ComfyUI, and are imported only inside it.
"""

import importlib
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    import torch

    from ...pipelines.windows import Spread

log = logging.getLogger("rescore")

CATEGORY = "ReScore"
MODELS_VARIABLE = "RESCORE_MODELS"  # the models folder without ComfyUI; default ./models
# Files that shipped graphs load, in the layout of the host's models folder. Nothing writes here.
SHIPPED = Path(__file__).resolve().parents[2] / "workflows" / "models"


# The tiny Wan, for the host's own loaders: its folders, by the host's names of categories.
_SHAPEWORLD = Path(__file__).resolve().parents[2] / "shapeworld" / "weights" / "shapeworld-wan"
_FOR_THE_HOST = {"diffusion_models": _SHAPEWORLD / "transformer", "vae": _SHAPEWORLD / "vae"}


def _host(name: str) -> ModuleType | None:
    """A module of ComfyUI; None if the pack runs without ComfyUI."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


# --- folders ------------------------------------------------------------------------------------


def roots(category: str) -> list[Path]:
    """The folders for models of a category (checkpoints, diffusers, ...)."""
    folders = _host("folder_paths")
    if folders is None:
        return [Path(os.environ.get(MODELS_VARIABLE, "models")) / category]
    # The host knows animatediff_models only if a pack has registered it.
    if category not in folders.folder_names_and_paths:
        folders.add_model_folder_path(category, os.path.join(folders.models_dir, category))
    return [Path(folder) for folder in folders.get_folder_paths(category)]


def offer_shapeworld() -> None:
    """Let the host's own loaders list the tiny Wan that comes with the pack."""
    folders = _host("folder_paths")
    for category, folder in _FOR_THE_HOST.items() if folders is not None else ():
        folders.add_model_folder_path(category, str(folder))


def files_in(category: str, *suffixes: str) -> list[str]:
    """Names of the files of a category with one of `suffixes`, for a combo."""
    return _names_in(roots(category), suffixes)


def own_folders(category: str) -> list[Path]:
    """The folders of files that our nodes save and load; new files go to the first.

    The last holds files that come with the pack. A user's file of the same name is found first.
    """
    return [output_folder() / category, *roots(category), SHIPPED / category]


def own_files_in(category: str, *suffixes: str) -> list[str]:
    """Names of the files in `own_folders` with one of `suffixes`, for a combo."""
    return _names_in(own_folders(category), suffixes)


def own_file(category: str, name: str, *suffixes: str) -> Path | None:
    """The first file of that name in `own_folders`; None if there is none."""
    if name not in own_files_in(category, *suffixes):
        return None
    return next(f / name for f in own_folders(category) if (f / name).is_file())


def new_own_file(category: str, name: str, suffix: str) -> Path:
    """The path of a new file, with a name that the user has typed.

    Raises:
        ValueError: if the name is empty, leads to another folder, or is not allowed on all systems.
    """
    name = name.strip().removesuffix(suffix)
    if not name or Path(name).name != name or name.startswith(".") or set(name) & set('\\:*?"<>|'):
        raise ValueError(f"{name!r} is no name for a file. Use letters, digits and dashes.")
    return own_folders(category)[0] / f"{name}{suffix}"


def _names_in(folders: list[Path], suffixes: tuple[str, ...]) -> list[str]:
    found = {
        file.relative_to(folder).as_posix()
        for folder in folders
        for file in folder.rglob("*")
        if file.suffix in suffixes and file.is_file()
    }
    return sorted(found)


_output: ContextVar[Path | None] = ContextVar("output", default=None)


def output_folder() -> Path:
    """The folder that nodes write files to: that of `writing_to`, or the host's."""
    if (folder := _output.get()) is not None:
        return folder
    folders = _host("folder_paths")
    return Path("output") if folders is None else Path(folders.get_output_directory())


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Within the `with`, nodes write their files to this folder."""
    token = _output.set(folder)
    try:
        yield
    finally:
        _output.reset(token)


_spread: ContextVar["Spread | None"] = ContextVar("spread", default=None)


def spread() -> "Spread":
    """How windows of a clip are computed: as set by `spreading`, or one by one."""
    from ...pipelines.windows import one_by_one

    return _spread.get() or one_by_one


@contextmanager
def spreading(how: "Spread | None") -> Iterator[None]:
    """Within the `with`, loops compute their windows in this way."""
    token = _spread.set(how)
    try:
        yield
    finally:
        _spread.reset(token)


def temp_file(stem: str, suffix: str) -> tuple[Path, dict[str, str]] | None:
    """A new temporary file, and the entry with which the browser finds it; None without a host.

    The host empties the folder of these files when it starts.
    """
    folders = _host("folder_paths")
    if folders is None:
        return None
    folder, name = Path(folders.get_temp_directory()), f"{stem}_{secrets.token_hex(8)}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name, {"filename": name, "subfolder": "", "type": "temp"}


# --- devices ------------------------------------------------------------------------------------


def dtype(precision: str) -> "torch.dtype":
    """The number format of a `precision` widget; "auto" is the best one for this machine."""
    import torch

    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    named["fp8"] = torch.bfloat16  # stored in 8 bits, computed in 16
    if precision in named:
        return named[precision]
    management = _host("comfy.model_management")
    if management is not None:
        device = management.get_torch_device()
        if management.should_use_bf16(device):
            return torch.bfloat16
        return torch.float16 if management.should_use_fp16(device) else torch.float32
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def load(model: Any, part: str, *, memory: int = 0) -> None:
    """Move one part of a model ("network", "vae", "text_encoder") to its compute device.

    The host makes room for it in memory, keeps account of it, and may offload it later when another
    node needs the memory. `memory` is the number of bytes for the computation itself.
    """
    import torch

    parts = model.modules()
    if not parts:  # the host loads its own MODEL and VAE when they are called
        return
    module = parts[part]
    management = _host("comfy.model_management")
    if management is None:
        module.to("cuda" if torch.cuda.is_available() else "cpu")
        _loaded.add(module)
        return
    # Stored on the module itself: models share parts, and the host must count each part once.
    account = module.__dict__.setdefault("_rescore_account", _Account())
    if account.patcher is None:
        account.patcher = _patcher(module, part, management)
    patcher = account.patcher
    # Autograd refuses weights that were moved in inference mode.
    with torch.inference_mode(False):
        if part == "network" and _by_layers(model, patcher, memory, management):
            return
        # The host can load its own layers partly; a module of diffusers must be moved as a whole.
        management.load_models_gpu([patcher], memory_required=memory, force_full_load=True)
        # A motion model shares weights with its image model, which may have been offloaded.
        if any(p.device.type != patcher.load_device.type for p in module.parameters()):
            module.to(patcher.load_device)


_loaded: WeakSet[Any] = WeakSet()  # without ComfyUI: the modules that were moved to the device


@contextmanager
def alone(model: Any, part: str, *, memory: int = 0) -> Iterator[None]:
    """As `load`, but no other weights are on the device within the `with`, and none after it."""
    _unload()
    try:
        load(model, part, memory=memory)
        yield
    finally:
        _unload()


def _unload() -> None:
    """Take the weights of all models off the compute device, back into main memory."""
    import torch

    management = _host("comfy.model_management")
    # Autograd refuses weights that were moved in inference mode.
    with torch.inference_mode(False):
        if management is not None:
            management.free_memory(1e30, management.get_torch_device())
        for module in _loaded:
            module.to("cpu")
    _loaded.clear()


def _by_layers(model: Any, patcher: Any, memory: int, management: ModuleType) -> bool:
    """Keep the network in main memory, and move layer by layer, if the device has no room for it.

    Returns whether it did so.
    """
    from ...pipelines.models.storage import keep_apart, put_together

    module, device = patcher.model.module, patcher.load_device
    work = max(memory, management.minimum_inference_memory())
    needed, room = management.module_size(module) + work, management.get_total_memory(device)
    tuned = model.kind == "inflated"  # One-Shot Tune learns weights where they are
    if device.type == "cpu" or needed <= room or tuned:
        put_together(module)
        return False
    management.free_memory(1e30, device)  # unloads all models, this one too
    keep_apart(module, device)
    log.warning(
        "%s needs %.1f GiB with the work, and the device has %.1f. Its layers stay in main memory "
        "and are moved one by one, which is slower. fp8 or a shorter window needs less.",
        *(model.name, needed / 2**30, room / 2**30),
    )
    return True


class _Account:
    """The host's record of a module. A copy of the module gets its own record."""

    patcher: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Account":
        return _Account()


def _patcher(module: Any, part: str, management: ModuleType) -> Any:
    import torch

    class ReScoreModel(torch.nn.Module):  # the host logs this name
        """A wrapper on which the host can set `device`; modules of diffusers do not allow that."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

    devices = {
        "network": (management.get_torch_device, management.unet_offload_device),
        "vae": (management.vae_device, management.vae_offload_device),
        "text_encoder": (
            management.text_encoder_device,
            management.text_encoder_offload_device,
        ),
    }
    load_device, offload_device = (device() for device in devices[part])
    patchers = importlib.import_module("comfy.model_patcher")
    return patchers.ModelPatcher(ReScoreModel(), load_device, offload_device)


@contextmanager
def differentiable() -> Iterator[None]:
    """Leave the host's inference mode, for autograd. Tensors made before must be cloned."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        yield


# --- progress and Cancel ------------------------------------------------------------------------


def check_cancelled() -> None:
    """Raise the host's exception if the user has pressed Cancel."""
    management = _host("comfy.model_management")
    if management is not None:
        management.throw_exception_if_processing_interrupted()


def _execution() -> Any | None:
    """The node that the host runs now (`node_id`, `prompt_id`); None outside its server."""
    execution = _host("comfy_execution.utils")
    return None if execution is None else execution.get_executing_context()


def shows_previews() -> bool:
    """Whether previews are shown, that is, the host's server runs this node."""
    return _execution() is not None


def send(event: str, data: dict[str, Any]) -> None:
    """Send data to the browser that started this run, as the event `rescore.<event>`.

    The data also gets `node`, the id of the running node. Without a browser nothing is sent.
    """
    execution = _execution()
    if execution is None:
        return
    server = importlib.import_module("server").PromptServer.instance
    if server.client_id is not None:
        server.send_sync(f"rescore.{event}", {"node": execution.node_id, **data}, server.client_id)


_told: set[str] = set()  # the nodes that show a text, by id


def tell(text: str) -> None:
    """Show a text on the node that is running, below its inputs; "" puts "Done." in its place.

    Without a browser nothing is shown.
    """
    execution = _execution()
    if execution is None or not (text or execution.node_id in _told):
        return
    server = importlib.import_module("server").PromptServer.instance
    # The front end does not take empty text.
    server.send_progress_text(text or "Done.", execution.node_id, server.client_id)
    (_told.add if text else _told.discard)(execution.node_id)


SECONDS_BETWEEN = 0.1  # the least time between two messages to the browser


def progress(total: int) -> Callable[[int, Callable[[], Any] | None], None]:
    """A progress bar on the node: call it with the number of steps done, and perhaps a preview.

    The preview is a function that makes a picture, `[h, w, 3]` in 0..1 or a PIL image. It is called
    only if the picture is shown. Every call also checks for Cancel.
    """
    execution, sent = _execution(), -math.inf
    if execution is not None:
        api = importlib.import_module("comfy_api.latest").ComfyAPISync().execution

    def show(done: int, preview: Callable[[], Any] | None = None) -> None:
        nonlocal sent
        check_cancelled()
        now = time.monotonic()
        if execution is None or (done < total and now - sent < SECONDS_BETWEEN):
            return
        sent = now
        api.set_progress(done, total, execution.node_id, preview and _picture(preview()))

    return show


def _picture(pixels: Any) -> Any:
    from PIL import Image

    if pixels is None or isinstance(pixels, Image.Image):
        return pixels
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().cpu().numpy())
