"""Nodes that cut the region of an edit out of a clip, paste it back, and restore the source."""

from . import host, layouts
from .sockets import REGION
from .widgets import BOOLEAN, FLOAT, INT, SOCKET, Node, outputs

CATEGORY = f"{host.CATEGORY}/region"


class CropToRegion(Node):
    TITLE = "Crop to Region"
    SEARCH_ALIASES = ["crop and stitch", "inpaint crop", "zoom to mask", "crop by mask"]
    DESCRIPTION = (
        "Cuts out of a clip the box in which a mask is white in any frame, and scales it to the "
        "size that the model knows best. A small object in a large clip is then edited with all "
        "the model's pixels, in a fraction of memory and time. Paste Region puts it back."
    )
    CATEGORY = CATEGORY
    FUNCTION = "crop"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        images=("IMAGE", "The box of every frame, scaled: the clip to edit."),
        mask=("MASK", "The mask within the box, scaled alike: for the edit's own mask inputs."),
        region=(REGION, "Where the box lies, for Paste Region."),
    )
    REQUIRED = {
        "images": SOCKET("IMAGE", "The whole clip, of any size."),
        "mask": SOCKET("MASK",
            "White is what is to change; one mask for the clip, or one for each frame."),
        "margin": FLOAT(0.25, 0, 4, 0.05,
            "How much around the mask the model also sees, as a share of the mask's longer side. "
            "If the edit does not fit its surroundings, raise it; if the object is too small for "
            "the model, lower it."),
        "width": INT(512, 16, 8192, "The model's own width, such as 576 for ZeroScope.", step=8),
        "height": INT(512, 16, 8192, "The model's own height, such as 320 for ZeroScope.", step=8),
        "multiple": INT(8, 1, 128,
            "Width and height become whole multiples of this: 8 for most models, 16 for Wan 2.1, "
            "32 for Wan 2.2 5B and LTX.", advanced=True),
    }  # fmt: skip

    def crop(self, images, mask, margin: float, width: int, height: int, multiple: int):
        from ..pipelines.masks.region import cut, cut_mask, find_region

        clip = layouts.clip_from_image(images)
        region = find_region(
            layouts.masks_of(mask),
            tuple(clip.shape[2:]),
            size=(height, width),
            margin=margin,
            multiple=multiple,
        )
        return layouts.image_from_clip(cut(clip, region)), cut_mask(region), region


class PasteRegion(Node):
    TITLE = "Paste Region"
    SEARCH_ALIASES = ["crop and stitch", "uncrop", "inpaint stitch", "composite crop"]
    DESCRIPTION = (
        "Puts an edited region back into its clip. Where the mask is black, every pixel stays "
        "exactly the source's; within it the edge is soft, and the colours are matched to what "
        "lies around."
    )
    CATEGORY = CATEGORY
    FUNCTION = "paste"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        images=("IMAGE", "The whole clip with the edit in it, of the source's size."),
    )
    REQUIRED = {
        "images": SOCKET("IMAGE", "The edited region, from Video VAE Decode."),
        "source": SOCKET("IMAGE", "The whole clip that Crop to Region was given."),
        "region": SOCKET(REGION, "From Crop to Region, with this very source."),
        "feather": FLOAT(4, 0, 512, 0.5,
            "Pixels over which the edge of the edit is soft, inside the mask; 0 keeps it hard. If "
            "there is a seam, raise it; if the edit fades at its edge, lower it."),
        "match_colours": BOOLEAN(True,
            "Shifts the colours of the edit so that around the mask they are the source's. Off "
            "where the surroundings were edited on purpose."),
    }  # fmt: skip

    def paste(self, images, source, region, feather: float, match_colours: bool):
        from ..pipelines.masks.region import paste

        clips = layouts.clip_from_image(images), layouts.clip_from_image(source)
        whole = paste(*clips, region, feather=feather, match_colours=match_colours)
        return (layouts.image_from_clip(whole),)


class RestoreSource(Node):
    TITLE = "Restore Source"
    SEARCH_ALIASES = ["color match", "fix VAE colour shift", "restore detail", "keep background"]
    DESCRIPTION = (
        "Takes out of an edit what the VAE alone has changed: it measures that on the source, "
        "encoded and decoded without an edit. Where the edit changed nothing, the pixels are the "
        "source's again, without any mask."
    )
    CATEGORY = CATEGORY
    FUNCTION = "restore"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        images=("IMAGE", "The edit, with the source's colours and detail where it is not edited."),
    )
    REQUIRED = {
        "images": SOCKET("IMAGE", "The edit, from Video VAE Decode."),
        "source": SOCKET("IMAGE", "The clip that was edited."),
        "reconstruction": SOCKET("IMAGE",
            "The source through the same VAE: its own latent from Video VAE Encode, decoded."),
        "threshold": FLOAT(0.1, 0.001, 1, 0.005,
            "From which difference on a pixel counts as edited and stays as it is, as a share of "
            "white. If traces of the old object show, lower it; if the background still shifts, "
            "raise it."),
    }  # fmt: skip

    def restore(self, images, source, reconstruction, threshold: float):
        from ..pipelines.masks.restoration import restored

        clips = map(layouts.clip_from_image, (images, source, reconstruction))
        return (layouts.image_from_clip(restored(*clips, threshold=threshold)),)


NODE_CLASS_MAPPINGS = {
    "ReScoreCropToRegion": CropToRegion,
    "ReScorePasteRegion": PasteRegion,
    "ReScoreRestoreSource": RestoreSource,
}
