"""Whether an edit can be seen, and if it cannot, what is likely to blame."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.layers import Control
from .distillation.settings import Settings
from .distillation.terms import Weighted, mask_on_grid
from .models.denoiser import Prompts
from .models.grid import ClipGrid
from .models.process import Latents
from .steps import acts

# A latent that moves by so much of the clip's contrast changes its pixels by 3 to 6 of 255 levels
# (measured on the shape world's autoencoder): less is not seen in a moving picture.
VISIBLE = 0.03
_LOW, _HIGH = 0.3, 0.9  # of the clock: below, only detail is drawn; above, hardly any of the clip

_FAINT = 0.1  # a mask that covers less of every latent pixel slows an edit down more than tenfold

UNSEEN = "Next to nothing has changed. "
_UNLED = "The target prompt has had no say. "
BLACK = (
    "The mask is black everywhere. White is where the edit acts. Load Image gives a black mask for "
    "a picture without transparency, such as a JPEG: take Load Image (as Mask) with the channel "
    "red for it, or leave the mask out."
)
_ALIKE = (
    "Source and target prompt encode alike: they are the same, they differ in words that the model "
    "does not know, or they differ only after the words that it reads."
)


def moved(z: Latents, z_source: Latents) -> float:
    """How far the latent that has moved most lies from the source's, in the clip's contrast.

    The distance of a latent is the root of its mean square over channels; the contrast is the
    standard deviation of the clip's latents.
    """
    apart = (z.to(z_source) - z_source).square().mean(dim=1).sqrt().max()
    return float(apart / z_source.std().clamp(min=torch.finfo(z_source.dtype).tiny))


def same_prompts(prompts: Prompts) -> bool:
    """Whether the model hears no difference between source and target prompt."""
    source, target = prompts.source, prompts.target
    return source.shape == target.shape and torch.equal(source, target.to(source))


def why_not_distilled(
    z: Latents,
    z_source: Latents,
    terms: Sequence[Weighted],
    alike: bool,
    settings: Settings,
    grid: ClipGrid,
    mask: Float[Tensor, "n H W"] | None = None,
) -> str:
    """That score distillation has led to nothing new, and the likely cause; "" where it has.

    `z` is where it has led; `alike` says that the prompts encode alike; the rest is what the loop
    was given. A single step may be small: that alone is no cause. Where masks or weights leave the
    target prompt no say, a clip that has changed all the same is told, too: terms that hold the
    source move it a little.
    """
    distance = moved(z, z_source)
    seen = distance >= VISIBLE
    cause = _why_unled(z, terms, settings, grid, mask)
    if cause:
        return (_UNLED if seen else UNSEEN) + cause
    cause = "" if seen else _why_unseen(distance, z, terms, alike, settings, grid, mask)
    return cause and UNSEEN + cause


def _why_unled(
    z: Latents,
    terms: Sequence[Weighted],
    settings: Settings,
    grid: ClipGrid,
    mask: Float[Tensor, "n H W"] | None,
) -> str:
    """Why no step can have led to the target prompt; "" where one can, and without any step."""
    made = min(settings.stop_after or settings.steps, settings.steps)
    acting = [
        entry for entry in terms if any(entry.active(step, settings.steps) for step in range(made))
    ]
    leading = [entry for entry in acting if not getattr(entry.term, "holds", False)]
    if made == 0:
        return ""
    if not acting:
        return "No term took part: their weights are 0, or start and end leave them no step."
    if not leading:
        return (
            "Nothing leads to the target prompt: the terms that took part only hold the source. "
            "Add Delta Denoising, or give it a weight above 0."
        )
    of_all = () if mask is None else (mask,)
    whites = [_white((*of_all, *entry.masks), z, grid) for entry in leading]
    if any(whites):
        return ""
    each = {id(m): m for entry in leading for m in (*of_all, *entry.masks)}.values()
    if all(bool(part.any()) for part in each):
        return (
            "The masks of the edit and its terms (Gradient Mask) leave nothing: each is black "
            "where another is white."
        )
    return BLACK


def _white(masks: Sequence[Tensor], z: Latents, grid: ClipGrid) -> float:
    """The most that masks together leave of any latent pixel, 0..1."""
    return float(mask_on_grid(masks, z, grid).max())


def _why_unseen(
    distance: float,
    z: Latents,
    terms: Sequence[Weighted],
    alike: bool,
    settings: Settings,
    grid: ClipGrid,
    mask: Float[Tensor, "n H W"] | None,
) -> str:
    """Why an edit that could have led somewhere is not seen."""
    made = min(settings.stop_after or settings.steps, settings.steps)
    if made == 0:
        return "No step was made: steps is 0."
    if settings.step_size == 0:
        return "step_size is 0, as Edit Strength gives it for strength 0: no step goes anywhere."
    if alike:
        return _ALIKE
    if settings.cfg == 0:
        return "cfg is 0, so that no prompt is heard. 7 to 12 is usual."
    if settings.t_max <= _LOW:
        return (
            f"t_max is {settings.t_max:g}: only low levels of noise are drawn, which change fine "
            "detail. Raise it, 0.95 to start with."
        )
    if settings.t_min >= _HIGH:
        return (
            f"t_min is {settings.t_min:g}: only high levels of noise are drawn, at which hardly "
            "anything of the clip is seen. Lower it, 0.05 to start with."
        )
    if distance == 0:
        return "The model predicts the same for both prompts. Make their difference more explicit."
    of_all = () if mask is None else (mask,)
    white = max(_white((*of_all, *entry.masks), z, grid) for entry in terms)
    if white < _FAINT:
        return (
            f"The mask is tiny or faint: it covers at most {white:.2g} of a latent pixel. Grow it "
            "(Grow and Feather Mask), or make it brighter."
        )
    if made == 1:
        return ""  # of a chain of single steps, each of which is small
    factor = VISIBLE / distance
    return (
        f"The steps are too small: {made} of {settings.step_size:g}. Raise step_size or steps, by "
        f"{max(2, round(factor))} times to begin with, or cfg (now {settings.cfg:g})."
    )


def why_not_sampled(
    z: Latents,
    z_source: Latents,
    controls: Sequence[Control],
    alike: bool,
    cfg: float | int,
    steps: int,
) -> str:
    """That sampling along a trajectory edits nothing, and why; "" where something changed.

    `z` is what was sampled; `alike` says that the prompts encode alike; the rest is what the
    sampling was given. No inversion finds a clip back exactly, so equal prompts are told even where
    the clip has changed.
    """
    if not alike and moved(z, z_source) >= VISIBLE:
        return ""
    return UNSEEN + _why_unsampled(controls, alike, cfg, steps)


def _why_unsampled(controls: Sequence[Control], alike: bool, cfg: float | int, steps: int) -> str:
    if alike:
        return _ALIKE
    if cfg == 0:
        return "cfg is 0, so that no prompt is heard. 7.5 to 9 is usual."
    for control in controls:
        if all(acts(control.start, control.end, step, steps) for step in range(steps)):
            return (
                f"{control.name} holds the source in every step. Let it end earlier, or switch it "
                "off."
            )
    return f"The guidance is too weak: raise cfg (now {cfg:g}), or let controls end earlier."
