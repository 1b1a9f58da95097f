"""The node that puts two clips beside each other."""

from typing import Any

from . import host, layouts


class CompareClips:
    """Two clips of equal length, side by side."""

    DESCRIPTION = (
        "Puts two clips side by side, or one above the other, frame by frame: source against edit."
    )
    CATEGORY = f"{host.CATEGORY}/compare"
    FUNCTION = "compare"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    OUTPUT_TOOLTIPS = ("One picture per frame, for Create Video or Preview Image.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "source": ("IMAGE", {"tooltip": "The clip shown first: left, or above."}),
                "edited": ("IMAGE", {"tooltip": "The clip shown second, of the same size."}),
                "layout": (
                    ["side by side", "one above the other"],
                    {
                        "default": "side by side",
                        "tooltip": "How the two are put together. Wide clips read better one above "
                        "the other.",
                    },
                ),
                "gap": (
                    "INT",
                    {
                        "default": 4,
                        "min": 0,
                        "max": 256,
                        "step": 2,
                        "tooltip": "White pixels between the two.",
                    },
                ),
            }
        }

    def compare(self, source, edited, layout: str, gap: int):
        from ..pipelines.compare import side_by_side

        clips = layouts.clip_from_image(source), layouts.clip_from_image(edited)
        together = side_by_side(*clips, vertical=layout == "one above the other", gap=gap)
        return (layouts.image_from_clip(together),)


NODE_CLASS_MAPPINGS = {"ReScoreCompareClips": CompareClips}
NODE_DISPLAY_NAME_MAPPINGS = {"ReScoreCompareClips": "Compare Clips"}
