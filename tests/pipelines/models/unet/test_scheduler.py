"""What every scheduler of diffusers says about training is taken from it, or told."""

import inspect
import json
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import schedulers
from rescore.pipelines.models.layout import ModelError
from rescore.pipelines.models.process import VariancePreserving
from rescore.pipelines.models.unet.load import load_image
from rescore.pipelines.models.unet.scheduler import _OF_BETAS, trained_settings
from tiny_models import SCHEDULE, write_tiny_sd

# Some of diffusers' own schedulers still turn tensors into arrays the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

MODEL = Path("model")
NAMES = sorted({name for name in dir(schedulers) if name.endswith("Scheduler")})
OTHERS = sorted(set(NAMES) - _OF_BETAS)
FLOW = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
)


def settings_of(scheduler, folder, **changes):
    """The settings in the file that a scheduler writes."""
    scheduler.save_config(folder)
    config = json.loads((folder / "scheduler_config.json").read_text("utf-8"))
    return trained_settings({**config, **changes}, "image", MODEL)


@pytest.mark.parametrize("name", sorted(_OF_BETAS))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 701},
        {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
    ],
)
def test_noise_is_that_of_diffusers(tmp_path, name, options):
    try:
        scheduler = getattr(diffusers, name)(**options)
    except ImportError:
        pytest.skip(f"{name} needs a package that is not here")
    process = VariancePreserving.from_config(settings_of(scheduler, tmp_path))
    expected = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(process.alphas_bar, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(_OF_BETAS))
def test_what_a_file_leaves_out_is_the_default_of_its_class(name):
    cls = getattr(diffusers, name)
    if "beta_start" not in inspect.signature(cls.__init__).parameters:
        pytest.skip(f"{name} needs a package that is not here")
    settings = trained_settings({"_class_name": name}, "image", MODEL)
    expected = cls().alphas_cumprod.double()
    found = VariancePreserving.from_config(settings).alphas_bar
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", OTHERS)
def test_other_noise_is_told(name):
    with pytest.raises(ModelError, match=name) as caught:
        trained_settings({**SCHEDULE, "_class_name": name}, "image", MODEL)
    assert "Expected a model trained on discrete timesteps with betas" in str(caught.value)


@pytest.mark.parametrize("name", FLOW)
def test_flow_matching_is_told(tmp_path, name):
    if not hasattr(diffusers, name):
        pytest.skip("newer than this diffusers")
    with pytest.raises(ModelError, match=rf"is trained by flow matching \({name}\)"):
        settings_of(getattr(diffusers, name)(), tmp_path)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm_is_told(tmp_path, name):
    with pytest.raises(ModelError, match="continuous noise levels, as EDM's models are"):
        settings_of(getattr(diffusers, name)(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"_class_name": None}, "does not say its scheduler's class"),
        ({"_class_name": "MyScheduler"}, "has a MyScheduler, of whose noise nothing is known"),
        ({"_class_name": ["DDIMScheduler"]}, "of whose noise nothing is known"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "flow matching"),
        ({"prediction_type": "flow_prediction"}, "flow matching"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "continuous"),
        ({"prediction_type": "sample"}, "has prediction_type = 'sample'"),
        ({"prediction_type": ["epsilon"]}, "has prediction_type = "),
        ({"prediction_type": None}, "has prediction_type = None"),
        ({"beta_schedule": "sigmoid"}, "has beta_schedule = 'sigmoid'"),
        ({"beta_schedule": {"a": 1}}, "has beta_schedule = "),
        ({"beta_start": "0.1"}, "has beta_start = '0.1'"),
        ({"beta_start": -0.1}, r"has beta_start = -0\.1"),
        ({"beta_end": 1.5}, r"has beta_end = 1\.5"),
        ({"beta_end": 10**400}, "has beta_end = 1000"),
        ({"num_train_timesteps": 2**40}, "has num_train_timesteps = 1099511627776"),
        ({"num_train_timesteps": 0}, "has num_train_timesteps = 0"),
        ({"num_train_timesteps": 1000.0}, r"has num_train_timesteps = 1000\.0"),
        ({"trained_betas": [0.1, -1]}, r"has trained_betas = \[0\.1, -1\]"),
        ({"trained_betas": "many"}, "has trained_betas = 'many'"),
        ({"trained_betas": []}, "has trained_betas = "),
        ({"trained_betas": [0.1, 0.2, 0.3]}, "has 3 trained_betas for 1000 timesteps"),
    ],
)
def test_what_makes_no_sense_is_told(changes, complaint):
    with pytest.raises(ModelError, match=complaint):
        trained_settings({**SCHEDULE, **changes}, "image", MODEL)


def test_a_folder_with_other_noise_is_refused(tmp_path):
    schedule = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    folder = write_tiny_sd(tmp_path / "sd", schedule=schedule)
    with pytest.raises(ModelError, match=f"{folder} is trained by flow matching"):
        load_image(folder)
