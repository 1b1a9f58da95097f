"""The mask nodes, as the host runs them."""

import pytest
import torch


def test_a_box_that_moves(run, clip):
    images = clip(3, 20, 40)
    still = run("ReScoreBoxMask", images=images, left=0.0, right=0.5, top=0.0, bottom=1.0)[0]
    assert still.shape == (3, 20, 40)
    assert torch.equal(still[..., :20], torch.ones(3, 20, 20))
    assert torch.equal(still[..., 20:], torch.zeros(3, 20, 20))
    moving = run(
        "ReScoreBoxMask", images=images, left=0.0, right=0.25, moves=True, end_left=0.75,
        end_right=1.0,
    )[0]  # fmt: skip
    assert moving[:, 10].argmax(1).tolist() == [0, 15, 30]


@pytest.mark.parametrize(
    "node", ["ReScoreBoundingBoxMask", "ReScoreEllipseMask", "ReScoreGrowFeatherMask"]
)
def test_masks_keep_their_number_and_size_and_are_not_changed_in_place(run, node):
    mask = torch.zeros(3, 11, 13)
    mask[0, 4:8, 5] = 1
    mask[1, 2, 3] = 1
    before = mask.clone()
    changed = run(node, mask=mask)[0]
    assert changed.shape == mask.shape
    assert torch.equal(mask, before)
    assert bool((changed >= mask).all())
    assert torch.equal(changed[2], mask[2])
    assert run(node, mask=mask[0])[0].shape == (1, 11, 13)


def test_grow_and_feather_by_nothing_is_the_mask(run):
    mask = torch.rand(2, 5, 7)
    assert torch.equal(run("ReScoreGrowFeatherMask", mask=mask, grow=0, feather=0.0)[0], mask)


def test_editing_the_background_exchanges_both(run):
    mask = torch.zeros(1, 5, 7)
    mask[0, 2, 3] = 1
    guidance = run("ReScoreDecoupledGuidance", mask=mask, motion_background=0.8)[0]
    inverted, swapped = run("ReScoreEditBackground", mask=mask, guidance=guidance)
    assert torch.equal(inverted, 1 - mask)
    assert swapped.settings == guidance.settings.swapped()
    assert swapped.settings.keys_foreground == 0.5 and swapped.settings.keys_background == 0.0
    assert torch.equal(swapped.mask, mask)
    assert run("ReScoreEditBackground", mask=mask)[1] is None


def test_what_is_no_mask_is_told(run):
    with pytest.raises(ValueError, match="a MASK of"):
        run("ReScoreEllipseMask", mask=torch.zeros(1, 2, 3, 4))
