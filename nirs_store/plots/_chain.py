"""What figures read of a stored chain, through the public queries of a store only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains import ReplayPlan, fold_key
from nirs_store.chains.family import components_of, recipe_of, samples_of, splitter_of
from nirs_store.chains.one_target import place_of, say_which
from nirs_store.chains.operators import Workbench
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.plots._figure import Floats
from nirs_store.protocol import ReadsRuns
from nirs_store.reading.cells import FARTHEST_NM

if TYPE_CHECKING:
    from nirs_store.diagnosing.coefficients import RegressionVector

#: Measured, predicted, and the samples' row numbers or names where known.
Predicted = tuple[Floats, Floats, NDArray[Any] | None]

_FINAL = fold_key("final")


def chain_data(store: ReadsRuns, chain_id: str) -> ChainData:
    """Return what is known of a chain."""
    chain = store.get_chain(chain_id)
    if chain is None:
        raise UnknownId("chain", chain_id)
    return ChainData(store, chain)


def sibling_chains(store: ReadsRuns, chain_id: str) -> list[ChainData]:
    """Return the chains of a run whose scores compare with those of `chain_id`, itself included, oldest first."""
    # They predict the same target, in the same unit, of the same data set. Those that a retention deleted are among
    # them, with the score that they had.
    own = chain_data(store, chain_id)
    pipeline = store.get_pipeline(own.chain["pipeline_id"])
    if pipeline is None:
        return [own]
    live = [ChainData(store, row) for row in store.get_chains_for_run(pipeline["run_id"])]
    past = [
        PastChain(store, row)
        for row in store.past_chains(run_id=pipeline["run_id"]).iter_rows(named=True)
        if row["operation"] == "retention"
    ]
    about = (pipeline["dataset_name"], own.target, own.unit)
    alike = [each for each in (*live, *past) if (each.chain["dataset_name"], each.target, each.unit) == about]
    for each in alike:
        each.dataset_hash = each.chain["dataset_hash"]
    # Ids rise with the time of recording.
    return sorted(alike, key=lambda each: each.chain_id)


class ChainData:
    """A chain with its predictions, arrays and models, each read when it is first asked for."""

    deleted = False

    def __init__(self, store: ReadsRuns, chain: dict[str, Any]) -> None:
        self.store = store
        self.chain = chain
        self.chain_id: str = chain["chain_id"]
        self.metadata: dict[str, Any] = chain.get("metadata") or {}
        self.target = str(chain.get("target") or self.metadata.get("target") or "")
        self.unit = str(chain.get("target_unit") or self.metadata.get("target_unit") or "")
        self.dataset_hash: str | None = None
        self.wavelength_unit = str(self.metadata.get("wavelength_unit") or self._likely_unit())
        self.preprocessings = str(chain.get("preprocessings") or "")
        self.model_class = _class_name(str(chain["model_class"]))

    def _likely_unit(self) -> str:
        """Take a grid of unknown unit for nm where it can be one in near infrared; else leave the unit open."""
        grid = self.wavelengths
        return "nm" if grid is None or (grid.min() >= 300 and grid.max() <= FARTHEST_NM) else ""

    @property
    def wavelengths(self) -> Floats | None:
        grid = self.chain.get("wavelengths")
        return None if grid is None else np.asarray(grid, dtype=np.float64)

    @property
    def title(self) -> str:
        """The chain in words: ``SNV > SG(deriv=1) > PLS(10)``."""
        parts = [self.preprocessings, self.model_label()] if self.preprocessings else [self.model_label()]
        return " > ".join(parts)

    def model_label(self) -> str:
        """Name the model, ``PLS(10)``, as it was recorded, else from its class."""
        recorded = str(self.metadata.get("preprocessing_chain") or "")
        before = f"{self.preprocessings} > " if self.preprocessings else ""
        if recorded.startswith(before) and recorded != before:
            return recorded.removeprefix(before)
        count = self.n_components(load=False)
        short = "PLS" if self.model_class == "PLSRegression" else self.model_class
        return short if count is None else f"{short}({count})"

    def n_components(self, *, load: bool = True) -> int | None:
        """Return the number of latent variables, from the recorded parameters or the model itself."""
        recorded = components_of(self.chain)
        if recorded is not None or not load:
            return recorded
        for model in self.models().values():
            count = getattr(getattr(model, "best_estimator_", model), "n_components", None)
            if isinstance(count, int):
                return count
        return None

    @property
    def splitter(self) -> tuple[str, str]:
        """The splitter with its parameters but the seed, and the seed; empty where none was recorded."""
        return splitter_of(self.chain)

    @property
    def samples(self) -> str:
        """What tells the samples, measured values included, from others; empty where that was not recorded."""
        return samples_of(self.chain, self.dataset_hash)

    def recipe(self) -> str:
        """Return the steps with all parameters but the number of latent variables and the splitter."""
        return recipe_of(self.chain)

    def repeat_sd(self) -> float | None:
        """Return the standard deviation of the RMSECV over the repeats of this chain's cross-validation."""
        pooled = self.metadata.get("cross_validation") or {}
        value = pooled.get("repeat_sd") if self.metadata.get("metric") == "rmse" else None
        return None if value is None else float(value)

    @cached_property
    def predictions(self) -> list[dict[str, Any]]:
        """Rows of the chain's predictions, in the order they were recorded."""
        frame = self.store.query_predictions(chain_id=self.chain_id)
        return sorted(frame.iter_rows(named=True), key=lambda row: str(row["prediction_id"]))

    @cached_property
    def is_regression(self) -> bool:
        task = self.metadata.get("task_type")
        tasks = [task] if task else [row["task_type"] for row in self.predictions]
        return all(each == "regression" for each in tasks)

    def score_name(self) -> str:
        """Return the name of the score that the chain was recorded with."""
        return "rmse" if self.is_regression else str(self.predictions[0]["metric"])

    def fold_names(self) -> list[str]:
        """Names of the folds that predicted validation samples: ``["0", "1", ...]``."""
        names = {_plain(row["fold_id"]) for row in self._rows("val", final=False)}
        return sorted(names, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))

    def fold_score(self, fold: str, partition: str, metric: str) -> float:
        """Return one fold's score in a partition; NaN where it was not recorded."""
        for row in self._rows(partition, final=False):
            if _plain(row["fold_id"]) == fold:
                scores = json.loads(row["scores"] or "{}")
                own = scores.get(partition, scores)
                value = own.get(metric) if isinstance(own, dict) else None
                if value is None and self.is_regression:
                    arrays = self._arrays([row])
                    return float(np.sqrt(np.mean((arrays[0][1] - arrays[0][0]) ** 2))) if arrays else np.nan
                if value is None and row["metric"] == metric:
                    value = row[f"{partition}_score"]
                return np.nan if value is None else float(value)
        return np.nan

    def pair(self, name: str) -> tuple[Floats, Floats] | None:
        """Return (measured, predicted) of ``"calibration"``, ``"cv"`` or ``"test"``; None where not stored."""
        if not self.is_regression:
            raise InvalidInput(
                f"The chain {self.chain_id!r} ({self.model_class}) classifies; "
                "this figure is drawn for regressions. Try the figure of fold stability."
            )
        if name == "cv":
            return _join(self._arrays(self._rows("val", final=False)))
        partition = "train" if name == "calibration" else "test"
        final = _join(self._arrays(self._rows(partition, final=True)))
        return final if final is not None else self._mean_over_folds(partition)

    def labels(self, partition: str) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Return true and predicted labels of each fold (of the refit for the test set)."""
        rows = self._rows(partition, final=partition == "test")
        stored = self.store.get_prediction_arrays([row["prediction_id"] for row in rows])
        pairs = ((each["y_true"], each["y_pred"]) for each in stored.values())
        return [
            (np.asarray(t).ravel(), np.asarray(p).ravel())
            for t, p in pairs
            if t is not None and p is not None
        ]

    def sample_names(self, name: str) -> list[str]:
        """Return the samples of ``pair("cv")`` or ``pair("test")`` by name or row number; empty where not stored."""
        parts = self._arrays(
            self._rows("val", final=False) if name == "cv" else self._rows("test", final=True)
        )
        if not parts or any(part[2] is None for part in parts):
            return []
        return [str(each) for part in parts if part[2] is not None for each in part[2].tolist()]

    def pooled_rmse(self) -> float | None:
        """Return the RMSECV: the RMSE of all out-of-fold predictions together."""
        if not self.is_regression:
            return None
        recorded = (self.metadata.get("cross_validation") or {}).get("rmsecv")
        if recorded is not None:
            return float(recorded)
        pair = self.pair("cv")
        return None if pair is None else float(np.sqrt(np.mean((pair[1] - pair[0]) ** 2)))

    def models(self) -> dict[str, Any]:
        """Return the fitted model of each fold; the refit is called ``"final"``."""
        named = {_plain(fold): identifier for fold, identifier in self.chain["fold_artifacts"].items()}
        return {fold: self.store.load_artifact(identifier) for fold, identifier in named.items()}

    def stages(self, X: Floats) -> list[tuple[str, Floats]]:
        """Return `X` and what each preprocessing step makes of it, as the replay of the chain does."""
        plan = ReplayPlan.from_chain(self.chain)
        steps = plan.members[0].stages
        names = self.preprocessings.split(" > ")
        if len(names) != len(steps):
            names = [
                " + ".join(_class_name(operator.name) for operator in stage.operators) for stage in steps
            ]
        bench = Workbench(self.store.load_artifact, plan.memory)
        stages = [("raw", X)]
        for name, stage in zip(names, steps, strict=True):
            if stage.by_source is not None:
                raise InvalidInput(
                    f"The chain {self.chain_id!r} treats several sources apart; this figure draws one block."
                )
            before = stages[-1][1]
            if stage.augments:
                made = [bench.call(each, "transform", before, self.wavelengths) for each in stage.operators]
                stages.append((name, np.hstack([before, *made])))
                continue
            after = before
            for operator in stage.operators:
                after = bench.call(operator, "transform", after, self.wavelengths)
            stages.append((name, np.asarray(after, dtype=np.float64)))
        return stages

    def regression_vectors(self) -> dict[str, RegressionVector]:
        """Return the coefficients of each fold's model, and of the refit (``"final"``), on the channels."""
        # It loads scikit-learn, which figures from recorded values do without.
        from nirs_store.diagnosing.coefficients import regression_vectors

        found = regression_vectors(self.store, self.chain, place_of(self.chain))
        return {_plain(fold): each for fold, each in found.items()}

    def no_arrays(self) -> InvalidInput:
        return InvalidInput(
            f"The chain {self.chain_id!r} keeps no arrays of predictions; "
            "record them with save_prediction_arrays or record_cross_validation."
        )

    def _rows(self, partition: str, *, final: bool) -> list[dict[str, Any]]:
        wanted = "final" if final else "fold"
        return [
            row
            for row in self.predictions
            if row["partition"] == partition and _fold_sort(row["fold_id"]) == wanted
        ]

    def _arrays(self, rows: Sequence[Mapping[str, Any]]) -> list[Predicted]:
        """Load the arrays of several predictions at once; those that keep none are left out."""
        stored = self.store.get_prediction_arrays([row["prediction_id"] for row in rows])
        kept = [stored[row["prediction_id"]] for row in rows if row["prediction_id"] in stored]
        return [
            self._predicted(each)
            for each in kept
            if each["y_true"] is not None and each["y_pred"] is not None
        ]

    def _predicted(self, arrays: Mapping[str, Any]) -> Predicted:
        measured = np.asarray(arrays["y_true"], dtype=np.float64)
        predicted = np.asarray(arrays["y_pred"], dtype=np.float64)
        if measured.ndim == 2 and measured.shape[1] > 1:
            raise InvalidInput(
                f"The chain {self.chain_id!r} predicts {measured.shape[1]} targets; one can be drawn. "
                f"{say_which(self.chain, measured.shape[1])}"
            )
        indices = arrays.get("sample_indices")
        where = None if indices is None else np.asarray(indices)
        return measured.ravel(), predicted.ravel(), where

    def _mean_over_folds(self, partition: str) -> tuple[Floats, Floats] | None:
        """Average what the fold models predict for each sample, as a replay without refit does."""
        parts = self._arrays(self._rows(partition, final=False))
        if not parts:
            return None
        if any(part[2] is None for part in parts):
            same = all(np.array_equal(part[0], parts[0][0]) for part in parts)
            return (parts[0][0], np.mean([part[1] for part in parts], axis=0)) if same else _join(parts)
        where = np.concatenate([part[2] for part in parts if part[2] is not None])
        samples, slot, count = np.unique(where, return_inverse=True, return_counts=True)
        total = np.zeros(samples.size)
        np.add.at(total, slot, np.concatenate([part[1] for part in parts]))
        measured = np.empty(samples.size)
        measured[slot] = np.concatenate([part[0] for part in parts])
        return measured, total / count


