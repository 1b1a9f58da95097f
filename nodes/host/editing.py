"""The distillation loop as the host's own types: a GUIDER and a SAMPLER for its sampling nodes."""

from collections.abc import Sequence
from typing import Any

import comfy.samplers
import torch
from torch import Tensor
from torch.nn import functional

from ...attention.layers import Control
from ...pipelines.distillation.score_distillation import Progress, Settings, distil
from ...pipelines.distillation.terms import Weighted
from ...pipelines.models.denoiser import Prompts
from ...pipelines.models.grid import ClipGrid
from ...pipelines.models.process import Tabled
from ...pipelines.unchanged import why_not_distilled
from ..live import tell
from . import check_cancelled
from .conditioning import key_of
from .native import (
    SIDES,
    SidedGuider,
    as_hosts,
    as_ours,
    check_model,
    check_sides,
    is_by_frame,
    process_of,
)

# Pixels and frames per latent one, for hosts whose latent formats do not say it, such as 0.8.
_FACTORS = {"LTXV": 32, "Wan22": 16, "HunyuanVideo15": 16}
_STRIDES = {"LTXV": 8, "Mochi": 6}


class EditGuider(SidedGuider):
    """A guider with the source, target and negative prompt of an edit.

    The source may have a negative prompt of its own, `source_negative`.
    With a sampler of the host it guides to the target prompt, as CFGGuider does.

    Raises, when made:
        ValueError: if the model makes anything else than pictures or videos.
    """

    def __init__(self, patcher: Any, conditionings: dict[str, list], cfg: float) -> None:
        check_model(patcher)
        super().__init__(patcher)
        # Whether the model hears no difference between the two prompts.
        self.alike = key_of(conditionings["source"]) == key_of(conditionings["target"])
        self.has_source_negative = "source_negative" in conditionings
        self.inner_set_conds({SIDES[side]: given for side, given in conditionings.items()})
        self.set_cfg(cfg)

    def sample(
        self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None,
        disable_pbar=False, seed=None,
    ):  # fmt: skip
        """Called by the host's sampling nodes."""
        if isinstance(sampler, Distilling):
            sampler = sampler.masked(denoise_mask)
            # The loop applies the mask itself. Some models would also use it if the host had it.
            denoise_mask = None
            sampler.check(self.model_patcher, latent_image, sigmas)
        return super().sample(
            noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed
        )


