"""The noise schedule that a model was trained with, from its scheduler configuration."""

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers

from ..layout import problem

# Diffusers' schedulers for models with discrete timesteps and betas. They sample in different ways,
# but describe the training in the same way.
_OF_BETAS = {
    f"{name}Scheduler"
    for name in (
        "DDIM",
        "DDIMInverse",
        "DDIMParallel",
        "DDPM",
        "DDPMParallel",
        "DEISMultistep",
        "DPMSolverMultistep",
        "DPMSolverMultistepInverse",
        "DPMSolverSDE",
        "DPMSolverSinglestep",
        "EulerAncestralDiscrete",
        "EulerDiscrete",
        "HeunDiscrete",
        "KDPM2AncestralDiscrete",
        "KDPM2Discrete",
        "LCM",
        "LMSDiscrete",
        "PNDM",
        "SASolver",
        "TCD",
        "UniPCMultistep",
    )
}
_SHAPES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "v_prediction")
_MOST_TIMESTEPS = 100_000
_EXPECTED = (
    "a model trained on discrete timesteps with betas, as Stable Diffusion 1.x, ModelScope and "
    "ZeroScope are"
)


def trained_settings(
    config: Mapping[str, Any], kind: str, model: Path, predictions: Iterable[str] = PREDICTIONS
) -> dict[str, Any]:
    """Timesteps, betas and prediction type of a model, from its `scheduler_config.json`.

    Missing entries are the defaults of diffusers' class of that scheduler; the prediction type is
    one of `predictions`.

    Raises:
        ModelError: if the model was trained with other noise (flow matching, EDM, an unknown one),
            or if a number makes no sense.
    """
    name = str(config.get("_class_name"))
    if why := _other_noise(name, config):
        raise problem(kind, model, f"{why} in its scheduler_config.json.", _EXPECTED)
    defaults = inspect.signature(getattr(diffusers, name).__init__).parameters
    settings = {
        entry: config.get(entry, defaults[entry].default if entry in defaults else None)
        for entry in (
            "num_train_timesteps",
            "beta_schedule",
            "beta_start",
            "beta_end",
            "trained_betas",
            "rescale_betas_zero_snr",
            "prediction_type",
        )
    }
    if wrong := _senseless(settings, predictions):
        found = f"has {wrong} = {settings[wrong]!r} in its scheduler_config.json."
        raise problem(kind, model, found, _EXPECTED)
    betas, steps = settings["trained_betas"], settings["num_train_timesteps"]
    if betas is not None and len(betas) != steps:
        found = f"has {len(betas)} trained_betas for {steps} timesteps"
        raise problem(kind, model, f"{found} in its scheduler_config.json.", _EXPECTED)
    return settings


def _other_noise(name: str, config: Mapping[str, Any]) -> str | None:
    """For a message: which other noise a scheduler describes; None if it has betas."""
    predicts = config.get("prediction_type")
    if "Flow" in name or config.get("use_flow_sigmas") or predicts == "flow_prediction":
        return f"is trained by flow matching ({name})"
    if "EDM" in name or config.get("timestep_type") == "continuous":
        return f"is trained on continuous noise levels, as EDM's models are ({name})"
    if name == "None":
        return "does not say its scheduler's class (_class_name)"
    if name not in _OF_BETAS:
        return f"has a {name}, of whose noise nothing is known here,"
    return None


def _senseless(settings: Mapping[str, Any], predictions: Iterable[str]) -> str | None:
    """The name of the first setting that makes no sense; None if all do."""
    betas, steps = settings["trained_betas"], settings["num_train_timesteps"]
    if betas is None:
        fits = {
            "num_train_timesteps": isinstance(steps, int) and 1 < steps <= _MOST_TIMESTEPS,
            "beta_schedule": settings["beta_schedule"] in _SHAPES,
            "beta_start": _is_beta(settings["beta_start"]),
            "beta_end": _is_beta(settings["beta_end"]),
        }
    else:
        some = isinstance(betas, list) and 1 < len(betas) <= _MOST_TIMESTEPS
        fits = {"trained_betas": some and all(map(_is_beta, betas))}
    fits["prediction_type"] = settings["prediction_type"] in predictions
    return next((name for name, right in fits.items() if not right), None)


def _is_beta(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < 1
