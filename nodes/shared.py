"""Inputs that several nodes share."""

from typing import Any

from .sockets import MODEL, PROMPTS, TRAJECTORY
from .widgets import FLOAT, INT, SOCKET, Input

PROMPT_PAIR = SOCKET(PROMPTS, "From Encode Prompt Pair, same model.")
SOURCE_LATENT = SOCKET("LATENT", "The source clip, from Video VAE Encode.")
CFG = FLOAT(9, 0, 100, 0.1,
    "Guidance scale: uncond + cfg * (cond - uncond). 7 to 12 is usual. If the edit is too weak, "
    "raise it; if colours saturate, lower it. 1 is without guidance and takes half the time."
)  # fmt: skip
SEED = INT(0, 0, 0xFFFFFFFF,
    "Draws the noises, and the timesteps where they are random; the same seed gives the same edit "
    "on every device."
)  # fmt: skip
WINDOWS = {
    "window": INT(0, 0, 1024,
        "Frames the model sees at once; 0 is the whole clip, or as many frames as the model knows. "
        "16 edits a clip of any length with the memory of 16 frames."),
    "overlap": INT(4, 0, 512,
        "Frames that neighbouring windows share and blend. If the clip jumps where windows meet, "
        "raise it; a quarter of the window is usual.", advanced=True),
}  # fmt: skip
INVERTED = {
    "model": SOCKET(MODEL, "The model the clip was inverted with."),
    "prompts": SOCKET(PROMPTS, "The prompts it was inverted with."),
    "trajectory": SOCKET(TRAJECTORY, "The inverted clip, from DDIM Inversion."),
}


def NOISE_SEED(made: str) -> Input:
    """A seed that draws nothing but noise; `made` is what the node makes."""
    return INT(
        0, 0, 0xFFFFFFFF,
        f"Draws the noise; the same seed gives the same {made} on every device.",
    )  # fmt: skip


def FIXED_SEED(tooltip: str, **options: Any) -> Input:
    """A seed that the front end does not change after a run, so that the run can be resumed."""
    return INT(0, 0, 0xFFFFFFFF, tooltip, control_after_generate=False, **options)
