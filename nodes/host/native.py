"""ComfyUI's own MODEL as a model for our loops, which run inside the host's sampling.

The host prepares sampling as for its own samplers (loading, memory, hooks, wrappers, injections).
Then it calls a sampler of ours, in which a whole loop runs. So all changes that the host's nodes
have made to a MODEL also act here.
"""

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, TypeVar

import comfy.model_patcher
import comfy.samplers
import latent_preview
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ...pipelines.models.denoiser import Cond, Denoiser, LatentSpace, Prompts
from ...pipelines.models.process import Latents, Level, Tabled
from ...pipelines.models.text import EncodedPrompt
from .attention import layers_of, watched, with_graph
from .conditioning import handle_of, key_of, prompt_of
from .fingerprint import digest_of

log = logging.getLogger("rescore")
Result = TypeVar("Result")

# The name of each prompt's conditioning in the host's guider. The host copies control nets and
# GLIGEN from "positive" to the others, and some models treat "negative" in a special way.
SIDES = {
    "source": "source",
    "target": "positive",
    "negative": "negative",
    "source_negative": "source_negative",  # Edit Guider's alone, and only if it is wired
}
# Classes of the host's model_sampling that have not been tested here.
REFUSED = {"COSMOS_RFLOW", "IMG_TO_IMG", "IMG_TO_IMG_FLOW", "V_PREDICTION_DDPM", "X0"}
# Patches of guidance in a MODEL, which are not used: loops do the guidance themselves.
GUIDANCE = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function")
_UNHEARD = {*GUIDANCE, "disable_cfg1_optimization"}  # options without which all is the same


class NativeModel:
    """A MODEL, a VAE and the CONDITIONING of an edit, with the interface of our own models.

    Raises, when made:
        ValueError: if model and VAE do not belong together, or if the model adds noise in an
            unknown way.
    """

    kind: ClassVar[str] = "native"
    max_frames: ClassVar[None] = None
    whole_clips: ClassVar[bool] = True  # the host's VAE makes chunks and tiles itself

    def __init__(self, patcher: Any, vae: Any, conditionings: Mapping[str, list]) -> None:
        self.patcher, self.vae = patcher, vae
        self.name = type(patcher.model).__name__
        self._format = patcher.model.latent_format
        self.by_frame = is_by_frame(patcher)
        check_model(patcher)
        _check_vae(vae, self._format, self.name)
        self.process = process_of(patcher)
        # A short name of the weights, the levels, and all that nodes have set on the MODEL: read
        # now, for a run leaves state of its own there.
        self.fingerprint = digest_of((patcher, self.process), without=_UNHEARD).hex()[:16]
        self._keys = {key_of(given): side for side, given in conditionings.items()}
        self._conds = {SIDES[side]: given for side, given in conditionings.items()}
        self.prompts = Prompts(**{side: handle_of(given) for side, given in conditionings.items()})

    def modules(self) -> dict[str, torch.nn.Module]:
        """No parts: the host loads this model itself."""
        return {}

    @property
    def device(self) -> torch.device:
        """The device of the model while it computes."""
        return self.patcher.load_device

    @property
    def vae_factor(self) -> int:
        """Pixels per latent pixel."""
        return self.vae.spacial_compression_encode()

    @property
    def vae_stride(self) -> int:
        """Frames that each latent frame after the first stands for."""
        return 1 if self.by_frame else self.vae.temporal_compression_decode() or 1

    def latents_in(self, unscaled: Latents) -> Latents:
        """Latents of the VAE as the model takes them."""
        return self._host_latents(unscaled, self.patcher.model.process_latent_in)

    def latents_out(self, z: Latents) -> Latents:
        """The inverse of `latents_in`."""
        return self._host_latents(z, self.patcher.model.process_latent_out)

    def _host_latents(self, z: Latents, process: Callable[[Tensor], Tensor]) -> Latents:
        channels = self._format.latent_channels
        if z.shape[1] != channels:
            raise ValueError(
                f"The latents have {z.shape[1]} channels, {self.name} takes {channels}. Encode the "
                "clip with the VAE that belongs to the model."
            )
        check_sides(self.patcher, z)
        return as_ours(process(as_hosts(z, self.by_frame)), self.by_frame).float()

    def encode_clip(self, clip: Tensor, **_: Any) -> Latents:
        """Unscaled latents of a clip `[1, 3, f, H, W]` in 0..1, by the host's VAE.

        The clip is padded to a size that the VAE takes, by repeating the last picture and the right
        and lower edges. A random sample of the posterior and progress are not supported.
        """
        frames, *size = clip.shape[2:]
        whole = self.vae_factor * whole_side(self.patcher)
        below, beside = (-length % whole for length in size)
        after = (1 - frames) % self.vae_stride
        padded = functional.pad(clip, (0, beside, 0, below, 0, after), mode="replicate")
        pixels = rearrange(padded, "1 c f h w -> f h w c")
        return as_ours(self.vae.encode(pixels), self.by_frame).float()

    def decode_clip(
        self, latents: Latents, *, size: tuple[int, int] | None, frames: int | None, **_: Any
    ) -> Tensor:
        """The clip `[1, 3, f, H, W]` of unscaled latents, without padding, on the CPU."""
        pixels = self.vae.decode(as_hosts(latents, self.by_frame))
        clip = rearrange(pixels[-1] if pixels.ndim == 5 else pixels, "f h w c -> 1 c f h w")
        height, width = size or clip.shape[-2:]
        return clip[:, :, :frames, :height, :width].float().cpu()

    def picture(self) -> Callable[[Latents], Any] | None:
        """The host's own preview of latents; None if it shows no previews."""
        # Called through the module, because other packs replace the function.
        previewer = latent_preview.get_previewer(self.device, self._format)
        if previewer is None:
            return None

        def picture(z: Latents) -> Any:
            # Packs with moving previews send them themselves, and return None.
            shown = previewer.decode_latent_to_preview_image("JPEG", as_hosts(z, self.by_frame))
            return shown and shown[1]

        return picture

    def encode_prompt(self, name: str) -> EncodedPrompt:
        """The prompt of the CONDITIONING that has this name in the prompts of Native Model.

        Raises:
            ValueError: if the CONDITIONING is another model's, or does not tell its words.
        """
        sides = {str(key): side for key, side in self._keys.items()}
        if name not in sides:
            raise self._strange_prompts()
        return prompt_of(self._conds[SIDES[sides[name]]])

    def run(self, z: Latents, work: Callable[[Denoiser], Result]) -> Result:
        """Call `work` with the denoiser, for a clip's latents, and return its result."""
        sampler, guider = _Work(self, work), SidedGuider(self.patcher)
        guider.inner_set_conds(self._conds)
        latent = as_hosts(self.latents_out(z), self.by_frame)
        # Some models and wrappers search for the sigma of a call in this list.
        sigmas = torch.tensor([level.t for level in reversed(self.process.levels)])
        guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, disable_pbar=True, seed=0)
        return sampler.result

    def side_of(self, cond: Cond) -> str:
        """The guider's name of the conditioning that a handle stands for.

        Raises:
            ValueError: if the handle belongs to none of this model's conditionings.
        """
        key = tuple(cond.flatten().tolist())
        if key not in self._keys:
            raise self._strange_prompts()
        return SIDES[self._keys[key]]

    def _strange_prompts(self) -> ValueError:
        return ValueError(
            f"The prompts are not those of this {self.name}. Wire the prompts that come out of the "
            "same Native Model node."
        )