class PastChain(ChainData):
    """A chain that is gone: how it was made, and its score."""

    deleted = True

    def __init__(self, store: ReadsRuns, row: dict[str, Any]) -> None:
        steps = json.loads(row["steps"])
        fitted = [step for step in steps if step.get("operator_type") != "splitter"]
        model = [step for step in fitted if step.get("operator_class") == row["model_class"]] or fitted
        named, before = str(row["model_name"] or ""), str(row["preprocessings"] or "")
        # As `record_cross_validation` names models: PLS(4, scale=False).
        about = " > ".join(filter(None, (before, named))) if named.endswith(")") else ""
        placed = {
            "steps": steps,
            "model_step_idx": model[-1]["step_idx"] if model else -1,
            "metadata": {"preprocessing_chain": about},
        }
        super().__init__(store, {**row, **placed})

    def pooled_rmse(self) -> float | None:
        """Return the RMSECV that the chain had; None where it was ranked by another score."""
        known = self.chain["metric"] == "rmse" and self.chain["score"] is not None
        return float(self.chain["score"]) if known else None


def _join(parts: Sequence[Predicted]) -> tuple[Floats, Floats] | None:
    if not parts:
        return None
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _class_name(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _fold_sort(fold: Any) -> str:
    """Tell folds from the refit, and both from averages (``"avg"``) that some writers add."""
    try:
        return "final" if fold_key(fold) == _FINAL else "fold"
    except InvalidInput:
        return "other"


def _plain(fold: Any) -> str:
    """Name a fold for people: ``0`` for ``fold_0``, ``final`` for the refit."""
    return fold_key(fold).removeprefix("fold_")
