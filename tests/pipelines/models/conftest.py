"""The tiny models the adapters and loaders are tested on, written once and never changed."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import (
    SCHEDULE,
    write_tiny_adapter,
    write_tiny_checkpoint,
    write_tiny_sd,
    write_tiny_t2v,
)

V_SCHEDULE = {**SCHEDULE, "prediction_type": "v_prediction"}


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder of models: t2v, t2v-v, sd, sd-v, motion and the checkpoint sd.safetensors."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_t2v(folder / "t2v", seed=1)
    write_tiny_t2v(folder / "t2v-v", seed=2, schedule=V_SCHEDULE)
    write_tiny_sd(folder / "sd", seed=3)
    write_tiny_sd(folder / "sd-v", seed=4, schedule=V_SCHEDULE)
    write_tiny_adapter(folder / "motion", seed=5)
    write_tiny_checkpoint(folder / "sd.safetensors", folder / "sd")
    return folder


@pytest.fixture
def sd(models, tmp_path):
    """A copy of the image model, to be changed or broken."""
    return shutil.copytree(models / "sd", tmp_path / "sd")


@pytest.fixture
def load(models):
    """`load(kind, prediction="epsilon", **options)`: a fresh backbone of a kind."""
    from rescore.pipelines.models.unet import load as loaders

    def make(kind: str, prediction: str = "epsilon", **options):
        suffix = "" if prediction == "epsilon" else "-v"
        if kind == "text-to-video":
            return loaders.load_text_to_video(models / f"t2v{suffix}", **options)
        if kind == "image":
            return loaders.load_image(models / f"sd{suffix}", **options)
        return loaders.load_animatediff(models / f"sd{suffix}", models / "motion", **options)

    return make


@pytest.fixture
def draw():
    """`draw(*shape, seed=0)`: standard normal numbers that are the same in every run."""

    def make(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    return make
