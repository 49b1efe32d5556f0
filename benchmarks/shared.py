"""Time a shared workspace, and in the same rounds a folder and MLflow on the same servers.

    python -m benchmarks.shared                       100,000 predictions, less than six minutes
    python -m benchmarks.shared --full                1,000,000
    python -m benchmarks.shared --server postgresql://lab@db/nirs --s3 http://store:9000 --bucket bench

Without addresses it starts PostgreSQL and moto on this computer. In those that are named it leaves workspaces called
``bench-...``. `benchmarks.kill_loops` measures the rest: what kills lose.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import numpy as np

from benchmarks.peers import python_of
from benchmarks.servers import CREDENTIALS, Child, obey, object_store, postgresql, slow_line
from nirs_store.store import WorkspaceStore

_BYTES = 300_000
_MODELS = ("PLSRegression", "Ridge", "SVR", "Lasso", "MLPRegressor")
_HELD_BACK = (0, 1, 10)
_FOREIGN = (0, 2, 16, 64, 256)


def pipeline(
    store: WorkspaceStore, run_id: str, blobs: int = 5, predictions: int = 5, numbers: int = 60
) -> None:
    """Record a pipeline with one model per fold, as a cross-validation does."""
    rng = np.random.default_rng()
    dataset, model = f"set{rng.integers(5)}", _MODELS[rng.integers(5)]
    pipeline_id = store.begin_pipeline(run_id, "pls", {}, [], dataset, "hash")
    ids = [store.save_artifact(rng.bytes(_BYTES), "builtins.bytes", "model", "joblib") for _ in range(blobs)]
    folds = {f"fold_{number}": ident for number, ident in enumerate(ids)}
    steps = [{"step_idx": 0, "operator_class": "builtins.bytes", "params": {}}]
    chain_id = (
        store.save_chain(pipeline_id, steps, 0, "builtins.bytes", "raw", "per_fold", folds, {})
        if ids
        else None
    )
    for fold, score in enumerate(rng.uniform(0.1, 2.0, predictions).tolist()):
        prediction_id = store.save_prediction(
            pipeline_id, chain_id, dataset, model, model, f"fold_{fold}", "val", score, None, None, "rmse",
            "regression", 60, 100, {"rmse": score}, {}, None, None, 0, 0.0,
        )  # fmt: skip
        if numbers:
            store.save_prediction_arrays(prediction_id, rng.normal(size=numbers), rng.normal(size=numbers))
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 5)


def timed(work: Callable[[], object]) -> float:
    """Return the milliseconds of one call."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1000


def worst(values: list[float]) -> float:
    """Return the 99th percentile."""
    return sorted(values)[min(len(values) - 1, round(len(values) * 0.99))]


@dataclass
class Figure:
    """One row of the table: the times of each contestant in all rounds."""

    unit: str
    goal: str
    reached: Callable[[Figure], bool] | None
    of: Callable[[list[float]], float]
    shared: list[float] = field(default_factory=list)
    folder: list[float] = field(default_factory=list)
    mlflow: list[float] = field(default_factory=list)

    def __getitem__(self, column: str) -> float:
        return self.of(getattr(self, column))

    def cell(self, column: str) -> str:
        if not getattr(self, column):
            return ""
        value = self[column]
        digits = 0 if value >= 100 or value == int(value) else 1 if value >= 1 else 2
        return f"{value:,.{digits}f} {self.unit}".strip()

    def line(self, name: str) -> str:
        ratio = f"{self['shared'] / self['folder']:.2f}×" if self.unit and self.folder and self.shared else ""
        verdict = "" if self.reached is None else "reached" if self.reached(self) else "**missed**"
        cells = (name, *map(self.cell, ("shared", "folder")), ratio, self.cell("mlflow"), self.goal, verdict)
        return f"| {' | '.join(cells)} |"


