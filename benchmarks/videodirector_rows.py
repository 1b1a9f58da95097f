"""What VideoDirector's benchmark runs on a clip: reconstructions, edits, and what they cost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from measuring import Outcome, clip_of, latents_of, loaded, shipped, whole_psnr
from memory import peak_memory
from rescore.attention.mutual import SourceBackground, SourceLayout
from rescore.attention.prompt_to_prompt import PromptControl, refine_mapper
from rescore.pipelines.inversion.attention_sampling import sample_edit
from rescore.pipelines.inversion.ddim_inversion import ddim_invert
from rescore.pipelines.inversion.decoupled_guidance import GuidanceSettings
from rescore.pipelines.inversion.drift import Drift, DriftGuidance
from rescore.pipelines.inversion.null_text import NullTextSettings, optimise_null_text
from rescore.pipelines.inversion.trajectory import NullText
from rescore.pipelines.models.denoiser import Denoiser, Prompts
from rescore.shapeworld.edits import Edit, edited
from rescore.shapeworld.score import score
from torch import Tensor

VAE = "the VAE alone"
# The coefficients of STDG: those of motion, by temporal attention, and of appearance, by keys.
ALL = (
    "temporal_foreground",
    "temporal_background",
    "keys_foreground",
    "keys_background",
)
TEMPORAL, KEYS = ALL[:2], ALL[2:]
# Name of a reconstruction -> whether embeddings are optimised, one per frame, with which of STDG.
LADDER = {
    "DDIM inversion, cfg": (False, False, ()),
    "+ shared null-text": (True, False, ()),
    "+ multi-frame null-text": (True, True, ()),
    "STDG of the object's motion, no null-text": (False, True, ("temporal_foreground",)),
    "STDG of the background's motion, no null-text": (False, True, ("temporal_background",)),
    "STDG of all motion, no null-text": (False, True, TEMPORAL),
    "STDG of the background's look, no null-text": (False, True, ("keys_background",)),
    "+ STDG, no null-text": (False, True, ALL),
    "both": (True, True, ALL),
    "both, shared null-text": (True, False, ALL),
    "both, STDG of motion alone": (True, True, TEMPORAL),
    "both, STDG of appearance alone": (True, True, KEYS),
}
SA_I, SA_II, WORDS = "SA-I", "SA-II", "cross-attention control"
CONTROLS = SA_I, SA_II, WORDS
FULL = "full"
# Name of an edit -> its controls, and the reconstruction it builds on.
EDITS = {
    FULL: (CONTROLS, "both"),
    "without null-text": (CONTROLS, "+ STDG, no null-text"),
    "without STDG": (CONTROLS, "+ multi-frame null-text"),
    "shared null-text": (CONTROLS, "both, shared null-text"),
    "STDG of motion alone": (CONTROLS, "both, STDG of motion alone"),
    "STDG of appearance alone": (CONTROLS, "both, STDG of appearance alone"),
    "without SA-I": ((SA_II, WORDS), "both"),
    "without SA-II": ((SA_I, WORDS), "both"),
    "without self-attention control": ((WORDS,), "both"),
    "without cross-attention control": ((SA_I, SA_II), "both"),
    "no control": ((), "both"),
}


@dataclass(frozen=True)
class Run:
    """The settings that all rows share: those of the graph `videodirector`.

    Where the background is edited, null-text has the learning rate of `videodirector_background`.
    """

    frames: int = 8  # as its clip has
    steps: int = shipped("videodirector", "DDIMInversion", "steps")
    inner: int = shipped("videodirector", "NullTextOptimisation", "inner_steps")
    learning_rate: float = shipped("videodirector", "NullTextOptimisation", "learning_rate")
    background_rate: float = shipped(
        "videodirector_background", "NullTextOptimisation", "learning_rate"
    )
    cfg: float = shipped("videodirector", "NullTextOptimisation", "cfg")
    strength: float = shipped("videodirector", "DecoupledGuidance", "strength")
    tau_s: float = shipped("videodirector", "AttentionControlledSampling", "tau_s")
    tau_c: float = shipped("videodirector", "AttentionControlledSampling", "tau_c")


class Clip:
    """A clip, inverted, with everything that rows of the tables start from."""

    def __init__(self, edit: Edit, run: Run) -> None:
        self.edit, self.run, self.truth = edit, run, edited(edit)
        self.model = model = loaded("shapeworld-animatediff")
        texts = (self.truth.source_prompt, self.truth.target_prompt, "")
        self.encoded = [model.encode_prompt(text) for text in texts]
        self.prompts = Prompts(*(prompt.embedding for prompt in self.encoded))
        self.path = ddim_invert(
            latents_of(model, self.truth.source.clip),
            partial(model.denoiser, cond=self.prompts.source),
            model.process.grid(run.steps),
        )

    def guidance(self, parts: Sequence[str] = ALL) -> DriftGuidance:
        off = dict.fromkeys(set(ALL) - set(parts), 0.0)
        settings = replace(GuidanceSettings(strength=self.run.strength), **off)
        if self.edit.attribute == "background":
            settings = settings.swapped()
        # Of the object, whichever of the two is edited.
        return DriftGuidance(settings, self.truth.object_mask.float())

    def null_text(self, optimised: bool, per_frame: bool, guided: Sequence[str]) -> NullText:
        run, background = self.run, self.edit.attribute == "background"
        inner = run.inner if optimised else 0
        learning_rate = run.background_rate if background else run.learning_rate
        return optimise_null_text(
            self.path,
            self.model.denoiser,
            self.prompts.source,
            self.prompts.negative,
            NullTextSettings(run.cfg, inner, learning_rate, per_frame),
            guidance=self.guidance(guided) if guided else None,
        )

    def edited(self, controls: Sequence[str], null_text: NullText) -> Tensor:
        """The pixels of the edit."""
        length = self.prompts.source.shape[1]
        tokens = refine_mapper(self.encoded[0].tokens, self.encoded[1].tokens, length)
        made = {
            SA_I: SourceLayout(self.run.tau_s),
            SA_II: SourceBackground(self.run.tau_s, self.truth.paint.float()),
            WORDS: PromptControl(tokens, self.run.tau_c),
        }
        z = sample_edit(
            self.path,
            self.model.denoiser,
            self.prompts,
            self.run.cfg,
            [made[name] for name in controls],
            null_text=null_text,
        )
        return clip_of(self.model, z)

    def found_back(self, z: Tensor) -> float:
        """PSNR of latents to the clip, in dB."""
        return whole_psnr(clip_of(self.model, z), self.truth.source.clip)


def all_rows(
    edit: Edit, rows: Sequence[str], run: Run
) -> tuple[dict[str, float], dict[str, Outcome]]:
    """How close the reconstructions come to the clip, in dB, and the edits.

    `rows` are of `LADDER` and `EDITS`; what an edit builds on is reconstructed, too.
    """
    clip = Clip(edit, run)
    wanted = {row: EDITS[row] for row in rows if row in EDITS}
    bases = {base for _, base in wanted.values()}.union(rows)
    null_texts = {name: clip.null_text(*LADDER[name]) for name in LADDER if name in bases}
    found = {name: clip.found_back(null_text.z) for name, null_text in null_texts.items()}
    found[VAE] = clip.found_back(clip.path.latents[0])
    edits = {row: clip.edited(names, null_texts[base]) for row, (names, base) in wanted.items()}
    return found, {row: Outcome(score(video, edit), video) for row, video in edits.items()}


def costs(clip: Clip, repeats: int = 3) -> dict[str, dict[str, float]]:
    """Seconds and bytes of STDG in one pass and in four, of null-text with and without a cache."""
    path, cond, denoiser = clip.path, clip.prompts.source, clip.model.denoiser
    pivot = path.latents[-2]
    z = pivot + 0.1 * torch.randn(pivot.shape, generator=torch.Generator().manual_seed(0))

    def drift(*coefficients: float) -> Tensor:
        guidance = replace(clip.guidance(), settings=GuidanceSettings(*coefficients))
        return Drift(guidance, cond, denoiser)(z, pivot, path.levels[-2])[1]

    together = partial(drift, 0.5, 0.5, 0.5, 0.5)

    def apart() -> Tensor:
        return sum(drift(*[0.5 * (part == only) for part in range(4)]) for only in range(4))

    torch.testing.assert_close(together(), apart(), rtol=1e-3, atol=1e-5)

    def repeated(z: Tensor, t: float, null: Tensor) -> Tensor:
        if torch.is_grad_enabled() and null.requires_grad:
            with torch.no_grad():
                denoiser.output(z, t, cond)
        return denoiser.output(z, t, null)

    def step(model: Denoiser) -> NullText:
        settings = NullTextSettings(clip.run.cfg, 4, early_stop=0.0, early_stop_growth=0.0)
        given = path, model, cond, clip.prompts.negative
        return optimise_null_text(*given, settings, steps=1)

    def step_checkpointed() -> NullText:
        with denoiser.checkpointed():
            return step(denoiser)

    rows = {
        "STDG, four passes": apart,
        "STDG, one pass": together,
        "null-text step, prediction repeated": partial(step, replace(denoiser, output=repeated)),
        "null-text step, prediction cached": partial(step, denoiser),
        "null-text step, cached, checkpointed": step_checkpointed,
    }
    return {
        name: {"seconds": _seconds(work, repeats), "bytes": peak_memory(work)}
        for name, work in rows.items()
    }


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """The median time of some runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)