class SidedGuider(comfy.samplers.CFGGuider):
    """A guider that can predict with a single conditioning, `side`. Without one it is CFGGuider."""

    side: str | None = None

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        if self.side is None:
            return super().predict_noise(x, timestep, model_options, seed)
        # Called through the module, because other packs replace the function.
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, None, self.conds[self.side], 1.0, model_options, seed
        )

    def denoiser(
        self, name: str, process: Tabled, side_of: Callable[[Cond], str], extra: dict[str, Any]
    ) -> Denoiser:
        """The model as a loop sees it, during the host's sampling.

        `side_of` gives the name of the conditioning for a handle. `extra` are the host's extra
        arguments for samplers.
        """
        by_frame = is_by_frame(self.model_patcher)
        options = {k: v for k, v in extra["model_options"].items() if k not in GUIDANCE}
        for patch in GUIDANCE:
            if extra["model_options"].get(patch):
                log.warning(
                    "%s has a patch of guidance (%s). ReScore guides by itself, and leaves it out.",
                    name, patch,
                )  # fmt: skip

        layers = layers_of(self.model_patcher)
        if layers is not None:
            options = watched(options, layers)

        def output(z: Latents, sigma: float, cond: Cond) -> Latents:
            graph = torch.is_grad_enabled() and z.requires_grad
            x = as_hosts(z, by_frame).to(self.model_patcher.load_device)
            x = x * stretch(self.model_patcher, sigma)
            self.side = side_of(cond)
            try:
                times = torch.full((len(x),), sigma, device=x.device)
                with with_graph(self.model_patcher) if graph else nullcontext():
                    denoised = self(x, times, **{**extra, "model_options": options})
            finally:
                self.side = None
            return as_ours(denoised, by_frame).to(z.device, torch.float32)

        # One clip in each call, because a call has one conditioning.
        channels = self.model_patcher.model.latent_format.latent_channels
        space = LatentSpace(channels, 1, 1.0, 0.0)
        return Denoiser(name, process, "denoised", output, space, layers, rows_per_call=1)


