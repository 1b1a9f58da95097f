"""All predictions that the terms of a step need, in as few model calls as possible."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ...attention.layers import Plan, Site
from ...attention.recording import Recorder, forward_recorded
from ..controls import Acting, plan_of, sources_read
from ..models.denoiser import ROWS, Cond, Denoiser, Prompts, Row, guided, numbers_of, pull_back
from ..models.process import Latents, Prediction
from .terms import Draw, Keys, Needs, Predictions

_SOURCE, _TARGET = ("source", "cond"), ("target", "cond")  # whose keys are compared


@dataclass(frozen=True)
class Seen:
    """The predictions of a step, and the vector-Jacobian product from keys to latents."""

    predictions: Predictions  # for all terms together
    pull_back: Callable[[Keys], Latents] | None = None  # from gradients on `keys_target` to `z_t`

    def by(self, needs: Needs, sites: Sequence[Site]) -> Predictions:
        """The part that one term needs; `sites` are the layers whose keys it compares."""
        target, source, keys_target, keys_source = self.predictions
        names = [site.name for site in sites]
        return Predictions(
            target if needs.target else None,
            source if needs.source else None,
            {name: keys_target[name] for name in names} if names else None,
            {name: keys_source[name] for name in names} if names else None,
        )


def without_first(seen: Seen) -> Seen:
    """The same without the first frame, which was there for the model alone: see `Windows`."""
    target, source, keys_target, keys_source = seen.predictions
    guided = (p and Prediction(*(part[:, :, 1:] for part in p)) for p in (target, source))
    keys = (
        k and {name: kept[:, 1:] for name, kept in k.items()} for k in (keys_target, keys_source)
    )

    def pull_back(on_keys: Keys) -> Latents:
        whole = {name: functional.pad(g, (0, 0, 0, 0, 1, 0)) for name, g in on_keys.items()}
        return seen.pull_back(whole)[:, :, 1:]

    return Seen(Predictions(*guided, *keys), seen.pull_back and pull_back)


def predict(
    needs: Needs,
    draw: Draw,
    denoiser: Denoiser,
    prompts: Prompts,
    cfg: float | int,
    *,
    keys: Sequence[Site] = (),
    controls: Sequence[Acting] = (),
    source_cfg: float | int | None = None,
    source_as_negative: bool = False,
    source_negative: Cond | None = None,
) -> Seen:
    """The predictions that `needs` asks for, and the keys of the layers `keys`.

    A guided prediction needs two rows of the batch: without the prompt and with it. With cfg 1 or 0
    only one of them counts, and only that is computed. Source rows that `controls` let the target
    read are computed, too.

    All rows go through the model in one call. If keys are needed, the target row with its prompt
    has a call of its own, with a graph that ends at the last layer whose keys are needed. A call
    that is only for keys stops at that layer.

    `source_cfg` is the guidance of the source; without one it is `cfg`. With `source_as_negative`
    the source prompt is used instead of the negative prompt. `source_negative` is a negative prompt
    for the source alone.
    """
    negatives = {
        "target": prompts.source if source_as_negative else prompts.negative,
        "source": prompts.negative if source_negative is None else source_negative,
    }
    cfgs = {"target": cfg, "source": cfg if source_cfg is None else source_cfg}
    idle = {"uncond": 1, "cond": 0}  # with this cfg, guidance does not use the row
    wanted = {"target": needs.target, "source": needs.source}
    asked = {(clip, kind) for clip, kind in ROWS if wanted[clip] and cfgs[clip] != idle[kind]}
    rows = asked | {_SOURCE, _TARGET} if keys else set(asked)
    rows |= sources_read(rows, controls)
    if not rows:
        return Seen(Predictions())

    calls = _Calls(draw, denoiser, prompts, negatives, controls)
    together = [row for row in ROWS if row in rows and not (keys and row == _TARGET)]
    source = Recorder(keys, numbers_of(_SOURCE, calls.clips)) if keys else None
    # Controls may read the source in any layer, so with controls the call runs to the end.
    output = len(controls) > 0 or not asked.isdisjoint(together)
    said = calls.run(together, draw.z_t, source, output=output)
    if not keys:
        return Seen(Predictions(*_guided(said, wanted, cfgs)))
    target = Recorder(keys, numbers_of(_TARGET, calls.clips))
    # Inference mode makes no graph, and its tensors can be in none.
    with torch.inference_mode(False), torch.enable_grad():
        leaf = draw.z_t.clone().requires_grad_()
        said |= calls.run([_TARGET], leaf, target, output=_TARGET in asked)
        live = {site.name: target.at(site) for site in keys}
    predictions = Predictions(
        *_guided(said, wanted, cfgs),
        {name: kept.detach().float() for name, kept in live.items()},
        {site.name: source.at(site).float() for site in keys},
    )
    return Seen(predictions, partial(_pull_back, leaf, live))


class _Calls:
    """The model calls of one step."""

    def __init__(
        self,
        draw: Draw,
        denoiser: Denoiser,
        prompts: Prompts,
        negatives: Mapping[str, Cond],
        controls: Sequence[Acting],
    ) -> None:
        self.draw, self.denoiser = draw, denoiser
        self.prompts, self.negatives = prompts, negatives
        self.clips = len(draw.z_t)
        self.plan = plan_of(controls, self.clips)
        # With equal prompts, and nothing changed so far, the edit is the source itself.
        still = torch.equal(prompts.source, prompts.target)
        self.still = still and torch.equal(draw.z_t, draw.z_t_source)

    def run(
        self, rows: Sequence[Row], z_t: Latents, recorder: Recorder | None, *, output: bool
    ) -> dict[Row, Prediction]:
        """The predictions for some rows; `z_t` are the target's latents. None without `output`."""
        if not rows:
            return {}
        if self.still and not self.plan and recorder is None:
            return self._of_one_clip(rows)
        z = torch.cat([z_t if clip == "target" else self.draw.z_t_source for clip, _ in rows])
        texts = torch.cat([self._text(row).expand(self.clips, -1, -1) for row in rows])
        numbers = [number for row in rows for number in numbers_of(row, self.clips)]

        def call(plan: Plan) -> Prediction:
            return self.denoiser(z, self.draw.level, texts, plan=plan, rows=numbers)

        if recorder is None:
            said = call(self.plan)
        else:
            said = forward_recorded(call, [recorder], plan=self.plan, output=output)
        if said is None:
            return {}
        return dict(zip(rows, said.parts(self.clips), strict=True))

    def _of_one_clip(self, rows: Sequence[Row]) -> dict[Row, Prediction]:
        """The predictions if both clips and both prompts are equal: equal rows are computed once.

        Equal rows of a batch can get results that differ in the last bit. Then an edit that should
        change nothing would change something.
        """
        texts: list[Cond] = []
        numbers: dict[Row, int] = {}
        for row in rows:
            text = self._text(row)
            equal = (i for i, known in enumerate(texts) if torch.equal(known, text))
            numbers[row] = next(equal, len(texts))
            texts += [text] * (numbers[row] == len(texts))
        z = torch.cat([self.draw.z_t_source] * len(texts))
        conds = torch.cat([text.expand(self.clips, -1, -1) for text in texts])
        said = self.denoiser(z, self.draw.level, conds).parts(self.clips)
        return {row: said[number] for row, number in numbers.items()}

    def _text(self, row: Row) -> Tensor:
        clip, kind = row
        return getattr(self.prompts, clip) if kind == "cond" else self.negatives[clip]


def _guided(
    said: Mapping[Row, Prediction], wanted: Mapping[str, bool], cfgs: Mapping[str, float | int]
) -> tuple[Prediction | None, Prediction | None]:
    """The guided predictions for the target and for the source; None if not wanted."""
    both = []
    for clip in ("target", "source"):
        # A row that was not computed has weight 0 in guidance, so the other row can replace it.
        cond = said.get((clip, "cond"), said.get((clip, "uncond")))
        uncond = said.get((clip, "uncond"), cond)
        both.append(guided(uncond, cond, cfgs[clip]) if wanted[clip] else None)
    return tuple(both)


def _pull_back(leaf: Latents, live: Keys, on_keys: Keys) -> Latents:
    """The gradient on `z_t`, from gradients on the target's keys."""
    return pull_back(list(on_keys.values()), [live[name] for name in on_keys], leaf, keep=True)
