"""Run once by ComfyUI-Manager, or by hand: puts the clips that the graphs edit where they look.

They are copied from workflows/input into ComfyUI's input folder, where no file is replaced.
"""

import shutil
from pathlib import Path

PACK = Path(__file__).absolute().parent  # where the host sees it, also through a link


def copy_clips(pack: Path) -> None:
    """Copies the clips, or says who must if the pack does not lie in a ComfyUI."""
    clips, folder = pack / "workflows" / "input", pack.parent.parent / "input"
    if pack.parent.name != "custom_nodes" or not folder.is_dir():
        print(f"ReScore: copy the files of {clips} into ComfyUI's input folder; it was not found.")
        return
    for clip in sorted(clips.iterdir()):
        if not (folder / clip.name).exists():
            shutil.copyfile(clip, folder / clip.name)


if __name__ == "__main__":
    copy_clips(PACK)
