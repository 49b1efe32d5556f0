"""The commits decide what the catalog holds: neither the machine that applies them, nor how many at a time."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pytest
from storekit import commit_rows, digests

from nirs_store.db import apply as apply_module
from nirs_store.db import changes as changes_module
from nirs_store.db.journal import Journal
from nirs_store.db.layout import Layout, make_folders
from nirs_store.db.schema import column_names, create_statements
from nirs_store.db.sql import StagedRows

NOW = datetime(2026, 1, 1)
Rows = dict[str, list[tuple[Any, ...]]]


class Log:
    """Commits over a few ids, in an order that no careful program would write them in.

    Children come before their parents, owners are dead, ids come twice, clocks are wrong by hours.
    """

    def __init__(self, seed: int, *, refused: bool) -> None:
        self.refused = refused
        self.random = random.Random(seed)
        self.left: dict[str, list[str]] = {}

    def commits(self, count: int) -> Iterator[Rows]:
        for place in range(count):
            rows: Rows = {}
            for _ in range(self.random.randint(1, 5)):
                table = self.random.choice(list(self.makers))
                row = self.makers[table](self)
                # A damaged commit is refused whole, and few are to be.
                if row[0] not in [other[0] for other in rows.get(table, ())]:
                    rows.setdefault(table, []).append(row)
            if self.refused and place % (count // 3) == count // 4:
                rows = {"runs": [self.row("runs", run_id="twice")]}
            yield rows

    def row(self, table: str, **values: Any) -> tuple[Any, ...]:
        filled = {
            "name": "n", "status": "running", "created_at": self.moment(), "dataset_name": "d", "model_name": "m",
            "model_class": "c", "fold_id": "f", "partition": "val", "metric": "rmse", "task_type": "regression",
            "preprocessings": "", "steps": "[]", "model_step_idx": 0, "fold_strategy": "", "artifact_path": "p",
            "content_hash": "h", "operator_class": "c", "artifact_type": "t", "format": "joblib", "size_bytes": 1,
            "chain_path": "", "class_name": "c", "library_version": "1", "host": "h", "started_at": NOW,
            "made_at": self.moment(), "owner_kind": "session",
        }  # fmt: skip
        return tuple({**filled, **values}.get(name) for name in column_names(table))

    def moment(self) -> datetime:
        return NOW + timedelta(minutes=self.random.randint(-90, 90))

    def some(self, kind: str, count: int = 5) -> str:
        return f"{kind}{self.random.randrange(count)}"

    def once(self, kind: str, count: int) -> str:
        """An id that others may have named before, and no row has had."""
        left = self.left.setdefault(kind, [f"{kind}{number}" for number in range(count)])
        return left.pop(self.random.randrange(len(left))) if left else self.fresh(kind)

    def fresh(self, kind: str) -> str:
        return f"{kind}-{self.random.getrandbits(40):010x}"

    def session(self) -> tuple[Any, ...]:
        return self.row("sessions", session_id=self.some("s", 3))

    def run(self) -> tuple[Any, ...]:
        return self.row("runs", run_id=self.once("r", 6))

    def pipeline(self) -> tuple[Any, ...]:
        return self.row("pipelines", pipeline_id=self.once("p", 12), run_id=self.some("r", 6))

    def chain(self) -> tuple[Any, ...]:
        return self.row("chains", chain_id=self.once("c", 20), pipeline_id=self.some("p", 12))

    def prediction(self) -> tuple[Any, ...]:
        owners = {"pipeline_id": self.some("p", 12), "chain_id": self.some("c", 20)}
        return self.row("predictions", prediction_id=self.once("q", 30), **owners)

    def arrays(self) -> tuple[Any, ...]:
        # Of predictions, but each once: the arrays have the ids of these.
        ident = self.once("arrays of q", 30).removeprefix("arrays of ")
        return self.row("prediction_arrays", prediction_id=ident, pipeline_id=self.some("p", 12))

    def blob(self) -> tuple[Any, ...]:
        return self.row("blobs", artifact_id=self.some("a", 4), operator_class=self.some("class"))

    def reference(self) -> tuple[Any, ...]:
        kind, owner = (
            ("session", self.some("s", 3)) if self.random.random() < 0.7 else ("chain", self.some("c", 20))
        )
        pipeline = self.some("p", 12) if self.random.random() < 0.5 else None
        return self.row(
            "artifact_refs", ref_id=self.fresh("id"), artifact_id=self.some("a", 4), owner_kind=kind,
            owner_id=owner, pipeline_id=pipeline,
        )  # fmt: skip

    def record(self) -> tuple[Any, ...]:
        ident = self.some("rec", 4)
        # With the commits that are refused, records of one id differ, and are dropped.
        artifact = self.some("a", 4) if self.refused else ident.replace("rec", "a")
        return self.row(
            "artifact_records", record_id=ident, artifact_id=artifact, pipeline_id=self.some("p", 12)
        )

    def takeover(self) -> tuple[Any, ...]:
        return (self.fresh("id"), self.some("s", 3), self.some("a", 4))

    def change(self) -> tuple[Any, ...]:
        kind = self.random.choice(
            ["complete_pipeline"] * 3
            + ["fail_pipeline", "fail_run", "complete_run", "edit_run", "end_session", "audit"]
        )
        target = {
            "fail_run": ("r", 6),
            "complete_run": ("r", 6),
            "edit_run": ("r", 6),
            "end_session": ("s", 3),
        }
        payload = {
            "metric": self.some("m"),
            "error": self.some("e"),
            "add_tags": [self.some("t")],
            "operation": "x",
        }
        ident = self.some(*target.get(kind, ("p", 12)))
        return (self.fresh("change"), kind, ident, self.moment(), json.dumps(payload))

    makers: ClassVar[dict[str, Any]] = {
        "sessions": session, "runs": run, "pipelines": pipeline, "chains": chain, "predictions": prediction,
        "prediction_arrays": arrays, "blobs": blob, "artifact_refs": reference, "artifact_records": record,
        "takeovers": takeover, "changes": change,
    }  # fmt: skip


@contextmanager
def catalog() -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty catalog in which some things were deleted."""
    with duckdb.connect(":memory:") as con:
        con.execute("ATTACH ':memory:' AS store")
        con.execute("USE store")
        for statement in create_statements():
            con.execute(statement)
        for ident in ("r0", "p0", "q0"):
            con.execute("INSERT INTO dead VALUES (?, 'deleted', ?)", [ident, NOW])
        yield con


