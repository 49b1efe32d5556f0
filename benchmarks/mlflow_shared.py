"""MLflow with PostgreSQL and S3, in its own environment: ``python -m benchmarks.mlflow_shared POSTGRESQL BUCKET``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.servers import obey

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient


def record(client: MlflowClient, experiment: str, blobs: int) -> None:
    """Log a run with five scores and files of 300 kB."""
    run = client.create_run(experiment).info.run_id
    now = int(time.time() * 1000)
    client.log_batch(run, [Metric(f"val_rmse_fold_{fold}", 0.5, now, 0) for fold in range(5)])
    if blobs:
        with TemporaryDirectory() as place:
            for fold in range(blobs):
                (Path(place) / f"fold_{fold}.joblib").write_bytes(os.urandom(300_000))
            client.log_artifacts(run, place)
    client.set_terminated(run)


def main() -> None:
    """Record on request."""
    uri, bucket = sys.argv[1:]
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("bench")
    place = f"s3://{bucket}/mlflow"
    experiment = found.experiment_id if found else client.create_experiment("bench", artifact_location=place)
    obey(lambda numbers: record(client, experiment, numbers[0]))


if __name__ == "__main__":
    main()
