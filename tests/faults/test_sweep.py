"""Killed or failed at any system call, an operation loses nothing that it acknowledged and leaves no half."""

from __future__ import annotations

import random

import pytest
from fault_bench import Bench, Outcome, unavailable
from fault_ops import OPERATIONS
from sweep import Card, clean_passes, faults_of, run_faults, sample

_REASON = unavailable()
pytestmark = pytest.mark.skipif(_REASON is not None, reason=_REASON or "")

# So many faults in the default tests, some of each operation; the whole sweep has the marker `slow`.
_SAMPLE = 30


def problems(outcomes: list[Outcome]) -> str:
    return "\n".join(f"{outcome.fault}: {outcome.problems}" for outcome in outcomes if outcome.problems)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_sample_of_faults_costs_nothing(bench: Bench, operation: str) -> None:
    share, left = divmod(_SAMPLE, len(OPERATIONS))
    count = share + (list(OPERATIONS).index(operation) < left)
    faults = sample(faults_of(bench, operation), count, operation)
    # Running it again takes as long as everything else: the whole sweep does that after each fault.
    outcomes = [bench.outcome(fault, again=place == 0) for place, fault in enumerate(faults)]
    assert not problems(outcomes)
    # A sweep whose faults do not happen would find nothing.
    assert sum(outcome.fired for outcome in outcomes) >= count - 1


def test_beyond_the_last_call_an_operation_comes_through(bench: Bench) -> None:
    outcome = bench.outcome(random.Random(1).choice(clean_passes(bench, "delete_run")))
    assert (outcome.fired, outcome.ended, outcome.problems) == (False, "ok", [])


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_fault_at_all_costs_anything(bench: Bench, operation: str) -> None:
    card = Card()
    run_faults([bench], [*faults_of(bench, operation), *clean_passes(bench, operation)], card.add)
    print(card)
    assert not card.problems
