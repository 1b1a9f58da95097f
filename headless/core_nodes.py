"""The host's core nodes that workflows of this pack use, as stand-ins, bound to a run's folders.

Ids, inputs, their order, defaults and ranges, and outputs are those of ComfyUI 0.8.0.
"""

from __future__ import annotations

from . import core_images, core_masks, core_values, core_video
from .paths import Folders

CORE_NODES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        core_video.LoadVideo,
        core_video.GetVideoComponents,
        core_video.CreateVideo,
        core_video.SaveVideo,
        core_images.LoadImage,
        core_images.LoadImageMask,
        core_images.SaveImage,
        core_images.PreviewImage,
        core_images.ImageScale,
        core_images.ImageFromBatch,
        core_images.RepeatImageBatch,
        core_masks.MaskToImage,
        core_masks.ImageToMask,
        core_masks.SolidMask,
        core_masks.InvertMask,
        core_masks.ThresholdMask,
        core_masks.GrowMask,
        core_masks.MaskPreview,
        core_masks.ImageCompositeMasked,
        core_values.PrimitiveString,
        core_values.PrimitiveStringMultiline,
        core_values.PrimitiveInt,
        core_values.PrimitiveFloat,
        core_values.PrimitiveBoolean,
        core_values.PreviewAny,
    )
}


def core_nodes(folders: Folders) -> dict[str, type]:
    """The stand-ins for one run: those that touch files know its folders and no others."""
    return {name: type(name, (cls,), {"folders": folders}) for name, cls in CORE_NODES.items()}
