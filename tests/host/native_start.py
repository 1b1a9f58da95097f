"""What the checks of native models share: the models as the host loads them, and a first edit.

To be imported once the host has read its command line, which it does on import.
"""

import importlib.util
import json
import logging
import sys
import traceback
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import comfy.taesd.taesd
import comfy.utils
import torch
from comfy_extras import nodes_custom_sampler
from rescore.attention.recording import Recorder, forward_recorded
from rescore.nodes.distillation import ScoreDistillation
from rescore.nodes.latents import VideoVAEEncode
from rescore.nodes.native import (
    DistillationSampler,
    EditGuider,
    NativeModel,
)
from rescore.nodes.similarity import SpatialSelfSimilarity
from rescore.nodes.terms import DeltaDenoising
from rescore.pipelines.models.process import Level, move
from rescore.shapeworld.edits import Edit, edited
from rescore.shapeworld.models import load_shapeworld
from rescore.shapeworld.scene import caption
from rescore.shapeworld.showcase import SHOWCASE

arguments: list[str] = []  # of the script: the host's folder, and the files of the tiny Wan


class LackingError(Exception):
    """What a check needs is not there."""


def run_checks(checks: dict[str, object], asked: str) -> None:
    """Run what has a name that begins with `check_`, and write what went wrong in each, or "".

    `asked` is the path of that file; behind a colon there may be a part of the names to run.
    """
    file, _, only = asked.partition(":")
    found = {}
    for name, check in checks.items():
        if name.startswith("check_") and only in name:
            try:
                with torch.inference_mode():
                    check()
                found[name] = ""
            except LackingError as lacking:
                found[name] = str(lacking)
            except Exception:
                found[name] = traceback.format_exc()
    logging.shutdown()
    Path(file).write_text(json.dumps(found), "utf-8")


