"""The finished models that come with the pack: where they are."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"


def require(path: Path) -> Path:
    """The same file or folder of a finished model.

    Raises:
        FileNotFoundError: if the pack was installed without it.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing. It comes with the pack: install the pack again, whole."
        )
    return path
