"""A Hypothesis state machine that drives a real store and its model side by side.

Whoever writes a store of their own, or changes this one, inherits from `StoreMachine`, says how a store
is opened and how one is dropped as by a crash, and runs it::

    class TestMyStore(StoreMachine.TestCase):
        settings = settings(max_examples=50, stateful_step_count=50, deadline=None)

Hypothesis is needed here, and nowhere else in the package (``pip install "nirs-store[test]"``).
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from nirs_store.catalog import recorder
from nirs_store.errors import NirsStoreError, UnknownId
from nirs_store.store import WorkspaceStore
from nirs_store.testing.materials import (
    arrays_of_a_prediction,
    fitted_models,
    fitted_scalers,
    prediction,
    spectra,
)
from nirs_store.testing.observe import blob_files, expected_of, observed_of, plain, score_order
from nirs_store.testing.sidebyside import Future, Need, Partner, SideBySide, Verdict, describe_difference

__all__ = ["StoreMachine"]

# Mostly the first store object: changing over costs a real store the opening of its catalog.
_WHO = st.sampled_from((0, 0, 0, 1))
_SCORE = st.sampled_from((0.5, 1.0, 2.5, float("nan"), None))
_CONFIG = st.sampled_from(({"a": 1}, None, [], {"lr": float("nan"), "ö": [True, "x"]}, {"n": {"m": 2**40}}))


class _Regret(Exception):
    """Ends a transaction."""


class StoreMachine(RuleBasedStateMachine):
    """Two store objects on one folder against a model in plain Python.

    Override `open_store` and `crash_store` to test another store. A rule of a subclass finds the store
    objects in ``self.world.partners``, and ends with `look` if it changed anything.
    """

    runs: ClassVar[Bundle[str]] = Bundle("runs")
    pipelines: ClassVar[Bundle[str]] = Bundle("pipelines")
    chains: ClassVar[Bundle[str]] = Bundle("chains")
    predictions: ClassVar[Bundle[str]] = Bundle("predictions")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="nirs-store-machine-"))
        self.world = SideBySide()
        self.owners: dict[str, str] = {}
        self.objects: dict[str, Any] = {}
        self.ids: dict[int, str] = {}
        self._abandoned: list[Any] = []
        self._around = ExitStack()
        # Rows of one store object that another had deleted: the store says aloud that it drops them.
        self._around.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Committed rows were dropped")
        # No commit because of the time that a step took: the same steps have to give the same result.
        self._around.enter_context(patch.object(recorder, "FLUSH_AFTER", 3600.0))

    # -- what a subclass overrides ---------------------------------------------------------------

    def open_store(self, folder: Path) -> Any:
        """Open a store object on the folder; the first call makes the workspace."""
        return WorkspaceStore(folder)

    def crash_store(self, store: Any) -> None:
        """Drop a store object without letting it commit anything, as if its process had been killed."""
        store._engine.abort()

    def check_folder(self, folder: Path) -> None:
        """Look at the folder itself; called after every step."""
        for name in ("rejected", "aside"):
            left = sorted(path.name for path in (folder / "journal" / name).iterdir())
            assert not left, f"journal/{name} is not empty: {left}"

    # -- beginning and end -----------------------------------------------------------------------

    @initialize()
    def open_first(self) -> None:
        """Make the workspace."""
        self.world.join(self.open_store(self.folder))

    def teardown(self) -> None:
        """Close everything and look a last time through a fresh store object."""
        try:
            if self.world.partners:
                for partner in list(self.world.partners):
                    if partner.block is not None:
                        self.world.commit(partner)
                    partner.store.close()
                    self.world.leave(partner)
                self.look(self.world.join(self.open_store(self.folder)))
                self.folder_fits()
        finally:
            for partner in self.world.partners:
                partner.store.close()
            self._abandoned.clear()
            self._around.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    @invariant()
    def folder_fits(self) -> None:
        """Blobs on disk are those with a row, those on their way to one, and those a crash left."""
        if not self.world.partners:
            return
        files = blob_files(self.folder)
        wanted = {row["artifact_path"]: key for key, row in self.world.state.artifacts.items()}
        coming = {a for p in self.world.partners for call in (*p.pending, *(p.block or ())) for a in call.artifacts}
        coming |= self.world.stray
        for path, digest in files.items():
            assert path.startswith(f"artifacts/{digest[:2]}/{digest}."), f"{path} holds other bytes: {digest}"
            assert path in wanted or digest in coming, f"{path} should have been removed"
        lost = sorted(wanted.keys() - files.keys())
        assert not lost, f"blobs with a row are gone: {lost}"
        self.check_folder(self.folder)

    # -- runs and pipelines ----------------------------------------------------------------------

    @rule(target=runs, who=_WHO, config=_CONFIG)
    def begin_run(self, who: int, config: Any) -> Any:
        """Begin a run."""
        arguments = {"name": "corn", "config": config, "datasets": [{"name": "corn"}]}
        return _made(self.world.record(self.partner(who), "begin_run", arguments, commits=True))

    @rule(who=_WHO, run_id=runs, summary=_CONFIG)
    def complete_run(self, who: int, run_id: str, summary: Any) -> None:
        """Complete a run."""
        arguments = {"run_id": run_id, "summary": summary}
        self.world.record(self.partner(who), "complete_run", arguments, (Need("run", run_id),), commits=True)

    @rule(who=_WHO, run_id=runs)
    def fail_run(self, who: int, run_id: str) -> None:
        """Fail a run with its unfinished pipelines."""
        arguments = {"run_id": run_id, "error": "no power"}
        self.world.record(self.partner(who), "fail_run", arguments, (Need("run", run_id),), commits=True)

    @rule(target=pipelines, who=_WHO, run_id=runs, config=_CONFIG)
    def begin_pipeline(self, who: int, run_id: str, config: Any) -> Any:
        """Begin a pipeline."""
        arguments = {
            "run_id": run_id, "name": "pls", "expanded_config": config, "generator_choices": [1, "x"],
            "dataset_name": "corn", "dataset_hash": "",
        }  # fmt: skip
        needs = (Need("run", run_id),)
        return _made(self.world.record(self.partner(who), "begin_pipeline", arguments, needs, commits=True))

    @rule(who=_WHO, pipeline_id=pipelines, score=_SCORE)
    def complete_pipeline(self, who: int, pipeline_id: str, score: float | None) -> None:
        """Complete a pipeline."""
        arguments = {
            "pipeline_id": pipeline_id, "best_val": score, "best_test": 1.0, "metric": "rmse", "duration_ms": 7
        }  # fmt: skip
        self._end_pipeline(who, pipeline_id, "complete_pipeline", arguments)

    @rule(who=_WHO, pipeline_id=pipelines)
    def fail_pipeline(self, who: int, pipeline_id: str) -> None:
        """Fail a pipeline: what it recorded is rolled back."""
        self._end_pipeline(who, pipeline_id, "fail_pipeline", {"pipeline_id": pipeline_id, "error": "broke"})

    def _end_pipeline(self, who: int, pipeline_id: str, name: str, arguments: dict[str, Any]) -> None:
        partner = self.partner(who)
        before = len(self.world.history)
        self.world.record(partner, name, arguments, (Need("pipeline", pipeline_id),), commits=True)
        if len(self.world.history) > before:
            self.world.note_end(partner, pipeline_id, "failed" if name == "fail_pipeline" else "completed")

    # -- artifacts, chains, predictions, logs ----------------------------------------------------

    @rule(who=_WHO, index=st.integers(0, 6), pipeline_id=st.none() | pipelines)
    def save_artifact(self, who: int, index: int, pipeline_id: str | None) -> None:
        """Save a fitted object, for a chain to come or for none."""
        self._save(self.partner(who), index, pipeline_id)

    @rule(
        target=chains,
        who=_WHO,
        pipeline_id=pipelines,
        scaler=st.none() | st.integers(0, 2),
        models=st.lists(st.integers(3, 6), min_size=1, max_size=3),
        fresh=st.booleans(),
        grid=st.booleans(),
    )
    def save_chain(
        self, who: int, pipeline_id: str, scaler: int | None, models: list[int], fresh: bool, grid: bool
    ) -> Any:
        """Save a chain of artifacts that were just saved, or that somebody saved at some time."""
        partner = self.partner(who)
        if fresh:
            for index in (*models, *(() if scaler is None else (scaler,))):
                self._save(partner, index, None)
        return _made(self._save_chain(partner, pipeline_id, scaler, models, grid))

    @rule(target=predictions, who=_WHO, chain_id=chains, score=_SCORE, own_id=st.none() | st.integers(0, 2))
    def save_prediction(self, who: int, chain_id: str, score: float | None, own_id: int | None) -> Any:
        """Save the row of a prediction of a chain."""
        return _made(self._predict(self.partner(who), chain_id, score, own_id))

    @rule(who=_WHO, prediction_id=predictions, kind=st.integers(0, 4))
    def save_arrays(self, who: int, prediction_id: str, kind: int) -> None:
        """Save a prediction's arrays, at most once."""
        partner = self.partner(who)
        if any(prediction_id in other.touched for other in self.world.partners if other is not partner):
            return  # two writers of the same arrays cannot know of each other in time
        calls = [call for call in (*partner.pending, *(partner.block or ())) if call.name == "save_prediction_arrays"]
        twice = prediction_id in self.world.state.arrays
        twice |= any(call.arguments["prediction_id"] == prediction_id for call in calls)
        arguments = {"prediction_id": prediction_id, **arrays_of_a_prediction(kind)}
        needs = (Need("prediction", prediction_id),)
        self.world.record(partner, "save_prediction_arrays", arguments, needs, also="no" if twice else "yes")

    @rule(who=_WHO, pipeline_id=pipelines, level=st.sampled_from(("info", "warning", "critical")))
    def log_step(self, who: int, pipeline_id: str, level: str) -> None:
        """Log a step; a failed pipeline keeps its log."""
        arguments = {
            "pipeline_id": pipeline_id, "step_idx": 1, "operator_class": "Ridge", "event": "end",
            "duration_ms": 5, "message": "fit", "details": {"r2": float("nan")}, "level": level,
        }  # fmt: skip
        self.world.record(self.partner(who), "log_step", arguments, (Need("pipeline", pipeline_id),))

    @rule(targets=(chains,), who=_WHO, models=st.lists(st.integers(3, 6), min_size=1, max_size=2), score=_SCORE)
    def train(self, who: int, models: list[int], score: float | None) -> Any:
        """Record what a training loop records, without an end: the state gets dense."""
        partner = self.partner(who)
        run_id = self.begin_run(who, {"loop": 1})
        pipeline_id = self.begin_pipeline(who, run_id, None)
        for index in (0, *models):
            self._save(partner, index, pipeline_id if index % 2 else None)
        chain_id = self._save_chain(partner, pipeline_id, 0, models, False)
        assert chain_id is not None, "a chain of a new pipeline was refused"
        prediction_id = self._predict(partner, chain_id, score, None)
        self.save_arrays(who, str(prediction_id), len(models))
        self.log_step(who, pipeline_id, "info")
        return chain_id

    # -- deletion and cleaning -------------------------------------------------------------------

    @rule(who=_WHO, prediction_id=predictions)
    def delete_prediction(self, who: int, prediction_id: str) -> None:
        """Delete a prediction with its arrays."""
        self._change(who, "delete_prediction", {"prediction_id": prediction_id})

    @rule(who=_WHO, run_id=runs, files=st.booleans())
    def delete_run(self, who: int, run_id: str, files: bool) -> None:
        """Delete a run, with or without its files."""
        self._change(who, "delete_run", {"run_id": run_id, "delete_artifacts": files})

    @rule(who=_WHO, grace=st.sampled_from((0.0, 0.0, 3600.0)))
    def collect(self, who: int, grace: float) -> None:
        """Collect garbage; a dry run says before what is going to be done."""
        partner = self.partner(who)
        self.world.acknowledge(partner)
        plan = partner.store.gc_artifacts(dry_run=True, grace_seconds=grace)
        removed = self._change(who, "gc_artifacts", {"grace_seconds": grace})
        claimed = any(p.claims for p in self.world.partners)
        assert removed == len(plan.files) or (claimed and removed < len(plan.files)), (
            f"gc planned to remove {plan.files} and removed {removed} files"
        )

    @rule(who=_WHO)
    def vacuum(self, who: int) -> None:
        """Rewrite the catalog."""
        partner = self.partner(who)
        partner.store.vacuum()
        self.world.acknowledge(partner)
        self.look(partner)

    # -- coming and going ------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.partners) < 2)
    @rule()
    def open_another(self) -> None:
        """Open a second store object on the folder."""
        self.world.join(self.open_store(self.folder))

    @precondition(lambda self: self.idle())
    @rule(who=_WHO)
    def close(self, who: int) -> None:
        """Close a store object; the last one is opened again."""
        partner = self.partner(who)
        if partner.block is None:
            partner.store.close()
            self.world.leave(partner)
            if not self.world.partners:
                self.world.join(self.open_store(self.folder))

    @rule(who=_WHO)
    def crash(self, who: int) -> None:
        """Kill a store object; another one sees all that was acknowledged, and whole rows only."""
        partner = self.partner(who)
        self._abandoned.append(partner.transaction)
        self.crash_store(partner.store)
        fresh = self.world.join(self.open_store(self.folder))
        self.world.lose(partner, lambda: self._observe(fresh), expected_of)

    # -- transactions ----------------------------------------------------------------------------

    @rule(who=_WHO)
    def begin_transaction(self, who: int) -> None:
        """Open a transaction, unless one is open."""
        partner = self.partner(who)
        if partner.block is None:
            self.world.begin(partner)

    @precondition(lambda self: not self.idle())
    @rule(regret=st.booleans())
    def end_transaction(self, regret: bool) -> None:
        """Commit a transaction, or leave it by an exception."""
        partner = next(p for p in self.world.partners if p.block is not None)
        if regret:
            self.world.roll_back(partner, _Regret())
        else:
            self.world.commit(partner)

    @rule(who=_WHO)
    def flush(self, who: int) -> None:
        """Commit what is buffered."""
        partner = self.partner(who)
        partner.store.flush()
        self.world.acknowledge(partner)

    # -- looking ---------------------------------------------------------------------------------

    @rule(who=_WHO)
    def look_at_everything(self, who: int) -> None:
        """Compare all that a store object shows with the model."""
        self.look(self.partner(who))

    @rule(who=_WHO, metric=st.sampled_from(("val_score", "train_score")), ascending=st.booleans(), n=st.integers(1, 4))
    def rank(self, who: int, metric: str, ascending: bool, n: int) -> None:
        """Compare a leaderboard."""
        partner = self.partner(who)
        rows = partner.store.top_predictions(n, metric=metric, ascending=ascending).to_dicts()
        self.world.acknowledge(partner)

        def expect(state: Any) -> Any:
            top = Future(state, {}).player(partner).top_predictions(n, metric=metric, ascending=ascending)
            return score_order(top.to_dicts(), metric)

        self.world.settle(score_order(rows, metric), expect, partner)

    @rule(who=_WHO, chain_id=chains, seed=st.integers(0, 3))
    def replay(self, who: int, chain_id: str, seed: int) -> None:
        """Replay a chain: to the last bit what its fitted objects give."""
        partner, new = self.partner(who), spectra(seed)
        there = self.world.present(partner, "chain", chain_id, in_block=False)
        try:
            seen = partner.store.replay_chain(chain_id, new)
        except NirsStoreError as error:
            assert there != "yes", f"chain {chain_id} cannot be replayed: {error!r}"
            assert there == "maybe" or isinstance(error, UnknownId), f"unknown chain: {error!r}"
            return
        assert there != "no", f"chain {chain_id} does not exist and was replayed"
        partner.touched.add(chain_id)
        expected = self._replayed(chain_id, new)
        assert plain(seen) == plain(expected), describe_difference(expected, seen, f"replay of {chain_id}")

    @rule(who=_WHO, index=st.integers(0, 6))
    def load(self, who: int, index: int) -> None:
        """Load an artifact by its id."""
        partner, material = self.partner(who), (*fitted_scalers(), *fitted_models())[index]
        artifact_id = self.ids.get(index, "0" * 64)
        there = self.world.present(partner, "artifact", artifact_id)
        try:
            seen = partner.store.load_artifact(artifact_id)
        except NirsStoreError as error:
            assert there != "yes", f"artifact {artifact_id} cannot be loaded: {error!r}"
            return
        assert there != "no", f"artifact {artifact_id} does not exist and was loaded"
        assert vars(seen).keys() == vars(material.fitted).keys()

    # -- inside ----------------------------------------------------------------------------------

    def partner(self, who: int) -> Partner:
        """Give the store object that a rule was dealt; the first when there is no second."""
        partners = self.world.partners
        return partners[who % len(partners)]

    def idle(self) -> bool:
        """Whether no transaction is under way."""
        return all(partner.block is None for partner in self.world.partners)

    def look(self, partner: Partner) -> None:
        """Compare all that a store object shows with the model; what it had buffered is durable then."""
        seen = self._observe(partner)
        self.world.acknowledge(partner)
        self.world.settle(seen, expected_of, partner)

    def _observe(self, partner: Partner) -> dict[str, Any]:
        return observed_of(partner.store, sorted(self.world.saved))

    def _change(self, who: int, name: str, arguments: dict[str, Any]) -> Any:
        """Make a call that changes the catalog at once, and compare what it says and leaves."""
        partner = self.partner(who)
        result = getattr(partner.store, name)(**arguments)
        self.world.change(partner, name, arguments, result)
        self.look(partner)
        return result

    def _save(self, partner: Partner, index: int, pipeline_id: str | None) -> None:
        material = (*fitted_scalers(), *fitted_models())[index]
        arguments = {
            "obj": material.fitted, "operator_class": material.operator_class,
            "artifact_type": material.artifact_type, "format": "joblib", "pipeline_id": pipeline_id,
        }  # fmt: skip
        needs = () if pipeline_id is None else (Need("pipeline", pipeline_id, accepting=True),)
        artifact_id = self.world.record(partner, "save_artifact", arguments, needs)
        if artifact_id is not None:
            self.objects[artifact_id], self.ids[index] = material.fitted, artifact_id

    def _save_chain(
        self, partner: Partner, pipeline_id: str, scaler: int | None, models: list[int], grid: bool
    ) -> str | None:
        materials = (*fitted_scalers(), *fitted_models())
        wanted = [None if i is None else self.ids.get(i, "0" * 64) for i in (scaler, *models)]
        first, folds = wanted[0], wanted[1:]
        steps: list[dict[str, Any]] = [{"step_idx": 2, "operator_class": materials[3].operator_class, "params": {}}]
        if first is not None:
            steps.insert(0, {"step_idx": 1, "operator_class": materials[0].operator_class, "params": {}})
            steps[0] |= {"stateless": False, "artifact_id": first}
        steps[-1] |= {"operator_type": "model"}
        arguments = {
            "pipeline_id": pipeline_id, "steps": steps, "model_step_idx": 2,
            "model_class": materials[3].operator_class, "preprocessings": "", "fold_strategy": "per_fold",
            "fold_artifacts": {f"fold_{n}": key for n, key in enumerate(folds)},
            "shared_artifacts": {} if first is None else {"1": [first]},
            "wavelengths": np.linspace(1100.0, 2498.0, 4) if grid else None, "metadata": {"target": "fat"},
        }  # fmt: skip
        needs = [Need("pipeline", pipeline_id, accepting=True)]
        needs += [Need("artifact", key) for key in dict.fromkeys(wanted) if key is not None]
        chain_id = self.world.record(partner, "save_chain", arguments, tuple(needs))
        if chain_id is not None:
            self.owners[chain_id] = pipeline_id
        return chain_id

    def _predict(self, partner: Partner, chain_id: str, score: float | None, own_id: int | None) -> str | None:
        also: Verdict = "yes"
        prediction_id = None if own_id is None else f"{partner.session}/{own_id}"
        if prediction_id is not None:
            also = {"yes": "no", "no": "yes", "maybe": "maybe"}[  # type: ignore[assignment]
                self.world.present(partner, "prediction", prediction_id)
            ]
        pipeline_id = self.owners[chain_id]
        arguments = prediction(pipeline_id, chain_id, val_score=score, prediction_id=prediction_id)
        needs = (Need("pipeline", pipeline_id, accepting=True), Need("chain", chain_id))
        return self.world.record(partner, "save_prediction", arguments, needs, also=also)

    def _replayed(self, chain_id: str, new: Any) -> Any:
        arguments = next(c for c in self.world.history if c.result == chain_id).arguments
        for ids in arguments["shared_artifacts"].values():
            new = self.objects[ids[0]].transform(new)
        folds = [self.objects[key].predict(new) for key in arguments["fold_artifacts"].values()]
        return folds[0] if len(folds) == 1 else np.mean(np.stack(folds), axis=0)


def _made(identifier: str | None) -> Any:
    return multiple() if identifier is None else identifier