class Table:
    """All figures, printed as soon as they are known."""

    def __init__(self) -> None:
        self.rows: dict[str, Figure] = {}

    def row(
        self,
        name: str,
        goal: str = "",
        reached: Callable[[Figure], bool] | None = None,
        *,
        unit: str = "ms",
        of: Callable[[list[float]], float] = statistics.median,
    ) -> Figure:
        return self.rows.setdefault(name, Figure(unit, goal, reached, of))

    def show(self) -> None:
        print("| | shared | folder | | MLflow | goal | |\n|---|---:|---:|---:|---:|---|---|")
        for name, row in self.rows.items():
            print(row.line(name))


class Bench:
    """The servers, workspaces and child processes of one run."""

    def __init__(self, given: argparse.Namespace, scratch: Path, stack: ExitStack) -> None:
        self.scratch, self.stack, self.table = scratch, stack, Table()
        self.bucket = given.bucket
        server, s3 = given.server, given.s3
        if server is None:
            server = f"postgresql://lab@127.0.0.1:{stack.enter_context(postgresql(scratch / 'pg'))}/postgres"
        if s3 is None:
            s3 = f"http://127.0.0.1:{stack.enter_context(object_store(self.bucket))}"
            os.environ.update(CREDENTIALS)
        self.lines = {0: (server, s3)}
        for held_back in _HELD_BACK[1:]:
            self.lines[held_back] = (self._slow(server, 5432, held_back), self._slow(s3, 80, held_back))
        self.mlflow: dict[int, list[Child]] = {}
        python = given.mlflow or python_of("mlflow")
        if python is None:
            print("MLflow is left out: python -m benchmarks peers makes its environment")
        else:
            self._start_mlflow(python)

    def _slow(self, address: str, default: int, held_back: float) -> str:
        parts = urllib.parse.urlsplit(address)
        if parts.hostname not in ("127.0.0.1", "localhost"):
            return address
        port = self.stack.enter_context(slow_line(parts.port or default, held_back))
        return address.replace(f":{parts.port}", f":{port}", 1)

    def _start_mlflow(self, python: Path) -> None:
        import psycopg

        database = f"mlflow{uuid4().hex[:8]}"
        with psycopg.connect(self.lines[0][0], autocommit=True) as con:
            con.execute(f"CREATE DATABASE {database}")
        for held_back in (0, *_HELD_BACK[1:], 0, 0, 0):
            server, s3 = self.lines[held_back]
            uri = server.replace("postgresql:", "postgresql+psycopg2:", 1).rpartition("/")[0] + f"/{database}"
            command = (python, "-m", "benchmarks.mlflow_shared", uri, self.bucket)
            child = Child(*command, MLFLOW_S3_ENDPOINT_URL=s3)
            self.stack.callback(child.close)
            self.mlflow.setdefault(held_back, []).append(child)
            if sum(map(len, self.mlflow.values())) == 1:
                child.answer()  # it makes the tables, which two cannot do at a time
        for child in [each for children in self.mlflow.values() for each in children][1:]:
            child.answer()

    def place(self, name: str, *, held_back: int = 0, far: bool = True) -> str:
        """Return the address of a workspace; with `far` its blobs are in S3, otherwise in a folder."""
        server, s3 = self.lines[held_back]
        workspace = f"bench-{uuid4().hex[:8]}"
        blobs = (self.scratch / f"{workspace}-blobs").as_uri()
        if far:
            blobs = f"s3://{self.bucket}/{workspace}?endpoint={s3}"
        place = f"{server}?workspace={workspace}"
        WorkspaceStore(f"{place}&replica={self.scratch / workspace}", blobs=blobs).close()
        return f"{place}&replica={self.scratch / f'{workspace}-{name}'}"

    def other(self, place: str) -> str:
        """Return the same workspace on another computer."""
        return f"{place}-{uuid4().hex[:6]}"

    def folder(self) -> str:
        return str(self.scratch / f"folder-{uuid4().hex[:8]}")

    def open(self, place: str, **options: bool) -> WorkspaceStore:
        store = WorkspaceStore(place, **options)  # type: ignore[arg-type]
        self.stack.callback(store.close)
        return store

    # -- the figures -----------------------------------------------------------------------------

    def s1(self, times: int) -> None:
        """Time a pipeline with five models and a folder in turn, and again with slow connections."""
        places = [(f"S1 {_MODELS_TEXT}, blobs in a folder", 0, self.place("one", far=False))]
        for held_back in _HELD_BACK:
            slow = f", {held_back} ms away" if held_back else ", blobs in S3"
            places.append((f"S1 {_MODELS_TEXT}{slow}", held_back, self.place("one", held_back=held_back)))
        for name, held_back, place in places:
            with WorkspaceStore(place) as shared, WorkspaceStore(self.folder()) as folder:
                trip = self._trip(held_back)
                if held_back:
                    goal, limit = f"folder + 4 round trips of {trip:.1f} ms", 4 * trip
                    row = self.table.row(
                        name, goal, lambda f, limit=limit: f["shared"] <= f["folder"] + limit
                    )
                else:
                    row = self.table.row(name, "at most 2.5×", lambda f: f["shared"] <= 2.5 * f["folder"])
                runs = [(store, store.begin_run("r", {}, [])) for store in (shared, folder)]
                for store, run_id in runs:
                    pipeline(store, run_id)
                for _ in range(times):
                    for column, (store, run_id) in zip(("shared", "folder"), runs, strict=True):
                        getattr(row, column).append(timed(lambda s=store, r=run_id: pipeline(s, r)))
            if self.mlflow and "folder" not in name:
                row.mlflow += self.mlflow[held_back][0].ask("times", times + 1, 5)[1:]

    def _trip(self, held_back: int) -> float:
        """Return the milliseconds of a round trip to PostgreSQL."""
        import psycopg

        with psycopg.connect(self.lines[held_back][0], autocommit=True) as con:
            return statistics.median(timed(lambda: con.execute("SELECT 1")) for _ in range(20))

    def s2(self, times: int) -> None:
        """Time only the commit of a pipeline with arrays and without models."""
        half = self.table.row("S2 append of 61 kB, median", "at most 3 ms", lambda f: f["shared"] <= 3)
        last = self.table.row(
            "S2 append of 61 kB, 99 %", "at most 30 ms", lambda f: f["shared"] <= 30, of=worst
        )
        whole = self.table.row("S2 pipeline with five scores, no models")
        stores = [self.open(self.place("one")), self.open(self.folder())]
        runs = [store.begin_run("r", {}, []) for store in stores]
        sizes: list[int] = []
        found: list[list[float]] = [[], []]
        for store, taken in zip(stores, found, strict=True):
            journal = store._engine.journal

            def append(pieces, txid, *rest, appending=journal.append, taken=taken):  # type: ignore[no-untyped-def]
                answers = []
                took = timed(lambda: answers.append(appending(pieces, txid, *rest)))
                size = sum(map(len, pieces))
                if size > 30_000:
                    taken.append(took)
                    sizes.append(size)
                return answers[0]

            journal.append = append  # type: ignore[method-assign]
        for _ in range(times):
            for store, run_id in zip(stores, runs, strict=True):
                pipeline(store, run_id, 0, 5, 730)
        assert 50_000 < statistics.median(sizes) < 70_000, statistics.median(sizes)
        for row in (half, last):
            row.shared += found[0]
            row.folder += found[1]
        for _ in range(times):
            for column, store, run_id in zip(("shared", "folder"), stores, runs, strict=True):
                getattr(whole, column).append(timed(lambda s=store, r=run_id: pipeline(s, r, 0)))
        if self.mlflow:
            whole.mlflow += self.mlflow[0][0].ask("times", times, 0)

    def s3(self, seconds: float) -> None:
        """Time several processes that record without querying."""
        for count in (4, 8):
            for blobs, far, words in (
                (0, False, "no models"),
                (5, False, "5 models in a folder"),
                (5, True, "5 models in S3"),
            ):
                floor = 50 if blobs else 150
                name = f"S3 {count} writers, {words}"
                row = self.table.row(
                    name, f"at least {floor}/s", lambda f, floor=floor: f["shared"] >= floor, unit="/s"
                )
                fair = self.table.row(
                    f"{name}: most / least", "at most 2", lambda f: f["shared"] <= 2, unit="", of=max
                )
                for column in ("shared", "folder") if not far else ("shared",):
                    place = self.place("one", far=far) if column == "shared" else self.folder()
                    WorkspaceStore(place).close()
                    children = [
                        Child(sys.executable, "-m", __spec__.name, "child", place) for _ in range(count)
                    ]
                    for child in children:
                        child.answer()
                    counts = self._counts(children, seconds, blobs)
                    for child in children:
                        child.close()
                    getattr(row, column).append(sum(counts) / seconds)
                    getattr(fair, column).append(max(counts) / max(1, min(counts)))
                if self.mlflow and count == 4 and (far or not blobs):
                    row.mlflow.append(sum(self._counts(self.mlflow[0], seconds, blobs)) / seconds)

    def _counts(self, children: list[Child], seconds: float, blobs: int) -> list[int]:
        for child in children:
            child.send("seconds", seconds, blobs)
        return [len(child.answer()) for child in children]

    def s4(self) -> None:
        """Time a query after commits of others, and count missed commits."""
        missed = self.table.row("S4 commits missed", "0", lambda f: f["shared"] == 0, unit="", of=sum)
        for column, place in (("shared", self.place("one")), ("folder", self.folder())):
            one = self.open(place)
            run_id = one.begin_run("fresh", {}, [])
            pipeline(one, run_id, 0)
            if column == "folder":
                asking = Child(sys.executable, "-m", __spec__.name, "asking", place, run_id)
                asking.answer()
            else:
                asking = Child(sys.executable, "-m", __spec__.name, "asking", self.other(place), run_id)
                asking.answer()
            asking.ask("question")
            total = 1
            for foreign in _FOREIGN:
                for _ in range(foreign):
                    pipeline(one, run_id, 0)
                total += foreign
                took, seen = asking.ask("question")
                row = self.table.row(f"S4 question after {foreign} foreign commits")
                getattr(row, column).append(took)
                getattr(missed, column).append(total - seen)
            asking.close()

    def s5_s6(self, predictions: int) -> None:
        """Time queries of a large catalog, and the first query on a new computer."""
        places = self.place("one"), self.folder()
        children = [Child(sys.executable, "-m", __spec__.name, "child", place) for place in places]
        for child in children:
            child.answer()
            child.send("times", predictions // 15, 0, 15, 0)
        for child in children:
            child.answer()
            child.close()
        stores = [self.open(place) for place in places]
        for name, question in (
            ("top 10", lambda store: store.top_predictions(10, dataset_name="set3")),
            ("mean and SD", lambda store: store.aggregate_predictions("model_class")),
        ):
            row = self.table.row(
                f"S5 {name} of {predictions:,}, warm",
                "folder + 1 ms",
                lambda f: f["shared"] <= f["folder"] + 1,
            )
            for store in stores:
                question(store)
            for _ in range(40):
                for column, store in zip(("shared", "folder"), stores, strict=True):
                    getattr(row, column).append(timed(lambda s=store, q=question: q(s)))
        look = self.table.row("S5 one look at the head", "at most 1 ms", lambda f: f["shared"] <= 1)
        look.shared += [timed(stores[0]._engine.journal.is_empty) for _ in range(40)]
        many = predictions // 100_000
        replay = self.table.row(
            f"S6 new computer, replay of {predictions // 15:,} commits", f"at most {10 * many} s",
            lambda f: f["shared"] <= 10 * many, unit="s",
        )  # fmt: skip
        limit = 1 if many == 1 else 5
        copied = self.table.row(
            "S6 new computer, snapshot", f"at most {limit} s", lambda f: f["shared"] <= limit, unit="s"
        )
        made = self.table.row("S6 making the snapshot", unit="s")
        replay.shared.append(timed(lambda: asked(self.other(places[0]))) / 1000)
        made.shared.append(timed(lambda: publish(stores[0])) / 1000)
        copied.shared += [timed(lambda: asked(self.other(places[0]))) / 1000 for _ in range(3)]

    def s7(self, times: int) -> None:
        """Time a direct change, and recording by another process during changes."""
        last = self.table.row(
            "S7 direct change, 99 %", "at most 150 ms", lambda f: f["shared"] <= 150, of=worst
        )
        half = self.table.row("S7 direct change, median")
        meanwhile = self.table.row("S7 direct change while another records, 99 %", of=worst)
        places = self.place("one"), self.folder()
        for column, place in zip(("shared", "folder"), places, strict=True):
            store = self.open(place)
            run_id = store.begin_run("r", {}, [])
            store.flush()

            def pin(store: WorkspaceStore = store, run_id: str = run_id) -> float:
                return timed(lambda: store.retention.pin(run_id, "x"))

            pin()
            found = [pin() for _ in range(times)]
            getattr(last, column).extend(found)
            getattr(half, column).extend(found)
            recorder = Child(sys.executable, "-m", __spec__.name, "child", place)
            recorder.answer()
            alone = recorder.ask("seconds", 2, 0)
            recorder.send("seconds", 2, 0)
            end = time.perf_counter() + 1.9
            while time.perf_counter() < end:
                getattr(meanwhile, column).append(pin())
            during = recorder.answer()
            recorder.close()
            for name, of in (("median", statistics.median), ("99 %", worst)):
                for words, values in (("alone", alone), ("during direct changes", during)):
                    row = self.table.row(f"S7 a recorded pipeline {words}, {name}", of=of)
                    getattr(row, column).extend(values)


_MODELS_TEXT = "pipeline with 5 models"


def asked(place: str) -> None:
    """Open a workspace read-only and query it."""
    with WorkspaceStore(place, read_only=True) as store:
        assert store.list_runs().height


def publish(store: WorkspaceStore) -> None:
    """Publish a snapshot."""
    from nirs_store.shared import snapshots
    from nirs_store.shared.opening import parts_of

    snapshots.publish(store._engine, *parts_of(store._engine))


def child(place: str) -> None:
    """Record on request of the parent."""
    with WorkspaceStore(place) as store:
        run_id = store.begin_run("r", {}, [])
        obey(lambda numbers: pipeline(store, run_id, *numbers))


def asking(place: str, run_id: str) -> None:
    """Report how long a query took and how many pipelines it found."""
    with WorkspaceStore(place) as store:
        print("[]", flush=True)
        for _ in sys.stdin:
            begin = time.perf_counter()
            count = store.list_pipelines(run_id).height
            print(f"[{(time.perf_counter() - begin) * 1000}, {count}]", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", help="a database of a PostgreSQL server; the default is started here")
    parser.add_argument("--s3", help="the address of an S3 server; the default is moto, started here")
    parser.add_argument("--bucket", default="bench", help="a bucket that is there")
    parser.add_argument("--mlflow", type=Path, help="a Python with MLflow, psycopg2 and boto3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--full", action="store_true", help="1,000,000 predictions")
    parser.add_argument("--only", nargs="*", default=("s1", "s2", "s3", "s4", "s5", "s7"))
    given = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-shared-") as name, ExitStack() as stack:
        Path(name).chmod(0o755)  # PostgreSQL may run as another user
        bench = Bench(given, Path(name), stack)
        try:
            for number in range(given.rounds):
                for figure, measure in {
                    "s1": lambda: bench.s1(given.times),
                    "s2": lambda: bench.s2(5 * given.times),
                    "s4": bench.s4,
                    "s7": lambda: bench.s7(4 * given.times),
                }.items():
                    if figure in given.only:
                        measure()
                        print(
                            f"round {number + 1}: {figure}, {time.monotonic() - begin:.0f} s", file=sys.stderr
                        )
            if "s3" in given.only:
                bench.s3(3.0)
                print(f"s3, {time.monotonic() - begin:.0f} s", file=sys.stderr)
            if "s5" in given.only:
                bench.s5_s6(1_000_000 if given.full else 100_000)
        finally:  # what is known is shown also when the rest is broken off
            bench.table.rows = dict(sorted(bench.table.rows.items(), key=lambda item: item[0][:2]))
            bench.table.show()
    print(f"{time.monotonic() - begin:.0f} s in all", file=sys.stderr)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["child", place]:
            child(place)
        case ["asking", place, run_id]:
            asking(place, run_id)
        case _:
            main()
