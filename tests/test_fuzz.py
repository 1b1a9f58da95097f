"""A seeded part of the campaign of damaged inputs."""

import sys

import pytest
from rescore.benchmarks.fuzz import FAULTS, campaign
from rescore.benchmarks.fuzz_inputs import SOUND, SOUND_CASES, UNDERSIZED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cases are watched through /proc")
SECONDS = 60  # that a case may take; most take a tenth of one


def test_the_undamaged_inputs_are_read():
    verdicts = list(campaign([(SOUND, number) for number in range(SOUND_CASES)], SECONDS))
    unread = [verdict for verdict in verdicts if verdict.outcome != "done"]
    assert {verdict.what for verdict in unread} == set(UNDERSIZED), list(map(str, unread))
    assert {verdict.outcome for verdict in unread} == {"told"}


@pytest.mark.parametrize(
    ("kind", "cases"), [("workflow", 60), ("image", 80), ("video", 60), ("model", 40)]
)
def test_damaged_inputs_are_read_or_told_of(kind, cases):
    verdicts = list(campaign([(kind, seed) for seed in range(cases)], SECONDS))
    assert [str(verdict) for verdict in verdicts if verdict.outcome in FAULTS] == []
    # Most damage is seen, and some does no harm: the campaign does not run against a wall.
    outcomes = [verdict.outcome for verdict in verdicts]
    assert outcomes.count("told") > cases / 4 and "done" in outcomes