@cache
def pack(name: str):
    """The module of a pack in the host's custom_nodes, imported as the host does it."""
    file = Path(arguments[0]) / "custom_nodes" / name / "__init__.py"
    if not file.is_file():
        raise LackingError(f"lacks {name} in custom_nodes")
    spec = importlib.util.spec_from_file_location(
        name.replace("-", "_"), file, submodule_search_locations=[str(file.parent)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SHORT = SHOWCASE["red_circle"]

# 16 frames, which the VAE does not fit: it takes 13 or 17.
EDIT = Edit(replace(SHORT.source, frames=16), replace(SHORT.target, frames=16), "colour")

CLIP = edited(EDIT).source.clip  # [16, 64, 64, 3], as the host's nodes pass pictures


@cache
def patcher():
    options = {"dtype": torch.float32}
    return comfy.sd.load_diffusion_model(arguments[1], model_options=options)


@cache
def vae():
    weights, metadata = comfy.utils.load_torch_file(arguments[2], return_metadata=True)
    return comfy.sd.VAE(sd=weights, metadata=metadata, dtype=torch.float32)


def conditioning(text: str) -> list:
    embedding = load_shapeworld("shapeworld-t2v").encode_prompt(text).embedding
    width = patcher().model.diffusion_model.text_embedding[0].in_features
    padding = (0, width - embedding.shape[-1])
    return [[torch.nn.functional.pad(embedding, padding), {}]]


@cache
def texts() -> dict:
    return {
        "source": conditioning(caption(EDIT.source)),
        "target": conditioning(caption(EDIT.target)),
        "negative": conditioning(""),
    }


def taken(model=None, **changed):
    return NativeModel().take(model or patcher(), vae(), **(texts() | changed))


@cache
def latent() -> dict:
    model, _ = taken()
    return VideoVAEEncode().encode(model, CLIP, 8, "mean", 0)[0]


def noise_like(samples, seed: int = 0):
    return torch.randn(samples.shape, generator=torch.Generator().manual_seed(seed))


def sampled_by_both(model_patcher, steps: int = 5, target=None):
    """A clip from noise by the host's KSampler with Euler, and by steps of ours."""
    target = target or texts()["target"]
    model, prompts = taken(model_patcher, target=target)
    sampling = model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
    noise = noise_like(latent()["samples"], 3)
    theirs = comfy.sample.sample(
        model_patcher, noise, steps, 4.0, "euler", "simple", target,
        texts()["negative"], torch.zeros_like(noise), disable_noise=False, seed=3,
    )  # fmt: skip
    table = {level.t: level for level in model.process.levels}
    levels = [min(table.values(), key=lambda at: abs(at.t - s)) for s in sigmas[:-1].tolist()]
    levels = [*levels, Level(0.0, 1.0, 0.0)]

    def work(denoiser):
        z = noise
        for here, there in pairwise(levels):
            guided = denoiser.guided(
                z, here, prompts.embeddings.target, prompts.embeddings.negative, 4.0
            )
            z = move(guided, there)
        return z

    return theirs, model.latents_out(model.run(noise, work))


def as_if(kind):
    """The same network with another way to add noise, as the host's ModelSampling nodes do it."""

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, kind):
        pass

    other = patcher().clone()
    other.add_object_patch("model_sampling", Sampling(patcher().model.model_config))
    return other


def edit(steps: int = 20, model_patcher=None, *, cfg: float = 5.0, terms=None, **wired):
    """Score Distillation; `wired` are its optional inputs, and other prompts than `texts`."""
    changed = {side: wired.pop(side) for side in texts() if side in wired}
    model, prompts = taken(model_patcher, **changed)
    if terms is None:
        (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    return ScoreDistillation().run(
        model,
        prompts,
        latent(),
        terms,
        steps,
        0.4,
        cfg,
        0,
        0.05,
        0.95,
        "sgd",
        **wired,
    )


class Told(logging.Handler):
    """What is logged while it is in use, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> list[str]:
        logging.getLogger("rescore").addHandler(self)
        return self.lines

    def __exit__(self, *_) -> None:
        logging.getLogger("rescore").removeHandler(self)


def sampled_by_the_host(sampler, sigmas, latent_image=None, guider=None, seed: int = 0):
    """What SamplerCustomAdvanced makes of the clip."""
    guider = guider or EditGuider().guide(patcher(), **texts(), cfg=5.0)[0]
    node = nodes_custom_sampler.SamplerCustomAdvanced
    noise = nodes_custom_sampler.Noise_RandomNoise(seed)
    latent_image = latent_image or {"samples": latent()["samples"]}
    return node.execute(noise, guider, sampler, sigmas, latent_image).args[0]["samples"]


def distilling(steps: int = 2, terms=None, **settings):
    if terms is None:
        (terms,) = DeltaDenoising().build(1.0, 0.0, 1.0)
    settings = {"step_size": 0.4, "optimiser": "sgd", **settings}
    return DistillationSampler().build(terms=terms, steps=steps, **settings)[0]


def all_sigmas():
    return patcher().get_model_object("model_sampling").sigmas.flip(0)


def watched(note):
    """A MODEL that shows `note` what each of its calls gets, before the call."""

    def watch(apply, args):
        note(args)
        return apply(args["input"], args["timestep"], **args["c"])

    other = patcher().clone()
    other.set_model_unet_function_wrapper(watch)
    return other


def counted():
    """A MODEL, and the number of clips in each of its calls so far."""
    calls = []
    return watched(lambda args: calls.append(len(args["input"]))), calls


def sigma_of(args) -> float:
    """The sigma of a call that `watched` shows."""
    return float(args["timestep"][0])


def lora_of(strength: float):
    other = patcher().clone()
    name = "diffusion_model.blocks.0.self_attn.q.weight"
    shift = torch.full_like(patcher().model.state_dict()[name], strength)
    other.add_patches({name: ("diff", (shift,))})
    return other


class Broken(RuntimeError):
    pass


def failing_at(call: int, error: BaseException):
    calls = iter(range(1000))

    def fail(_):
        if next(calls) == call:
            raise error

    return watched(fail)


@cache
def image_model():
    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
        "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 1],
        "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
        "context_dim": 64, "num_heads": 4, "use_spatial_transformer": True, "legacy": False,
        "use_linear_in_transformer": False, "adm_in_channels": None, "dtype": torch.float32,
    }  # fmt: skip
    settings = comfy.supported_models.SD15(config)
    settings.manual_cast_dtype = None
    torch.manual_seed(0)
    model = comfy.model_base.BaseModel(settings, device=torch.device("cpu"))
    for weight in model.parameters():  # the host's layers are made without values
        torch.nn.init.normal_(weight, std=0.05)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model.eval(), device, device)


@cache
def image_vae():
    torch.manual_seed(0)
    autoencoder = comfy.taesd.taesd.TAESD(latent_channels=4)
    for weight in autoencoder.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    weights = autoencoder.state_dict()
    return comfy.sd.VAE(sd=weights, dtype=torch.float32)


def taken_image():
    narrow = {side: [[given[0][0][..., :64], {}]] for side, given in texts().items()}
    return NativeModel().take(image_model(), image_vae(), **narrow)


def keys_of(denoiser, z_t, level, cond, site, output: bool = True):
    recorder = Recorder([site], [0])

    def call(plan):
        return denoiser(z_t, level, cond, plan=plan)

    said = forward_recorded(call, [recorder], output=output)
    return recorder.at(site), said


def gradient_of(loss, z_t):
    with torch.inference_mode(False), torch.enable_grad():
        leaf = z_t.clone().requires_grad_()
        return torch.autograd.grad(loss(leaf), leaf)[0]


def gradient_held_to_slopes(loss, z_t, step: float):
    """The gradient of a loss, which must be that of finite differences along one direction."""
    direction, gradient = noise_like(z_t, 5), gradient_of(loss, z_t)
    expected = (loss(z_t + step * direction) - loss(z_t - step * direction)) / (2 * step)
    found = (gradient * direction).sum()
    assert abs(float(found / expected) - 1) < 5e-3, (found, expected)
    return gradient


def compares_keys() -> bool:
    """Whether this host has gradients, without which terms that compare keys tell so."""
    if hasattr(comfy.model_management, "in_training"):
        return True
    (terms,) = SpatialSelfSimilarity().build(**default_inputs(SpatialSelfSimilarity))
    refused("ComfyUI 0.14", edit, 1, terms=terms)
    return False


def default_inputs(node) -> dict:
    inputs = node.INPUT_TYPES()["required"].items()
    return {name: options["default"] for name, (_, options) in inputs if "default" in options}


def refused(words: str, work, /, *arguments, **named) -> None:
    """Holds that a piece of work is refused with a sentence that has these words."""
    try:
        work(*arguments, **named)
    except ValueError as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"nothing was raised that says {words!r}")
