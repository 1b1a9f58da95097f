"""What every node prepares before it runs a model on a clip."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from . import host, layouts
from .live import Numbers
from .sockets import PIXEL_SIZE, Inversion

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipelines.inversion.trajectory import Trajectory
    from ..pipelines.models.denoiser import Denoiser
    from ..pipelines.models.grid import ClipGrid
    from ..pipelines.windows import Windows

# Rough bounds on what a model takes, in bytes per latent pixel and clip of a call: of a UNet
# without gradients, with them, and with them where activations are computed a second time.
BYTES, BYTES_WITH_GRADIENTS, BYTES_CHECKPOINTED = 20_000, 100_000, 30_000


@dataclass(frozen=True, eq=False)
class Run:
    """A model where it computes, with room for its work, and a clip on its latents."""

    model: Any
    z: "Tensor"  # the clip's latents, on the device of the model
    grid: "ClipGrid"
    pixel_size: tuple[int, int] | None  # of the clip before it was padded, if known
    picture: "Callable[[Tensor], Tensor] | None"  # of latents, for previews; None without a browser

    @property
    def denoiser(self) -> "Denoiser":
        """The model as a loop sees it."""
        return self.model.denoiser

    def windows(self, window: int, overlap: int) -> "Windows | None":
        """The windows in which the clip goes through the model; None if it goes in at once.

        A `window` of 0 is as many frames as the model takes: all, or the most that it knows.
        """
        from ..pipelines.windows import Windows

        length = window or self.model.max_frames
        return Windows(length, overlap) if length and self.z.shape[2] > length else None

    def latent(self, z: "Tensor") -> dict[str, Any]:
        """Model latents as a LATENT that Video VAE Decode brings back to the clip's size."""
        samples = layouts.samples_of(z, self.model.scaling_factor, self.model.shift_factor)
        size = {} if self.pixel_size is None else {PIXEL_SIZE: self.pixel_size}
        return {"samples": samples, **size}

    def shows(self, steps: int) -> "Callable[..., None]":
        """Progress, previews, plot and Cancel of a loop: call it with the result of each step."""
        bar, numbers, picture = host.progress(steps), Numbers(steps), self.picture

        def show(done: int, z: "Tensor", values: Mapping[str, float] | None = None) -> None:
            if values is not None:
                numbers.add(done, values)
            bar(done, picture and (lambda: picture(z)))

        return show


def prepared(model, latent: dict[str, Any], *, rows: int = 1, each: int = BYTES) -> Run:
    """A run on a LATENT. The model gets `rows` clips at once, of `each` bytes a latent pixel."""
    samples = layouts.samples_to_edit(latent)
    z = layouts.latents_of(samples, model.scaling_factor, model.shift_factor)
    return _run(model, z, latent.get(PIXEL_SIZE), rows * each)


def along(model, prompts, inversion: Inversion, *, rows: int) -> "tuple[Run, Trajectory]":
    """A run along an inverted clip, and its trajectory, on the model's device.

    Raises:
        ValueError: if another model, or another source prompt, made the trajectory.
    """
    path = inversion.trajectory
    path.require(model=model.fingerprint, prompt=prompts.source)
    run = _run(model, path.latents[0], inversion.pixel_size, rows * BYTES)
    return run, replace(path, latents=path.latents.to(model.device))


def _run(model, z, pixel_size: tuple[int, int] | None, memory: int) -> Run:
    from ..pipelines.models.grid import ClipGrid

    factor = model.vae_factor
    whole = z.shape[3] * factor, z.shape[4] * factor
    grid = ClipGrid(tuple(z.shape[2:]), pixel_size or whole, factor)
    # Before the model itself, which may leave no room for the autoencoder.
    picture = picture_of(model, z)
    host.load(model, "unet", memory=memory * z[:, :1].numel())
    return Run(model, z.to(model.device), grid, pixel_size, picture)


def picture_of(model, z):
    """A map from latents `[1, c, f, h, w]` to a rough picture of a frame; None without a browser.

    Each call shows the next frame, so that the clip plays while it changes. Fitted to the middle
    frame of the clip.
    """
    if not host.shows_previews():
        return None
    from ..pipelines.models.preview import fit_preview

    middle = z.shape[2] // 2
    host.load(model, "vae")
    latent = z[:, :, middle] / model.scaling_factor + model.shift_factor
    picture = fit_preview(z[0, :, middle], model.decode_frames(latent)[0] / 2 + 0.5)
    calls = count()
    return lambda z: picture(z[0, :, next(calls) % z.shape[2]])
