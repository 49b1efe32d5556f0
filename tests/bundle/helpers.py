"""A store in memory, chains on real spectra, and archives made by hand."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from nirs_store.blobs.serializers import get_serializer
from nirs_store.chains import ReplayPlan, predict
from nirs_store.ids import sha256_hex

DATA = Path(__file__).parents[2] / "nirs_store" / "data" / "tecator.csv"


def tecator() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give spectra (215, 100), fat (215,) and wavelengths (100,)."""
    header = DATA.read_text("utf-8").partition("\n")[0].split(",")
    table = np.loadtxt(DATA, delimiter=",", skiprows=1, usecols=range(1, len(header)))
    return (
        np.ascontiguousarray(table[:, 3:]),
        table[:, 1].copy(),
        np.array([float(name) for name in header[4:]]),
    )


class Shelf:
    """A `ChainSource` in memory."""

    def __init__(self) -> None:
        self.chains: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.formats: dict[str, str] = {}

    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        return self.chains.get(chain_id)

    def get_artifact(self, artifact_id: str) -> dict[str, Any] | None:
        if artifact_id not in self.blobs:
            return None
        return {
            "artifact_id": artifact_id,
            "content_hash": artifact_id,
            "format": self.formats[artifact_id],
            "operator_class": "",
        }

    def read_artifact(self, artifact_id: str) -> bytes:
        return self.blobs[artifact_id]

    def keep(self, obj: Any, format: str = "joblib") -> str:
        data = get_serializer(format).dumps(obj)
        digest = sha256_hex(data)
        self.blobs[digest], self.formats[digest] = data, format
        return digest

    def chain(self, steps: list[dict[str, Any]], folds: dict[Any, str], **more: Any) -> str:
        """Keep a chain whose last step is the model; steps are numbered as they stand."""
        numbered = [
            {"step_idx": place, "params": {}, "stateless": False, **step} for place, step in enumerate(steps)
        ]
        chain_id = f"chain-{len(self.chains)}"
        self.chains[chain_id] = {
            "chain_id": chain_id,
            "pipeline_id": "pipeline-1",
            "steps": numbered,
            "model_step_idx": numbered[-1]["step_idx"],
            "model_class": numbered[-1]["operator_class"],
            "preprocessings": "SNV",
            "fold_strategy": "per_fold",
            "fold_artifacts": folds,
            "shared_artifacts": {},
            "branch_path": None,
            "source_index": None,
            "fold_weights": None,
            "wavelengths": None,
            "metadata": None,
            "created_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
            **more,
        }
        return chain_id

    def replay(self, chain_id: str, X: Any, wavelengths: Any = None) -> np.ndarray:
        return predict(ReplayPlan.from_chain(self.chains[chain_id]), X, self.load, wavelengths)

    def load(self, artifact_id: str) -> Any:
        return get_serializer(self.formats[artifact_id]).loads(self.blobs[artifact_id])