def applied(folder: Path, copy: Path, at_once: int, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Digests of the tables after the commits of a folder were applied, so many at once."""
    shutil.copytree(folder, copy)
    patch.setattr(apply_module, "_CHUNK_SEGMENTS", at_once)
    report = apply_module.ApplyReport()
    with catalog() as con:
        apply_module.apply_journal(
            con, Journal(Layout(copy)), set(), report, arriving=StagedRows(),
            count_change=lambda con: None, on_commit=lambda entries: None,
        )  # fmt: skip
        assert report.segments > 40, report.rejected
        return {
            **digests(con),
            "rejected": sorted(each.txid for each in report.rejected),
            "lost": report.dropped,
        }


@pytest.mark.parametrize(
    ("seed", "refused"),
    [(0, False), (0, True), *(pytest.param(seed, False, marks=pytest.mark.slow) for seed in (1, 2))],
)
def test_commits_give_the_same_rows_however_many_are_applied_at_once_and_whenever(
    tmp_path: Path, seed: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "log"
    make_folders(Layout(folder), False)
    for rows in Log(seed, refused=refused).commits(60):
        commit_rows(folder, rows)
    found = {}
    for hours, at_once in enumerate((1, 7, 256)):
        moment = NOW + timedelta(hours=hours)
        for module in (apply_module, changes_module):
            monkeypatch.setattr(module, "now_naive", lambda moment=moment: moment)
        found[at_once] = applied(folder, tmp_path / str(at_once), at_once, monkeypatch)
    assert found[7] == found[1]
    assert found[256] == found[1]
