"""The node that measures how temporal modules shift the statistics of features."""

from . import host
from .inflation import CATEGORY
from .running import of_stable_diffusion, prepared
from .shared import FIXED_SEED
from .sockets import MODEL, PROMPTS
from .widgets import INT, SOCKET, Node, outputs


class CovariateShift(Node):
    TITLE = "Covariate Shift"
    SEARCH_ALIASES = ["feature statistics", "EI2 analysis", "diagnose tuning"]
    DESCRIPTION = (
        "Measures how far each module along time moves the mean and the covariance of the features "
        "that pass through it, which is EI2's explanation of why tuned models stop following the "
        "prompt. Compare two models, such as one tuned with ei2 and one with tune-a-video."
    )
    CATEGORY = CATEGORY
    FUNCTION = "measure"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        charts=("IMAGE",
            "Three charts over the layers: shift of the mean, ratio of variances, shift of the "
            "covariance."),
        report=("STRING", "The same numbers as a table."),
    )  # fmt: skip
    REQUIRED = {
        "model": SOCKET(MODEL, "An inflated model, tuned or not."),
        "prompts": SOCKET(PROMPTS, "From Encode Prompt Pair. The source prompt is used."),
        "latent": SOCKET("LATENT", "A clip, from Video VAE Encode; best the one tuned on."),
        "timesteps": INT(5, 1, 100,
            "How many timesteps are looked at, spread over the schedule; each is one model call. 5 "
            "is enough; raise it for smoother numbers."),
        "seed": FIXED_SEED(
            "Draws the noise on the clip; the same for both models. If one seed shows little, more "
            "timesteps show more than another seed.", advanced=True),
    }  # fmt: skip
    OPTIONAL = {
        "other_model": SOCKET(MODEL,
            "A second inflated model to compare with, such as the baseline."),
    }  # fmt: skip

    def measure(self, model, prompts, latent, timesteps: int, seed: int, other_model=None):
        import torch

        from ..pipelines.tuning.covariate_shift import covariate_shift, shift_table
        from .charts import line_chart

        models = [model] if other_model is None else [model, other_model]
        bar = host.progress(timesteps * len(models))
        shifts = {}
        for number, each in enumerate(models):
            of_stable_diffusion(
                each, "Covariate Shift, which looks into layers of an inflated model,"
            )
            ready = prepared(each, latent)
            # The midpoints of equal parts of the schedule.
            count = len(each.process)
            levels = [
                each.process.level(int(count * (i + 0.5) / timesteps)) for i in range(timesteps)
            ]
            shifts[_name(each, number)] = covariate_shift(
                getattr(each.network, "temporal", {}),
                each.denoiser,
                ready.z,
                prompts.embeddings.source.to(each.device),
                levels,
                seed=seed,
                on_step=lambda done, before=number * timesteps: bar(before + done),
            )
        labels = [shift.label for shift in max(shifts.values(), key=len)]
        charts = [
            line_chart(
                title,
                {name: [getattr(s, field) for s in layers] for name, layers in shifts.items()},
                labels,
            )
            for title, field in (
                ("Shift of the mean, relative", "mean_shift"),
                ("Variance after, relative to before", "variance_ratio"),
                ("Shift of the covariance, relative", "covariance_shift"),
            )
        ]
        return (torch.cat(charts), shift_table(shifts))


def _name(model, number: int) -> str:
    """The name of a model in a chart."""
    variant = str(getattr(model.network, "variant", model.kind))
    tuning = getattr(model.network, "tuning", None)
    steps = f", {tuning.step} steps" if tuning is not None else ""
    return f"{number + 1}: {variant}{steps}"


NODE_CLASS_MAPPINGS = {"ReScoreCovariateShift": CovariateShift}