def dumped(obj: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(obj, buffer, **options)
    return buffer.getvalue()


Member = tuple[str, bytes]


def read_zip(path: Path) -> list[Member]:
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def write_zip(path: Path, members: Iterable[Member], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def rewrite(path: Path, change: Callable[[list[Member]], list[Member]]) -> Path:
    """Pack a bundle anew with other members."""
    members = change(read_zip(path))
    return write_zip(path, members)


class World:
    """Chains on the spectra of 215 meat samples: 150 to learn from, the rest is new."""

    def __init__(self) -> None:
        from sklearn.model_selection import KFold

        spectra, fat, self.wavelengths = tecator()
        self.X, self.new, self.fat = spectra[:150], spectra[150:], fat[:150]
        self.shelf = Shelf()
        self.folds = [train for train, _ in KFold(3, shuffle=True, random_state=0).split(self.X)]
        self.chains: dict[str, str] = {}
        self._build_preprocessing()
        self._build_regressors()
        self._build_targets()
        self._build_classifiers()
        self._build_odd()

    def _build_preprocessing(self) -> None:
        from chemotools.derivative import SavitzkyGolay
        from chemotools.scatter import StandardNormalVariate

        self.snv = StandardNormalVariate().fit(self.X)
        self.derivative = SavitzkyGolay(window_length=11, polyorder=2, deriv=1).fit(self.X)
        self.Z = self.derivative.transform(self.snv.transform(self.X))
        self.before: list[dict[str, Any]] = [
            {
                "operator_class": "chemotools.scatter.StandardNormalVariate",
                "artifact_id": self.shelf.keep(self.snv),
            },
            {
                "operator_class": "chemotools.derivative.SavitzkyGolay",
                "artifact_id": self.shelf.keep(self.derivative),
            },
        ]
        self.splitter = {
            "operator_class": "sklearn.model_selection.KFold",
            "operator_type": "splitter",
            "params": {"n_splits": 3},
        }

    def fit(self, model: Any, Z: np.ndarray | None = None, y: np.ndarray | None = None) -> dict[int, str]:
        """Fit a model in each fold and keep the fitted ones."""
        from sklearn.base import clone

        Z, y = self.Z if Z is None else Z, self.fat if y is None else y
        return {i: self.shelf.keep(clone(model).fit(Z[fold], y[fold])) for i, fold in enumerate(self.folds)}

    def _build_regressors(self) -> None:
        from sklearn.cross_decomposition import PLSRegression
        from sklearn.preprocessing import StandardScaler

        keep, chain = self.shelf.keep, self.shelf.chain
        pls = {"operator_class": "sklearn.cross_decomposition.PLSRegression", "params": {"n_components": 6}}
        models = self.fit(PLSRegression(6))
        steps = [*self.before, self.splitter, pls]
        metadata = {"target": "fat", "target_unit": "%", "wavelength_unit": "nm"}
        self.chains["folds"] = chain(steps, models, wavelengths=self.wavelengths, metadata=metadata)
        self.chains["weights"] = chain(steps, models, fold_weights={"fold_0": 0.2, "1": 0.5, 2: 0.1})
        self.chains["refit"] = chain(steps, {**models, "final": models[1]})
        self.chains["single"] = chain([*self.before, {**pls, "artifact_id": models[0]}], {})
        shared = {"0": [self.before[0]["artifact_id"], self.before[1]["artifact_id"]]}
        self.chains["two in one step"] = chain(
            [{"step_idx": 0, "operator_class": "both"}, {**pls, "step_idx": 7}],
            models,
            shared_artifacts=shared,
        )
        scalers = {i: StandardScaler().fit(self.Z[fold]) for i, fold in enumerate(self.folds)}
        own = {
            i: keep(PLSRegression(6).fit(s.transform(self.Z[f]), self.fat[f]))
            for (i, s), f in zip(scalers.items(), self.folds, strict=True)
        }
        fitted = {f"fold_{i}": [keep(scaler)] for i, scaler in scalers.items()}
        private = {"operator_class": "sklearn.preprocessing.StandardScaler", "fold_artifact_ids": fitted}
        self.chains["steps of each fold"] = chain([*self.before, private, pls], own)
        both = np.hstack([self.X, self.snv.transform(self.X), self.derivative.transform(self.X)])
        augment = {
            "operator_class": "both",
            "operator_type": "feature_augmentation",
            "artifact_ids": [step["artifact_id"] for step in self.before],
        }
        self.chains["augmentation"] = chain([augment, pls], self.fit(PLSRegression(6), both))
        stateless = {
            "operator_class": "sklearn.preprocessing.Normalizer",
            "params": {"norm": "max"},
            "stateless": True,
        }
        scaled = self.X / self.X.max(axis=1, keepdims=True)
        self.chains["stateless"] = chain([stateless, pls], self.fit(PLSRegression(6), scaled))

    def _build_targets(self) -> None:
        from sklearn.linear_model import Ridge
        from sklearn.preprocessing import MinMaxScaler, StandardScaler

        keep, chain = self.shelf.keep, self.shelf.chain
        ridge = {"operator_class": "sklearn.linear_model.Ridge"}
        column = self.fat.reshape(-1, 1)
        first = StandardScaler().fit(column)
        second = MinMaxScaler().fit(first.transform(column))
        y = {"operator_class": "sklearn.preprocessing.StandardScaler", "operator_type": "y_processing"}
        once, twice = first.transform(column).ravel(), second.transform(first.transform(column)).ravel()
        self.chains["targets"] = chain(
            [self.before[0], {**y, "artifact_id": keep(first)}, self.before[1], ridge],
            self.fit(Ridge(1e-4), y=once),
        )
        ids = [keep(first), keep(second)]
        self.chains["two targets"] = chain(
            [*self.before, {**y, "artifact_ids": ids}, ridge], self.fit(Ridge(1e-4), y=twice)
        )
        own = {i: StandardScaler().fit(column[fold]) for i, fold in enumerate(self.folds)}
        models = {
            i: keep(Ridge(1e-4).fit(self.Z[fold], own[i].transform(column[fold]).ravel()))
            for i, fold in enumerate(self.folds)
        }
        fitted = {i: [keep(scaler)] for i, scaler in own.items()}
        self.chains["targets of each fold"] = chain(
            [*self.before, {**y, "fold_artifact_ids": fitted}, ridge], models
        )

    def _build_classifiers(self) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import LabelEncoder
        from sklearn.svm import SVC

        level = np.digitize(self.fat, [10, 25])
        self.labels = np.array(["lean", "medium", "fatty"])[level]
        steps = [*self.before, {"operator_class": "classifier"}]
        logistic, svc = LogisticRegression(C=1e6, max_iter=5000), SVC(C=1e4)
        chain = self.shelf.chain
        self.chains["soft votes"] = chain(steps, self.fit(logistic, y=self.labels))
        self.chains["soft votes, weighted"] = chain(
            steps, self.fit(logistic, y=self.labels), fold_weights={0: 1.0, 1: 4.0, 2: 2.0}
        )
        self.chains["hard votes"] = chain(steps, self.fit(svc, y=self.labels))
        self.chains["hard votes on numbers"] = chain(
            steps, self.fit(svc, y=level * 10), fold_weights={0: 1, 1: 3, 2: 1}
        )
        self.chains["two classes"] = chain(steps, self.fit(svc, y=self.fat > 20))
        seen = {}
        for i, (fold, unseen) in enumerate(zip(self.folds, ["lean", "medium", "none"], strict=True)):
            known = fold[self.labels[fold] != unseen]
            seen[i] = self.shelf.keep(
                LogisticRegression(C=1e6, max_iter=5000).fit(self.Z[known], self.labels[known])
            )
        self.chains["classes that a fold never saw"] = chain(steps, seen)
        coder = LabelEncoder().fit(self.labels)
        coding = {
            "operator_class": "LabelEncoder",
            "operator_type": "y_processing",
            "artifact_id": self.shelf.keep(coder),
        }
        self.chains["encoded labels"] = chain(
            [*steps[:2], coding, steps[2]], self.fit(logistic, y=coder.transform(self.labels))
        )

    def _build_odd(self) -> None:
        from sklearn.cross_decomposition import PLSRegression

        ids = [step["artifact_id"] for step in self.before]
        merged = np.hstack([self.snv.transform(self.X), self.derivative.transform(self.X)])
        self.sources = self.shelf.chain(
            [
                {"operator_class": "by source"},
                {"operator_class": "sklearn.cross_decomposition.PLSRegression"},
            ],
            self.fit(PLSRegression(6), merged),
            shared_artifacts={"_source_map": {"0": {"0": ids[:1], "1": ids[1:]}}},
        )


def toy_shelf() -> Shelf:
    """Give a shelf with the chain "chain-0": a scaler and two folds of a line, on two channels."""
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import StandardScaler

    shelf = Shelf()
    X = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [3.0, 5.0]])
    y = np.array([1.0, 2.0, 4.0, 7.0])
    scaler = StandardScaler().fit(X)
    lines = {
        i: shelf.keep(LinearRegression().fit(scaler.transform(X[rows]), y[rows]))
        for i, rows in enumerate([[0, 1, 2], [1, 2, 3]])
    }
    shelf.chain(
        [
            {"operator_class": "sklearn.preprocessing.StandardScaler", "artifact_id": shelf.keep(scaler)},
            {"operator_class": "sklearn.linear_model.LinearRegression"},
        ],
        lines,
    )
    return shelf


