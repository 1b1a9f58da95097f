"""Sample an edit along an inverted clip, while controls tie its attention to the source."""

from collections.abc import Callable, Mapping, Sequence

import torch
from einops import repeat
from torch import Tensor

from ...attention.layers import Control, Plan
from ..controls import RunControls, plan_of, sources_read
from ..models.denoiser import Denoiser, Prompts, Row, guided, numbers_of
from ..models.grid import ClipGrid
from ..models.process import Latents, Level, Prediction, check_grid, move
from ..windows import (
    Windows,
    blended_predictions,
    called_for,
    spans_of,
    text_of,
    without_anchor,
)
from .decoupled_guidance import guided_step
from .trajectory import NullText, Progress, Trajectory

_UNCOND, _COND = ("target", "uncond"), ("target", "cond")  # the clips of the edit
_ALONE = {0: {_UNCOND}, 1: {_COND}}  # by the guidance: the one that counts


@torch.no_grad()
def sample_edit(
    trajectory: Trajectory,
    denoiser: Denoiser,
    prompts: Prompts,
    cfg: float,
    controls: Sequence[Control] = (),
    *,
    grid: ClipGrid | None = None,
    null_text: NullText | None = None,
    windows: Windows | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Latents:
    """Denoise the noise of a trajectory under the target prompt, with controlled attention.

    Implements stage 2 of VideoDirector (Sec. 3.3). Every step is one batched call of the model: the
    edit, and the source at its pivot of that step, if the `controls` of the step read it. With
    `null_text`, its embeddings replace the negative prompt and its guidance acts in each step.
    Without controls this is plain DDIM sampling; under the source prompt it reconstructs the clip.
    Clips longer than the model takes go through it in `windows`. `grid` says how the clip lies on
    its latents; without one there is no padding.

    Deviation: the unconditional rows of source and edit get the same embeddings, not the negative
    prompt for the source. So with equal prompts, source and edit stay equal.

    Raises:
        ValueError: if the parts do not belong together, or the model does not have the layers that
            a control needs.
        FloatingPointError: at the first step that is not finite.
    """
    check_grid(trajectory.levels)
    if null_text is not None:
        null_text.require(trajectory, cfg)
    held = RunControls(controls, denoiser, grid or ClipGrid.of(trajectory.latents[0]))
    edited = _ALONE.get(cfg, {_UNCOND, _COND})
    frames = trajectory.latents.shape[3]
    spans = spans_of(windows, frames)
    z = trajectory.latents[-1]
    for i in range(trajectory.steps):
        level = trajectory.steps - i
        here, there = trajectory.levels[level], trajectory.levels[level - 1]
        uncond, drift = (prompts.negative, None) if null_text is None else null_text.at(i)
        batch = {
            ("source", "uncond"): (trajectory.latents[level], uncond),
            ("source", "cond"): (trajectory.latents[level], prompts.source),
            _UNCOND: (z, uncond),
            _COND: (z, prompts.target),
        }
        parts = []
        for span in spans:
            called = called_for(windows, span)
            acting = held.at(i, trajectory.steps, called)
            rows = edited | sources_read(edited, acting)
            asked = {
                row: (clip[:, :, called], text_of(text, called))
                for row, (clip, text) in batch.items()
                if row in rows
            }
            rows_said = _predicted(asked, here, denoiser, plan_of(acting))
            parts.append({row: without_anchor(p, called) for row, p in rows_said.items()})
        said = {
            row: blended_predictions([part[row] for part in parts], spans, frames) for row in edited
        }
        first, *others = (said[row] for row in (_UNCOND, _COND) if row in said)
        prediction = guided(first, *others, cfg) if others else first
        z = move(prediction, there)
        if drift is not None:
            z = guided_step(z, drift.to(z), here, there, null_text.strength)
        if not bool(torch.isfinite(z).all()):
            raise FloatingPointError(
                f"Sampling left the range of numbers at step {i + 1}: lower cfg (now {cfg:g}); "
                "with a float16 model, try bfloat16 or float32."
            )
        if on_step is not None:
            on_step(Progress(i + 1, trajectory.steps, z))
    return z


def _predicted(
    rows: Mapping[Row, tuple[Latents, Tensor]], level: Level, denoiser: Denoiser, plan: Plan
) -> dict[Row, Prediction]:
    """The predictions for the rows of a step, each `(z, embedding)`, from one call."""
    clips, embeddings = zip(*rows.values(), strict=True)
    frames = clips[0].shape[2]
    if any(embedding.ndim == 4 for embedding in embeddings):
        embeddings = [
            repeat(e, "1 l d -> 1 f l d", f=frames) if e.ndim == 3 else e for e in embeddings
        ]
    cond = torch.cat([embedding.to(clips[-1]) for embedding in embeddings])
    numbers = [number for row in rows for number in numbers_of(row)]
    said = denoiser(torch.cat(clips), level, cond, plan=plan, rows=numbers)
    return dict(zip(rows, said.parts(1), strict=True))
