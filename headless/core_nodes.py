"""The host's core nodes that graphs of this pack use, as stand-ins, bound to a run's folders.

Ids, inputs, their order, defaults and ranges, and outputs are those of ComfyUI 0.8.0. What hosts up
to 0.33 added is in the group "later" of a node's inputs and in its `LATER_RETURN_TYPES`, so that
graphs saved by them run, too.
"""

from __future__ import annotations

from . import core_images, core_masks, core_video
from .paths import Folders

CORE_NODES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        core_video.LoadVideo,
        core_video.GetVideoComponents,
        core_video.CreateVideo,
        core_video.SaveVideo,
        core_images.LoadImage,
        core_images.SaveImage,
        core_images.PreviewImage,
        core_masks.SolidMask,
        core_masks.MaskToImage,
        core_masks.ImageToMask,
        core_masks.ThresholdMask,
        core_masks.ImageCompositeMasked,
    )
}


def core_nodes(folders: Folders) -> dict[str, type]:
    """The stand-ins for one run: those that touch files know its folders and no others."""
    return {name: type(name, (cls,), {"folders": folders}) for name, cls in CORE_NODES.items()}
