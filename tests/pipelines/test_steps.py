"""Shares of a run in whole steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rescore.pipelines.steps import acts, whole_steps


@pytest.mark.parametrize(
    ("share", "steps", "whole"),
    [(0.55, 100, 55), (0.29, 100, 29), (0.4, 50, 20), (0.25, 50, 12), (0.35, 25, 8), (1.0, 7, 7)],
)
def test_a_share_is_the_whole_number_below_it(share, steps, whole):
    """As `int(share * steps)` in VideoDirector's code, but for what floating point does to it."""
    assert whole_steps(share, steps) == whole
    assert sum(acts(0.0, share, step, steps) for step in range(steps)) == whole


@given(st.integers(0, 1000), st.integers(1, 10000))
def test_hundredths_and_thousandths_are_exact(thousandths, steps):
    assert whole_steps(thousandths / 1000, steps) == thousandths * steps // 1000


@given(st.floats(0, 1), st.integers(1, 60))
def test_what_ends_and_what_begins_at_a_share_take_turns(share, steps):
    """SA-I and SA-II: every step has one of the two."""
    for step in range(steps):
        assert acts(0.0, share, step, steps) != acts(share, 1.0, step, steps)
