"""Killed or failed at any system call, an operation loses nothing that it acknowledged and leaves no half."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import duckdb
import pytest
from fault_bench import Bench, Call, Fault, Outcome, unavailable
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


# What must not happen to rows from before an operation, or beside it; each alone must fail a sweep.
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE measurements SET prediction = 0",
        "DELETE FROM sample_references WHERE value = 1",
        "DELETE FROM calibration_aliases",
        "UPDATE calibration_versions SET content_hash = ''",
        "DELETE FROM file_versions",
        "DELETE FROM dataset_retired",
        "DELETE FROM audit_entries WHERE number = 3",
        "DELETE FROM artifact_refs WHERE owner_kind = 'dataset'",
        "COPY (SELECT 1) TO 'half.n4a'",
    ],
)
def test_the_audit_sees_what_is_lost_or_half(
    bench: Bench, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, known = bench.prepared("usual")
    workspace = tmp_path / "workspace"
    shutil.copytree(source, workspace)
    (workspace / "shared").mkdir(exist_ok=True)
    monkeypatch.chdir(workspace / "shared")
    with duckdb.connect(workspace / "store.duckdb") as con:
        con.execute(damage)
    found = bench.audit("set_alias", workspace, known, [], repeat=False)
    assert found["lost"] or found["half"]


def test_a_version_that_nobody_deletes_may_not_vanish(bench: Bench, tmp_path: Path) -> None:
    source, known = bench.prepared("usual")
    workspace = tmp_path / "workspace"
    shutil.copytree(source, workspace)
    acks = [["dataset", "corn 1@v1", "", []]]
    assert bench.audit("datasets", workspace, known, acks, repeat=False)["lost"]
    acks.append(["letting go", "corn 1@v1"])
    found = bench.audit("datasets", workspace, known, acks, repeat=False)
    assert found == {"lost": [], "half": [], "repeat": []}


def test_a_store_that_stays_broken_after_an_error_that_passed_is_a_problem(bench: Bench) -> None:
    fault = Fault("gc", "main", Call("write", 1, "", {}), "EIO")
    error = {"typed": True, "text": "no"}
    assert not Outcome(fault, True, "error", [error], [], [], []).problems
    assert Outcome(fault, True, "error", [error, error], [], [], []).problems


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
