"""Write a small workspace and a bundle, with the answers they gave, into one archive.

Run once at the end of a development stage and commit the result; the archive is never rewritten:

    python tests/compat/make_fixture.py tests/compat/stores/<name>.zip
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import WorkspaceStore, load_bundle, load_tecator, record_cross_validation, record_stacking


def build(folder: Path) -> dict[str, Any]:
    """Fill `folder` and return what it answered."""
    spectra = load_tecator()
    X, y = spectra.X[::4, ::10].copy(), spectra.fat[::4].copy()
    with WorkspaceStore(folder / "workspace") as store:
        recorded = record_cross_validation(
            store,
            make_pipeline(StandardScaler(), PLSRegression(2)),
            X,
            y,
            cv=KFold(3),
            dataset_name="tecator",
            wavelengths=spectra.wavelengths[::10],
            target="fat",
            target_unit="%",
        )
        store.top_predictions(1)  # the rows so far go into the catalog, the rest stays in the journal
        run_id = store.begin_run("second", {"alpha": 0.5, "nothing": None}, [{"name": "other"}])
        good = store.begin_pipeline(run_id, "good", {"steps": []}, [], "other", "h")
        text = store.save_prediction(
            good, None, "other", "m", "M", "fold_0", "val", float("nan"), None, 0.5, "accuracy",
            "classification", 3, 2, {"accuracy": 1.0}, {"k": 1}, 1, "b", 2, 0.25,
        )  # fmt: skip
        store.save_prediction_arrays(
            text, np.array(["a", "b", "a"]), np.array(["a", "b", "b"]), np.eye(3)[:, :2], np.arange(3)
        )
        scaler = store.artifacts.register_with_chain([1.5], "s1.MSC", "transformer", 1, pipeline_id=good)
        record = store.artifacts.register_with_chain(
            [2.5], "s1.MSC>s2.PLS", "model", 2, [0, 1], 1, 2, depends_on=[scaler.artifact_id], pipeline_id=good,
            params={"k": 3}, custom_name="named",
        )  # fmt: skip
        store.complete_pipeline(good, 0.1, None, "accuracy", 5)
        stack = record_stacking(store, [recorded.chain_id], Ridge(), X, y, cv=KFold(3))
        stacked = store.replay_chain(stack.chain_id, X)
        frame = pd.DataFrame(X, columns=[f"band {number}" for number in range(X.shape[1])])
        named = record_cross_validation(store, Ridge(), frame, y, cv=KFold(3), dataset_name="named")
        predictor = store.predictor(recorded.chain_id)
        predictor.predict(X)
        kept = store.save_artifact(predictor, "nirs_store.chains.predictor.ChainPredictor", "model", "joblib")
        first = store.files.put(b"site,score\n1,0.5\n", "eval/positions.csv", type="report", tags=["frozen"])
        second = store.files.put(
            {"site": 1},
            "eval/positions.json",
            type="report",
            sources=[first],
            metadata={"k": 3},
            mode="production",
        )
        store.files.set_alias("eval/positions.csv", "best")
        store.datasets.add("meat", X.astype("float32"), references={"fat": y}, ids=range(len(X)))
        dataset = store.datasets.add(
            "meat", X.astype("float32"), references={"fat": y + 1}, ids=range(len(X))
        )
        evaluation = store.evaluations.record(
            "m", "easy", {"reward": 0.75}, episodes=[{"reward": 0.5}, {"reward": 1.0}]
        )
        store.calibrations.set_rule("fat", "production", signatures=1, others=0)
        store.calibrations.register(
            "fat", recorded.chain_id, scope={"matrix": "meat", "range": (0, 60)}, author="Ada"
        )
        store.calibrations.correct("fat@v1", bias=0.5, reason="frozen")
        store.calibrations.sign("fat@v1", meaning="approval", signer="Grace", key=b"a frozen key of bytes")
        store.calibrations.set_alias("fat", "production", 1)
        store.predict(
            "fat",
            X[:12],
            sample_ids=range(12),
            instrument="bench 1",
            measured_at="2026-03-01",
            on_outlier="ignore",
        )
        store.references.add_many({"sample_id": range(12), "value": y[:12]}, target="fat", unit="%")
        store.references.correct(store.references.list("0")["reference_id"][0], 1.0, "frozen")
        monitored = store.calibrations.monitor("fat").agreement
        store.retention.pin(recorded.chain_id, "frozen")
        version = store.calibrations.get("fat@production")
        store_facts = [
            version.version_id,
            version.content_hash,
            store.calibrations.signatures("fat")[0].content_hash,
        ]
        head = store.audit.head()
        store.archive(folder / "whole.zip")
        waiting = store.save_chain(
            good,
            [],
            0,
            "M",
            "",
            "none",
            {},
            {},
            metadata={"target": ["fat", "protein"], "target_unit": " g/kg "},
        )
        bad = store.begin_pipeline(run_id, "bad", None, [], "other", "h")
        store.log_step(bad, 0, "X", "start", message="before the failure")
        store.save_prediction(
            bad, None, "other", "m", "M", "fold_0", "val", 1.0, None, None, "rmse", "regression",
            3, 2, {}, {}, None, None, 0, 0.0,
        )  # fmt: skip
        store.fail_pipeline(bad, "it broke")
        store.fail_run(run_id, "it broke too")
        # As a process leaves it that is killed: what was committed last waits in the journal.
        store._engine.access.try_apply = lambda **_: None  # type: ignore[method-assign]
    with WorkspaceStore(folder / "workspace", read_only=True) as store:
        chain = store.get_chain(recorded.chain_id)
        assert chain is not None
        store.export_chain(recorded.chain_id, folder / "model.n4a")
        predicted = store.replay_chain(recorded.chain_id, X)
        named_predicted = store.replay_chain(named.chain_id, frame)
        assert np.array_equal(store.replay_chain(stack.chain_id, X), stacked)
        assert np.array_equal(load_bundle(folder / "model.n4a", allow_pickle=True).predict(X), predicted)
    return {
        "X": X.tolist(),
        "predicted": predicted.tolist(),
        "chain_id": recorded.chain_id,
        "recorded_run": recorded.run_id,
        "run_id": run_id,
        "good": good,
        "bad": bad,
        "text": text,
        "n_predictions": sum(len(r.prediction_ids) for r in (recorded, stack, named)) + 1,
        "stack": stack.chain_id,
        "stack_run": stack.run_id,
        "stacked": stacked.tolist(),
        "named": named.chain_id,
        "named_run": named.run_id,
        "named_columns": list(frame.columns),
        "named_predicted": named_predicted.tolist(),
        "records": [scaler.to_dict() | {"created_at": None}, record.to_dict() | {"created_at": None}],
        "rmsecv": recorded.value,
        "files": [first.version_id, second.version_id],
        "evaluation": evaluation,
        "predictor": kept,
        "calibration": store_facts,
        "monitored": [monitored.n, monitored.bias, monitored.sep, monitored.sep_limit],
        "dataset": [dataset.reference, dataset.content_hash],
        "head": [head.number, head.entry_hash],
        "targets": {recorded.chain_id: ["fat", "%"], waiting: ['["fat","protein"]', "g/kg"]},
    }


def main() -> None:
    """Build the archive that the command line names."""
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "expected.json").write_text(json.dumps(build(folder)))
        with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(p for p in folder.rglob("*")):
                if path.name == "reserve":
                    continue  # random bytes; a workspace may lack it
                archive.write(path, path.relative_to(folder).as_posix())


if __name__ == "__main__":
    main()
