"""What every node does before it runs a model on a clip."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from . import host, layouts
from .live import Numbers, tell
from .sockets import FRAMES, PIXEL_SIZE, Inversion

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipelines.inversion.trajectory import Trajectory
    from ..pipelines.models.denoiser import Denoiser
    from ..pipelines.models.grid import ClipGrid
    from ..pipelines.windows import Windows

Result = TypeVar("Result")

# Rough upper bounds for the memory of a UNet, in bytes per latent pixel and clip of a call: without
# gradients, with gradients, and with gradients and checkpointing.
BYTES, BYTES_WITH_GRADIENTS, BYTES_CHECKPOINTED = 20_000, 100_000, 30_000


@dataclass(frozen=True, eq=False)
class Run:
    """A model on its device, with memory for its work, and the latents and the grid of a clip."""

    model: Any
    z: "Tensor"  # the clip's latents, on the device of the model
    grid: "ClipGrid"
    picture: "Callable[[Tensor], Any] | None"  # makes previews of latents; None without a browser
    note: str = ""  # what was told of the latents when the run began

    def run(self, work: "Callable[[Denoiser], Result]") -> "Result":
        """Call `work` with the denoiser, and return its result."""
        return self.model.run(self.z, work)

    def windows(self, window: int, overlap: int) -> "Windows | None":
        """The windows in which the clip goes through the model; None if all frames go at once.

        `window` and `overlap` are in frames of the clip. A `window` of 0 means the most that the
        model takes: all frames, or its `max_frames`, of which an anchor takes one latent frame.
        """
        from ..pipelines.windows import Windows

        frames = window or self.model.max_frames
        if not frames or self.grid.frames <= frames:
            return None
        stride, length = self.grid.stride, self.grid.latent_frames(frames)
        anchored = stride > 1
        return Windows(length - (anchored and not window), -(-overlap // stride), anchored)

    def latent(self, z: "Tensor") -> dict[str, Any]:
        """Model latents as a LATENT, with the size of the clip for Video VAE Decode."""
        samples = layouts.samples_of(z, self.model)
        return {"samples": samples, PIXEL_SIZE: self.grid.pixels, FRAMES: self.grid.frames}

    def tell(self, *notes: str) -> str:
        """As `live.tell`; what was told when the run began stays."""
        return tell(*notes, before=self.note)

    def shows(self, steps: int) -> "Callable[..., None]":
        """Progress, previews, plot and Cancel of a loop: call it after each step."""
        bar, numbers, picture = host.progress(steps), Numbers(steps), self.picture

        def show(done: int, z: "Tensor", values: Mapping[str, float] | None = None) -> None:
            if values is not None:
                numbers.add(done, values)
            bar(done, picture and (lambda: picture(z)))

        return show


def prepared(model, latent: dict[str, Any], *, rows: int = 1, each: int = BYTES) -> Run:
    """A run on a LATENT. A call has `rows` clips, each with `each` bytes per latent pixel."""
    note = tell(layouts.note_on_mask(latent))
    z = layouts.latents_of(latent["samples"], model)
    run = _run(model, z, latent.get(PIXEL_SIZE), latent.get(FRAMES), rows * each)
    return replace(run, note=note)


def along(model, prompts, inversion: Inversion, *, rows: int) -> "tuple[Run, Trajectory]":
    """A run along an inverted clip, and its trajectory on the model's device.

    Raises:
        ValueError: if the trajectory was made with another model or another source prompt.
    """
    path = inversion.trajectory
    path.require(model=model.fingerprint, prompt=prompts.source)
    run = _run(model, path.latents[0], inversion.pixel_size, inversion.frames, rows * BYTES)
    return run, replace(path, latents=path.latents.to(model.device))


def own(model, what: str) -> None:
    """Check that ReScore has loaded the model itself, because `what` needs that.

    Raises:
        ValueError: for the host's own MODEL; the message names `what`.
    """
    if model.kind == "native":
        raise ValueError(
            f"{what} needs a model that ReScore loads itself, and {model.name} is ComfyUI's own "
            "MODEL. Use Load Video Model, Load Image Model or Load Shape-World Model for it."
        )


def of_stable_diffusion(model, what: str) -> None:
    """As `own`, and check that the model is no transformer and no cascade.

    Raises:
        ValueError: for another model; the message names `what`.
    """
    own(model, what)
    others = {"wan": "a transformer", "cascade": "a cascade of pixels"}
    if model.kind in others:
        raise ValueError(
            f"{what} works on UNets of Stable Diffusion and their kin, and {model.name} is "
            f"{others[model.kind]}. Load a model with Load Image Model for it."
        )


def decoded(
    model,
    samples: "Tensor",
    *,
    size: tuple[int, int] | None,
    frames: int | None,
    frames_per_chunk: int = 8,
    on_chunk: "Callable[[int, int], None] | None" = None,
) -> "Tensor":
    """The clip `[1, 3, f, H, W]` of the samples of a LATENT, without padding.

    The autoencoder must be loaded; see `host.load`.
    """
    from ..pipelines.models.codec import decode_video

    latents = layouts.unscaled_of(samples, model)
    if model.whole_clips:
        if frames and 1 - (1 - frames) // model.vae_stride != latents.shape[2]:
            frames = None  # from another clip: these latents were cut or joined
        return model.decode_clip(latents, size=size, frames=frames, on_chunk=on_chunk)
    return decode_video(
        latents,
        model.decode_frames,
        size=size,
        frames_per_chunk=frames_per_chunk,
        on_chunk=on_chunk,
    )


def _run(model, z, pixel_size: tuple[int, int] | None, frames: int | None, memory: int) -> Run:
    from ..pipelines.models.grid import ClipGrid

    factor, stride = model.vae_factor, model.vae_stride
    whole = z.shape[3] * factor, z.shape[4] * factor
    cells = tuple(z.shape[2:])
    # Latents that were cut or joined still have the number of frames of the first clip.
    if frames and ClipGrid(cells, whole, factor, stride).latent_frames(frames) != cells[0]:
        frames = None
    grid = ClipGrid(cells, pixel_size or whole, factor, stride, frames)
    # Before the model is loaded, because then there may be no room for the autoencoder.
    picture = picture_of(model, z)
    host.load(model, "network", memory=memory * z[:, :1].numel())
    return Run(model, z.to(model.device), grid, picture)


def picture_of(model, z):
    """Makes a rough picture of a frame from latents `[1, c, f, h, w]`; None without a browser.

    Each call shows the next frame, so that the clip plays while it changes. The map is fitted to
    one frame of the clip. The host's own MODEL uses the host's previews.
    """
    if not host.shows_previews():
        return None
    if model.kind == "native":
        return model.picture()
    from ..pipelines.models.preview import fit_preview

    host.load(model, "vae")
    if model.whole_clips:
        shown = 0  # the only latent frame that stands for one picture
        pixels = model.decode_clip(model.latents_out(z[:, :, :1]))[0, :, 0]
    else:
        shown = z.shape[2] // 2
        latent = model.latents_out(z[:, :, shown : shown + 1])[:, :, 0]
        pixels = model.decode_frames(latent)[0] / 2 + 0.5
    picture = fit_preview(z[0, :, shown], pixels)
    calls = count()
    return lambda z: picture(z[0, :, next(calls) % z.shape[2]])
