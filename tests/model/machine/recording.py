"""Rules that record: runs, pipelines, artifacts, chains, predictions, logs."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.model.machine.base import CONFIG, SCORE, WHICH, WHO, MachineBase
from tests.model.materials import arrays_of_a_prediction, materials, prediction
from tests.model.partner import Need, Partner, Verdict

__all__ = ["RecordingRules", "pick"]


def pick(ids: list[str], which: int) -> str:
    """Give one of some ids, counted from the newest."""
    return ids[-1 - which % len(ids)]


class RecordingRules(MachineBase):
    """What a training loop does, in any order."""

    # -- runs and pipelines ----------------------------------------------------------------------

    @rule(who=WHO, config=CONFIG)
    def begin_run(self, who: int, config: Any) -> None:
        """Begin a run."""
        arguments = {"name": "corn", "config": config, "datasets": [{"name": "corn"}]}
        self._made(self.runs, self.world.record(self.partner(who), "begin_run", arguments, commits=True))

    @rule(who=WHO, run=WHICH, failed=st.booleans(), summary=CONFIG)
    def end_run(self, who: int, run: int, failed: bool, summary: Any) -> None:
        """Complete a run, or fail it with its unfinished pipelines."""
        run_id = pick(self.runs, run)
        ending = {"error": "no power"} if failed else {"summary": summary}
        name = "fail_run" if failed else "complete_run"
        needs = (Need("run", run_id),)
        self.world.record(self.partner(who), name, {"run_id": run_id, **ending}, needs, commits=True)

    @rule(who=WHO, run=WHICH, config=CONFIG)
    def begin_pipeline(self, who: int, run: int, config: Any) -> None:
        """Begin a pipeline."""
        run_id = pick(self.runs, run)
        arguments = {
            "run_id": run_id, "name": "pls", "expanded_config": config, "generator_choices": [1, "x"],
            "dataset_name": "corn", "dataset_hash": "",
        }  # fmt: skip
        needs = (Need("run", run_id),)
        made = self.world.record(self.partner(who), "begin_pipeline", arguments, needs, commits=True)
        self._made(self.pipelines, made)

    @rule(who=WHO, pipeline=WHICH, failed=st.booleans(), score=SCORE)
    def end_pipeline(self, who: int, pipeline: int, failed: bool, score: float | None) -> None:
        """Complete a pipeline, or fail it: what it recorded is rolled back."""
        partner, pipeline_id = self.partner(who), pick(self.pipelines, pipeline)
        ending: dict[str, Any] = {"error": "it broke"}
        if not failed:
            ending = {"best_val": score, "best_test": 1.0, "metric": "rmse", "duration_ms": 7}
        name, before = "fail_pipeline" if failed else "complete_pipeline", len(self.world.history)
        needs = (Need("pipeline", pipeline_id),)
        self.world.record(partner, name, {"pipeline_id": pipeline_id, **ending}, needs, commits=True)
        if len(self.world.history) > before:
            self.world.note_end(partner, pipeline_id, "failed" if failed else "completed")

    # -- artifacts, chains, predictions, logs ----------------------------------------------------

    @rule(who=WHO, index=st.integers(0, 6), pipeline=st.none() | WHICH)
    def save_artifact(self, who: int, index: int, pipeline: int | None) -> None:
        """Save a fitted object, for a chain to come or for none."""
        self._save(self.partner(who), index, None if pipeline is None else pick(self.pipelines, pipeline))

    @rule(
        who=WHO,
        pipeline=WHICH,
        scaler=st.none() | st.integers(0, 2),
        models=st.lists(st.integers(3, 6), min_size=1, max_size=3),
        fresh=st.booleans(),
        grid=st.booleans(),
    )
    def save_chain(
        self, who: int, pipeline: int, scaler: int | None, models: list[int], fresh: bool, grid: bool
    ) -> None:
        """Save a chain of artifacts that were just saved, or that somebody saved at some time."""
        partner, pipeline_id = self.partner(who), pick(self.pipelines, pipeline)
        if fresh:
            for index in (*models, *(() if scaler is None else (scaler,))):
                self._save(partner, index, None)
        self._save_chain(partner, pipeline_id, scaler, models, grid)

    @rule(who=WHO, chain=WHICH, score=SCORE, own_id=st.none() | st.integers(0, 2))
    def save_prediction(self, who: int, chain: int, score: float | None, own_id: int | None) -> None:
        """Save the row of a prediction of a chain, sometimes under an id of the caller's."""
        partner, chain_id = self.partner(who), pick(self.chains, chain)
        also: Verdict = "yes"
        prediction_id = None if own_id is None else f"{partner.session}/{own_id}"
        if prediction_id is not None:
            there = self.world.present(partner, "prediction", prediction_id)
            also = "no" if there == "yes" else "yes" if there == "no" else "maybe"
        pipeline_id = self.owners[chain_id]
        arguments = prediction(pipeline_id, chain_id, val_score=score, prediction_id=prediction_id)
        needs = (Need("pipeline", pipeline_id, accepting=True), Need("chain", chain_id))
        made = self.world.record(partner, "save_prediction", arguments, needs, also=also)
        self._made(self.predictions, made)

    @rule(who=WHO, index=WHICH, kind=st.integers(0, 4))
    def save_arrays(self, who: int, index: int, kind: int) -> None:
        """Save a prediction's arrays, at most once."""
        partner, prediction_id = self.partner(who), pick(self.predictions, index)
        if any(prediction_id in other.touched for other in self.world.partners if other is not partner):
            return  # two writers of the same arrays cannot know of each other in time
        calls = (*partner.pending, *(partner.block or ()))
        twice = prediction_id in self.world.state.arrays or any(
            call.arguments["prediction_id"] == prediction_id
            for call in calls
            if call.name == "save_prediction_arrays"
        )
        arguments = {"prediction_id": prediction_id, **arrays_of_a_prediction(kind)}
        needs = (Need("prediction", prediction_id),)
        self.world.record(partner, "save_prediction_arrays", arguments, needs, also="no" if twice else "yes")

    @rule(who=WHO, pipeline=WHICH, level=st.sampled_from(("info", "warning", "critical")))
    def log_step(self, who: int, pipeline: int, level: str) -> None:
        """Log a step; a failed pipeline keeps its log."""
        pipeline_id = pick(self.pipelines, pipeline)
        arguments = {
            "pipeline_id": pipeline_id, "step_idx": 1, "operator_class": "Ridge", "event": "end",
            "duration_ms": 5, "message": "fit", "details": {"r2": float("nan")}, "level": level,
        }  # fmt: skip
        self.world.record(self.partner(who), "log_step", arguments, (Need("pipeline", pipeline_id),))

    @initialize()
    def begin(self) -> None:
        """Make the workspace, with a little of everything in it."""
        self.open_first()
        self.train(0, [3, 4], 1.0)

    @rule(who=WHO, models=st.lists(st.integers(3, 6), min_size=1, max_size=2), score=SCORE)
    def train(self, who: int, models: list[int], score: float | None) -> None:
        """Record what a training loop records, without an end."""
        partner = self.partner(who)
        self.begin_run(who, {"loop": 1})
        self.begin_pipeline(who, 0, None)
        for index in (0, *models):
            self._save(partner, index, self.pipelines[-1] if index % 2 else None)
        self._save_chain(partner, self.pipelines[-1], 0, models, False)
        self.save_prediction(who, 0, score, None)
        self.save_arrays(who, 0, len(models))
        self.log_step(who, 0, "info")

    # -- inside ----------------------------------------------------------------------------------

    def _made(self, ids: list[str], identifier: str | None) -> None:
        if identifier is not None and identifier not in ids:
            ids.append(identifier)

    def _save(self, partner: Partner, index: int, pipeline_id: str | None) -> None:
        if pipeline_id is not None and self.world.failing(partner, pipeline_id):
            return
        material = materials()[index]
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
    ) -> None:
        if self.world.failing(partner, pipeline_id):
            return
        known = materials()
        wanted = [None if i is None else self.ids.get(i, "0" * 64) for i in (scaler, *models)]
        first, folds = wanted[0], wanted[1:]
        steps: list[dict[str, Any]] = [
            {"step_idx": 2, "operator_class": known[3].operator_class, "params": {}}
        ]
        if first is not None:
            steps.insert(0, {"step_idx": 1, "operator_class": known[0].operator_class, "params": {}})
            steps[0] |= {"stateless": False, "artifact_id": first}
        steps[-1] |= {"operator_type": "model"}
        arguments = {
            "pipeline_id": pipeline_id, "steps": steps, "model_step_idx": 2,
            "model_class": known[3].operator_class, "preprocessings": "", "fold_strategy": "per_fold",
            "fold_artifacts": {f"fold_{n}": key for n, key in enumerate(folds)},
            "shared_artifacts": {} if first is None else {"1": [first]},
            "wavelengths": np.linspace(1100.0, 2498.0, 4) if grid else None, "metadata": {"target": "fat"},
        }  # fmt: skip
        needs = [Need("pipeline", pipeline_id, accepting=True)]
        needs += [Need("artifact", key) for key in dict.fromkeys(wanted) if key is not None]
        chain_id = self.world.record(partner, "save_chain", arguments, tuple(needs))
        if chain_id is not None:
            self.owners[chain_id] = pipeline_id
        self._made(self.chains, chain_id)