class Distilling(comfy.samplers.Sampler):
    """The distillation loop as a SAMPLER, with levels drawn from the SIGMAS that it gets."""

    def __init__(
        self,
        terms: Sequence[Weighted],
        settings: dict[str, Any],
        controls: Sequence[Control] = (),
        mask: Tensor | None = None,
    ) -> None:
        """`settings` are those of the loop, by name, without cfg, seed, t_min and t_max."""
        self.terms, self.settings, self.controls, self.mask = terms, settings, controls, mask

    def masked(self, mask: Tensor | None) -> "Distilling":
        """The same loop, limited to the noise mask of a LATENT."""
        return Distilling(self.terms, self.settings, self.controls, mask)

    def check(self, patcher: Any, latent: Tensor, sigmas: Tensor) -> None:
        """Check the inputs before the model is loaded.

        Raises:
            ValueError: for an empty latent, a latent of another model, or sigmas that the model
                does not have.
        """
        name, latents = type(patcher.model).__name__, patcher.model.latent_format
        if getattr(latent, "is_nested", False):
            raise ValueError(
                "The latent packs sound and video together. ReScore edits video alone."
            )
        wanted = latents.latent_dimensions + 2
        if latent.ndim != wanted or latent.shape[1] != latents.latent_channels:
            raise ValueError(
                f"The latent has shape {list(latent.shape)}, and {name} takes {wanted} dimensions "
                f"with {latents.latent_channels} channels. Encode the clip with the model's VAE."
            )
        check_sides(patcher, latent)
        if wanted == 5 and len(latent) != 1:
            raise ValueError(f"The latent holds {len(latent)} clips. Edit one at a time.")
        if not bool(latent.any()):
            raise ValueError("The latent is empty: an edit begins with a clip. Encode one.")
        _check_sigmas(sigmas, patcher, name)
        count = len(self._levels(sigmas)) - 1
        if self.falls and self.settings["steps"] > count:
            raise ValueError(
                f"{self.settings['steps']} steps in descending order need as many SIGMAS and the "
                f"one they end at, and there are {count} and that one. Set steps to {count}, or "
                f"give the scheduler {self.settings['steps']} steps or more."
            )

    @property
    def falls(self) -> bool:
        """Whether the levels are taken in descending order."""
        return self.settings.get("order") == "descending"

    def _levels(self, sigmas: Tensor) -> Tensor:
        """The sigmas of the levels. In descending order the last step may go to the clip, at 0."""
        return sigmas if self.falls else sigmas[sigmas > 0]

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None,
        denoise_mask=None, disable_pbar=False,
    ):  # fmt: skip
        """Called by the host during its sampling."""
        if not isinstance(model_wrap, EditGuider):
            raise ValueError(
                "Distillation Sampler needs a source prompt: wire Edit Guider to guider."
            )
        patcher, guider = model_wrap.model_patcher, model_wrap
        by_frame = is_by_frame(patcher)
        z = as_ours(latent_image, by_frame)
        grid = _grid(patcher, z)
        # In place of a conditioning, the loop gets its number.
        numbers = {side: torch.full((1, 1, 1), float(i)) for i, side in enumerate(SIDES)}
        sides = [*SIDES.values()]
        process = Tabled(process_of(patcher, self._levels(sigmas).flip(0)).levels)
        denoiser = guider.denoiser(
            type(patcher.model).__name__, process, lambda cond: sides[int(cond)], extra_args
        )
        prompts = Prompts(**{side: numbers[side] for side in Prompts._fields})
        settings = Settings(
            cfg=guider.cfg, seed=extra_args["seed"] or 0, t_min=0, t_max=1, **self.settings
        )

        def show(now: Progress) -> None:
            check_cancelled()
            if callback is not None:
                shown = as_hosts(now.z, by_frame)
                callback(now.step - 1, shown, shown, now.steps)

        mask = self._mask(grid)
        state = distil(
            z, self.terms, denoiser, prompts, settings,
            controls=self.controls, mask=mask, grid=grid, on_step=show,
            source_negative=numbers["source_negative"] if guider.has_source_negative else None,
        )  # fmt: skip
        tell(why_not_distilled(state.z, z, self.terms, guider.alike, settings, grid, mask))
        return as_hosts(state.z, by_frame)

    def _mask(self, grid: ClipGrid) -> Tensor | None:
        """The noise mask of a LATENT as a mask for pictures.

        It may hold one mask, a mask for each picture, or a mask for each latent frame.
        """
        if self.mask is None:
            return None
        mask = self.mask.reshape(-1, *self.mask.shape[-2:]).float().clamp(0, 1)
        if len(mask) != grid.latent[0] or len(mask) == 1:
            return mask
        shares = functional.interpolate(mask[None], grid.latent[1:], mode="area")
        return grid.cells(shares[0])


def _grid(patcher: Any, z: Tensor) -> ClipGrid:
    latents = patcher.model.latent_format
    name = type(latents).__name__
    factor = getattr(latents, "spacial_downscale_ratio", _FACTORS.get(name, 8))
    known = 1 if is_by_frame(patcher) else _STRIDES.get(name, 4)
    stride = getattr(latents, "temporal_downscale_ratio", known)
    size = tuple(z.shape[2:])
    return ClipGrid(size, (size[1] * factor, size[2] * factor), factor, stride)


def _check_sigmas(sigmas: Tensor, patcher: Any, name: str) -> None:
    if not bool((sigmas > 0).any()):
        raise ValueError(
            "The SIGMAS are empty: there is no level of noise to edit at. Use a scheduler with at "
            "least one step."
        )
    if bool((sigmas.diff() >= 0).any()):
        raise ValueError("The SIGMAS must fall from noise to 0. Leave out Flip Sigmas.")
    largest = float(patcher.get_model_object("model_sampling").sigma_max)
    if float(sigmas.max()) > 1.001 * largest:
        raise ValueError(
            f"The SIGMAS go up to {float(sigmas.max()):.4g}, and {name} knows levels up to "
            f"{largest:.4g}: they are another model's. Wire the same MODEL to the scheduler."
        )
