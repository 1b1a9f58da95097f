"""What nodes share that load one of the user's folders or files."""

from pathlib import Path
from typing import Any, ClassVar

from . import host
from .widgets import FILES, Input, Node


def stamp(path: Path) -> str:
    """Names, sizes and times of a file, or of all files of a folder: another one, if it changes.

    The host asks for it before each run, and runs a loader again if the answer is another.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    told = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return repr(told)


def stamp_of_model(name: str, roots: list[Path], kind: str) -> str:
    """The `stamp` of a model that is chosen by name; "" where there is none, as loading tells."""
    from ..pipelines.models.layout import ModelError, find_model

    try:
        return stamp(find_model(name, roots, kind))
    except ModelError:
        return ""


class FolderNode(Node):
    """Loads a model from a folder as transformers saves it, under the host's models."""

    FOLDER: ClassVar[str]  # under the models
    KIND: ClassVar[str]  # of the model, as `find_model` takes it
    EXAMPLE: ClassVar[str]  # a model that can be fetched
    TOOLTIP: ClassVar[str]
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Input]]:
        from ..pipelines.models.layout import list_models

        names = list_models(host.roots(cls.FOLDER), cls.KIND)
        choice = FILES(names, f"put a model into models/{cls.FOLDER}", cls.TOOLTIP)
        return {"required": {"folder": choice}}

    @classmethod
    def IS_CHANGED(cls, folder: str, **_: Any) -> str:
        return stamp_of_model(folder, host.roots(cls.FOLDER), cls.KIND)

    def path(self, folder: str) -> Path:
        """The path of the chosen folder."""
        from ..pipelines.models.layout import find_model

        # Without a choice, search for the example: its error shows the command to download it.
        name = self.EXAMPLE if folder.startswith("(") else folder
        return find_model(name, host.roots(self.FOLDER), self.KIND)


class SavedNode(Node):
    """Loads a file that another node of the pack has saved."""

    FOLDER: ClassVar[str]  # under the output folder, and under the models
    WHAT: ClassVar[str]  # the file holds
    SAVER: ClassVar[str]  # the title of the node that saves it
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Input]]:
        files = host.own_files_in(cls.FOLDER, ".safetensors")
        choice = FILES(files, f"{cls.SAVER} writes to {cls.FOLDER}",
            f"A file under {cls.FOLDER} in the output folder or in models. A file saved just now "
            "shows after a refresh."
        )  # fmt: skip
        return {"required": {**cls.REQUIRED, "file": choice}}

    @classmethod
    def IS_CHANGED(cls, file: str, **_: Any) -> str:
        path = host.own_file(cls.FOLDER, file, ".safetensors")
        return "" if path is None else stamp(path)

    def read(self, file: str) -> tuple[str, dict[str, Any], dict[str, str]]:
        """The name, the tensors and the metadata of the chosen file."""
        from ..pipelines.models.tensor_file import read_tensors

        path = host.own_file(self.FOLDER, file, ".safetensors")
        if path is None:
            folders = " or ".join(map(str, host.own_folders(self.FOLDER)))
            raise ValueError(
                f"There is no file {file} in {folders}. Save {self.WHAT} first, refresh, and "
                "choose it."
            )
        return path.name, *read_tensors(path, self.WHAT)
