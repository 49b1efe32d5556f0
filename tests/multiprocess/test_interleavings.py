"""GC against savers and deletions, in every order that a seed comes up with: no blob is ever missing."""

from __future__ import annotations

import hashlib
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import steps
from storekit import Child

from nirs_store.store import WorkspaceStore

SAVERS = ("a", "b")
POINTS = ("claimed", "blob written", "before the commit")


class Company:
    """Two savers, a deleter and a collector on one workspace, and what they were promised."""

    def __init__(self, folder: Path, start: Callable[..., Child]) -> None:
        self.folder = folder
        self._start = start
        WorkspaceStore(folder).close()
        self.children = {name: start(steps.saver, folder) for name in SAVERS}
        self.children |= {"deleter": start(steps.deleter, folder), "gc": start(steps.collector, folder)}
        # What the living sessions were handed, and the artifact of each run that is there.
        self.held: dict[str, list[str]] = {name: [] for name in SAVERS}
        self.runs: dict[str, str] = {}
        self.seen: Counter[str] = Counter()
        self.removed = 0
        self.at: dict[str, str] = {}

    def interleave(self, seed: int) -> None:
        """Give everybody something to do and let them go on in an order drawn from the seed."""
        draw = random.Random(seed)
        todo: dict[str, list[Any]] = {name: self._program(draw, name, seed // 40) for name in SAVERS}
        todo["gc"] = ["gc"] * draw.choice((1, 2))
        # Most of what was recorded goes, so that there is always something to collect.
        gone = draw.sample(
            sorted(self.runs), draw.randint(max(0, len(self.runs) - 2), max(0, len(self.runs) - 1))
        )
        todo["deleter"] = [(run_id, draw.random() < 0.5) for run_id in gone]
        doing: dict[str, Any] = {}
        # Often one saver stands still at a point until the collector is through: chance alone seldom does that.
        still = draw.choice((None, *[(name, point) for name in SAVERS for point in POINTS]))
        while any(todo.values()) or doing:
            ready = [name for name in self.children if todo[name] or name in doing]
            who = draw.choice(self._free(ready, still) or ready)
            if who not in doing:
                doing[who] = todo[who].pop(0)
                if who == "deleter":
                    # From now on it may be gone; whether it is, is asked at the end.
                    self.runs.pop(doing[who][0])
                if doing[who] == ("close", 0):
                    self.held[who] = []
                self.children[who].tell(doing[who])
            elif who in SAVERS and draw.random() < 0.01:
                self._kill(who)
                todo[who], _ = [], doing.pop(who)
                continue
            else:
                self.children[who].tell()
            kind, what = self.children[who].hear()
            self.seen[what if kind == "at" else kind] += 1
            self.at[who] = what if kind == "at" else ""
            if kind != "at":
                self._note(who, doing.pop(who), kind, what)

    def _free(self, ready: list[str], still: tuple[str, str] | None) -> list[str]:
        """Who may go on; one saver stands still, and the collector waits for that."""
        if still is None or "gc" not in ready or still[0] not in ready:
            return ready
        arrived = self.at.get(still[0]) == still[1]
        return [name for name in ready if name != (still[0] if arrived else "gc")]

    def _program(self, draw: random.Random, who: str, newest: int) -> list[Any]:
        known = [""] * 3 + sorted(set(self.runs.values()))
        # Mostly of one's own, so that what one lets go of is held by nobody.
        own = 3 * newest + SAVERS.index(who)
        kinds = draw.choice((("save", "chain"), *[("close", "save")] * 4, ("save", "close"), ("save",)))
        made = {
            "save": lambda: draw.choice((own, own, own, 3 * newest + 2)),
            "chain": lambda: draw.choice(known),
            "close": lambda: 0,
        }
        return [(kind, made[kind]()) for kind in kinds]

    def _note(self, who: str, task: Any, kind: str, what: Any) -> None:
        if who == "gc":
            self.removed += what or 0
        elif who in SAVERS and kind == "done" and task[0] == "save":
            self.held[who].append(what)
        elif who in SAVERS and kind == "done" and task[0] == "chain":
            self.runs[what] = ""

    def _kill(self, who: str) -> None:
        self.children[who].signal(signal.SIGKILL)
        self.children[who].end()
        self.children[who] = self._start(steps.saver, self.folder)
        self.held[who] = []
        self.seen["killed"] += 1

    def look(self) -> None:
        """Everybody rests: what a row names and what a living session holds is there, byte for byte."""
        with WorkspaceStore(self.folder) as store:
            rows = store.sql(
                "SELECT p.run_id, r.artifact_id FROM artifact_refs r JOIN chains c ON r.owner_id = c.chain_id "
                "JOIN pipelines p ON c.pipeline_id = p.pipeline_id"
            ).rows()
        now = dict(rows)
        assert self.runs.keys() <= now.keys(), "a run that nobody deleted is gone"
        self.runs = now
        for artifact_id in {*now.values(), *(key for keys in self.held.values() for key in keys)}:
            (path,) = (self.folder / "artifacts" / artifact_id[:2]).glob(f"{artifact_id}.*")
            assert hashlib.sha256(path.read_bytes()).hexdigest() == artifact_id
        assert list((self.folder / "journal" / "aside").iterdir()) == []

    def plan_and_collect(self) -> None:
        """A dry run, then the real one, with nobody in between."""
        self.children["gc"].tell("both")
        _, (same, removed) = self.children["gc"].hear()
        assert same, "the dry run and what was done differ"
        self.removed += removed


@pytest.mark.parametrize(
    ("first", "count"),
    [(0, 15), *(pytest.param(n, 2500, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]) for n in (10**4, 10**5, 10**6, 10**7))],
)  # fmt: skip
def test_no_blob_is_ever_missing(memory: Path, crew: Callable[..., Any], first: int, count: int) -> None:
    company = Company(memory / "workspace", crew)
    for number in range(count):
        company.interleave(first + number)
        if number % 10 == 9:
            company.look()
            company.plan_and_collect()
    company.look()
    print(f"{count} interleavings: {dict(company.seen)}, {company.removed} files removed")
    # They met at every point, and there was something to remove and something to keep.
    assert {"claimed", "blob written", "before the commit", "committed"} <= company.seen.keys()
    assert {"after trash", "after read_claims", "before the rows go"} <= company.seen.keys()
    assert company.removed > 0
    assert company.runs
    for name in SAVERS:
        company.children[name].tell(("close", 0))
        while company.children[name].hear()[0] == "at":
            company.children[name].tell()
    with WorkspaceStore(memory / "workspace") as store:
        report = store.check(read_data=True)
        assert report.errors == ()
