"""Content preservation: where the clip is pulled back, and how hard."""

import pytest
import torch
from rescore.pipelines.distillation.preservation import (
    ContentPreservation,
    accumulated_edit_mask,
    preservation_gradient,
)
from rescore.pipelines.distillation.score_distillation import State
from rescore.pipelines.distillation.terms import Draw, Needs, Predictions, Weighted
from rescore.pipelines.models.process import Level
from rescore.pipelines.windows import Windows
from small_runs import ONE_STEP, run

SHAPE = (2, 3, 5, 13, 17)


def latents(seed=0, shape=SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edited_clip() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A source, its edit with a strong change in a box and a weak one elsewhere, and the box."""
    source = latents()
    box = torch.zeros(2, 1, 5, 13, 17, dtype=torch.float64)
    box[..., 4:10, 5:12] = 1
    return source, source + (0.05 + box) * latents(1).sign(), box


def test_the_gradient_is_that_of_half_the_squared_distance():
    z, source, mask = latents().requires_grad_(), latents(1), torch.rand(2, 1, 5, 13, 17).double()
    loss = ((1 - mask) * (z - source).square()).sum() / 2
    torch.testing.assert_close(
        preservation_gradient(z, source, mask), torch.autograd.grad(loss, z)[0]
    )


def test_a_step_of_1_is_back_at_the_source():
    source, z, box = edited_clip()
    back = z - preservation_gradient(z, source, box)
    outside = (box == 0).expand_as(z)
    torch.testing.assert_close(back[outside], source[outside])
    assert torch.equal(back[~outside], z[~outside])


def test_the_edit_is_seen_in_what_has_changed():
    source, z, box = edited_clip()
    mask = accumulated_edit_mask(z, source, 0.3)
    assert mask.shape == box.shape
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    # All of the box is edited, and at most one latent around it, for the mean over 3 x 3.
    grown = torch.nn.functional.max_pool3d(box, (1, 3, 3), stride=1, padding=(0, 1, 1))
    assert torch.equal(mask * box, box)
    assert torch.equal(mask * grown, mask)


def test_a_higher_threshold_sees_less():
    source, z = latents(), latents() + latents(1) * torch.linspace(0, 1, 17, dtype=torch.float64)
    masks = [accumulated_edit_mask(z, source, t) for t in (0.1, 0.3, 0.6, 0.9)]
    sizes = [int(mask.sum()) for mask in masks]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


def test_neither_the_strength_nor_a_few_wild_latents_decide():
    source, z, _ = edited_clip()
    mask = accumulated_edit_mask(z, source, 0.3)
    assert torch.equal(accumulated_edit_mask(source + 7 * (z - source), source, 0.3), mask)
    z[:, :, 2, 0, 0] += 100
    wild = accumulated_edit_mask(z, source, 0.3)
    wild[:, :, 2, :2, :2] = 0
    assert torch.equal(wild, mask)


def test_clips_of_a_batch_are_seen_by_themselves():
    source, z, _ = edited_clip()
    z[1] = source[1] + 50 * (z[1] - source[1])
    whole = accumulated_edit_mask(z, source, 0.3)
    parts = [accumulated_edit_mask(z[i : i + 1], source[i : i + 1], 0.3) for i in range(2)]
    assert torch.equal(whole, torch.cat(parts))


def test_nothing_is_edited_before_anything_has_changed():
    assert not accumulated_edit_mask(latents(), latents(), 0.3).any()


@pytest.mark.parametrize("threshold", [0.3, None])
def test_the_term(threshold):
    source, z, _ = edited_clip()
    draw = Draw(Level(7, 0.6, 0.8), *(torch.zeros_like(z) for _ in range(3)))
    term = ContentPreservation(threshold)
    result = term(draw, Predictions(), z, source)
    mask = torch.zeros_like(z[:, :1])
    if threshold is not None:
        mask = accumulated_edit_mask(z, source, threshold)
    torch.testing.assert_close(result.gradient, preservation_gradient(z, source, mask))
    assert result.value == pytest.approx(result.gradient.square().mean().item())
    assert term.needs == Needs()


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(ValueError, match="edit threshold"):
        ContentPreservation(threshold)
    with pytest.raises(ValueError, match="edit threshold"):
        accumulated_edit_mask(latents(), latents(1), threshold)


def test_in_windows_what_is_edited_is_that_of_the_whole_clip():
    """The first frames are edited and all others drift a little: only these are pulled back.

    In a window of its own, the largest drift would count as an edit.
    """
    source = latents(0, (1, 4, 11, 5, 7)).float()
    z = source + 0.02 * latents(1, source.shape).float()
    z[:, :, :3, 1:4, 2:5] += 1
    state = State(z, 0, torch.Generator().get_state(), "sgd", {}, (), source)
    terms = [Weighted(ContentPreservation())]
    whole, windowed = (
        run("image", terms, ONE_STEP, source, state=state, windows=windows)[0].z
        for windows in (None, Windows(5, 2))
    )
    torch.testing.assert_close(whole[:, :, 5:], source[:, :, 5:])
    torch.testing.assert_close(windowed, whole)


def test_a_window_is_walked_only_for_terms_that_see_windows():
    walked = []

    def spread(work):
        def each(calls):
            for call in calls:
                walked.append(call[4])
                yield work(*call)

        return each

    terms = [Weighted(ContentPreservation())]
    source = latents(0, (1, 4, 11, 5, 7)).float()
    run("image", terms, ONE_STEP, source, windows=Windows(5, 2), spread=spread)
    assert walked == [slice(0, 11)] * ONE_STEP.steps