class _Work(comfy.samplers.Sampler):
    """A sampler that calls `work` with the denoiser and returns the latents unchanged."""

    def __init__(self, model: NativeModel, work: Callable[[Denoiser], Any]) -> None:
        self.model, self.work = model, work

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None,
        denoise_mask=None, disable_pbar=False,
    ):  # fmt: skip
        model = self.model
        denoiser = model_wrap.denoiser(model.name, model.process, model.side_of, extra_args)
        self.result = self.work(denoiser)
        return latent_image


def is_by_frame(patcher: Any) -> bool:
    """Whether a MODEL takes a clip as a batch of frames."""
    return patcher.model.latent_format.latent_dimensions == 2


def as_hosts(z: Latents, by_frame: bool) -> Tensor:
    """A clip in the host's layout: a batch of frames, or a batch of one clip."""
    return rearrange(z, "1 c f h w -> f c h w") if by_frame else z


def as_ours(samples: Tensor, by_frame: bool) -> Latents:
    """The inverse of `as_hosts`."""
    return rearrange(samples, "f c h w -> 1 c f h w") if by_frame else samples


# Networks that make whole tokens of what they get; others pad it first.
_DO_NOT_PAD = {"HunyuanVideo", "AsymmDiTJoint"}


def whole_side(patcher: Any) -> int:
    """The sides of a MODEL's latents must be multiples of this."""
    network = patcher.model.diffusion_model
    if type(network).__name__ not in _DO_NOT_PAD:
        return 1
    patch = network.patch_size
    return patch if isinstance(patch, int) else patch[-1]


def check_sides(patcher: Any, latent: Tensor) -> None:
    """Refuse latents of which the network cannot make whole tokens.

    Raises:
        ValueError: for such latents.
    """
    (height, width), whole = latent.shape[-2:], whole_side(patcher)
    if height % whole or width % whole:
        raise ValueError(
            f"The latents are {width} x {height}, and {type(patcher.model).__name__} takes sides "
            f"that are multiples of {whole}. Use Video VAE Encode, which pads the clip, or a clip "
            "of another size."
        )


def check_model(patcher: Any) -> None:
    """Check that a MODEL makes pictures or videos, and nothing else.

    Raises:
        ValueError: for any other model.
    """
    name, latents = type(patcher.model).__name__, patcher.model.latent_format
    if name.endswith("AV") or type(latents).__name__.endswith("AV"):
        raise ValueError(
            f"{name} makes sound and video at once. ReScore edits video alone: use a model without "
            "sound."
        )
    if latents.latent_dimensions not in (2, 3):
        raise ValueError(f"{name} is no model of pictures or videos, and ReScore edits only those.")


def _check_vae(vae: Any, latents: Any, name: str) -> None:
    made = vae.latent_channels, vae.latent_dim
    taken = latents.latent_channels, latents.latent_dimensions
    if made != taken:
        raise ValueError(
            f"The VAE makes latents of {made[0]} channels in {made[1]} dimensions, and {name} "
            f"takes {taken[0]} in {taken[1]}. Load the VAE that belongs to the model."
        )


def process_of(patcher: Any, sigmas: Tensor | None = None) -> Tabled:
    """The levels of a MODEL, from the clip to noise, for its own sigmas or for given ones.

    The host's noise scaling gives the signal and the noise of a sigma. In models where it is
    `clip + sigma * noise`, both are divided by `stretch`. Then their squares add up to 1, as in the
    papers, and noised latents have the same size as in our own models.

    Raises:
        ValueError: if the model adds noise in an unknown way.
    """
    sampling = patcher.get_model_object("model_sampling")
    names = [kind.__name__ for kind in type(sampling).__mro__]
    unknown = REFUSED.intersection(names) or not {"CONST", "EPS"}.intersection(names)
    if unknown or getattr(sampling, "noise_scale", 1.0) != 1.0:
        raise ValueError(
            f"{type(patcher.model).__name__} adds noise in a way that ReScore has not been tried "
            f"with ({', '.join(names[1:3])}). It edits with models of flow, noise and v prediction."
        )
    sigmas = (sampling.sigmas if sigmas is None else sigmas).double().cpu()
    one, none = torch.ones_like(sigmas), torch.zeros_like(sigmas)
    signal = sampling.noise_scaling(sigmas, none.clone(), one)
    noise = sampling.noise_scaling(sigmas, one.clone(), none)
    rows = zip(sigmas.tolist(), signal.tolist(), noise.tolist(), strict=True)
    return Tabled(
        tuple(Level(t, s / stretch(patcher, t), n / stretch(patcher, t)) for t, s, n in rows)
    )


def stretch(patcher: Any, sigma: float) -> float:
    """The host's noised latents divided by ours: sqrt(1 + sigma^2), or 1 in flow models."""
    sampling = patcher.get_model_object("model_sampling")
    return math.hypot(1, sigma) if "EPS" in {k.__name__ for k in type(sampling).__mro__} else 1.0