def as_foreign(path: Path) -> Path:
    """Take out what only this library reads, as if another program had written the bundle."""
    import json

    members = dict(read_zip(path))
    del members["nirs_store.json"]
    manifest = json.loads(members["manifest.json"])
    del manifest["members_listed_in"]
    members["manifest.json"] = json.dumps(manifest).encode()
    return write_zip(path.with_name("foreign.n4a"), members.items())


class Touch:
    """Pickles as the creation of a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(self.path).touch, ()


def _warn(text: str) -> Any:
    import warnings

    from sklearn.preprocessing import StandardScaler

    warnings.warn(text, UserWarning, stacklevel=1)
    return StandardScaler().fit([[0.0, 1.0], [1.0, 3.0]])


class Warns:
    """Pickles as a scaler whose making warns."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _warn, ("from the constructor",)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


class Tilted:
    """A transformer that needs to know the wavelengths."""

    def __init__(self, slope: float = 1.0) -> None:
        self.slope = slope

    def transform(self, X: np.ndarray, wavelengths: Any = None) -> np.ndarray:
        return X + self.slope * np.asarray(wavelengths) / 1000


class Resampled:
    """A transformer that brings spectra onto its own grid, whatever theirs is."""

    def __init__(self, grid: np.ndarray) -> None:
        self.grid = grid

    def transform(self, X: np.ndarray, wavelengths: Any) -> np.ndarray:
        return np.array([np.interp(self.grid, wavelengths, row) for row in X])


class Line:
    """A regressor of a make of its own: no tags, no number of features."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.slope * X.sum(axis=1)


class Nearest:
    """A classifier of a make of its own: it names its labels nowhere."""

    _estimator_type = "classifier"

    def fit(self, X: np.ndarray, y: np.ndarray) -> Nearest:
        self.X, self.y = X, y
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        distances = np.linalg.norm(X[:, None, :] - self.X[None], axis=2)
        found: np.ndarray = self.y[distances.argmin(axis=1)]
        return found


def only_whole_numbers(X: np.ndarray) -> np.ndarray:
    if (np.round(X) != X).any():
        raise ValueError("only whole numbers")
    return X
