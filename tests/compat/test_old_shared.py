"""Shared workspaces and inboxes that earlier stages wrote open for ever and answer as they did."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store import WorkspaceStore, load_tecator

ARCHIVES = sorted((Path(__file__).parent / "shared").glob("*.zip"))
X = load_tecator().X[::6, ::10][:5].copy()

pytestmark = pytest.mark.filterwarnings("ignore:Trying to unpickle estimator", "ignore:.*was written with.*")
each_archive = pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.stem)


def test_every_version_of_the_tables_has_a_frozen_workspace() -> None:
    pgschema = pytest.importorskip("nirs_store.shared.pgschema", reason="nirs-store[shared] is not installed")
    assert {int(path.stem) for path in ARCHIVES} == set(range(1, pgschema.VERSION + 1))


def unpacked(archive: Path, folder: Path) -> dict[str, Any]:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    found: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return found


@each_archive
def test_a_frozen_shared_workspace_answers_as_it_did_and_goes_on(
    archive: Path, database: str, tmp_path: Path
) -> None:
    import psycopg

    expected = unpacked(archive, tmp_path)
    lines = (tmp_path / "dump.sql").read_text().splitlines()
    with psycopg.connect(database, autocommit=True) as con:
        con.execute("\n".join(line for line in lines if not line.startswith("\\")))
    blobs = (tmp_path / "blobs").as_uri()
    with WorkspaceStore(f"{database}?workspace=corn&replica={tmp_path / 'one'}", blobs=blobs) as store:
        assert sorted(store.list_runs()["name"]) == expected["runs"]
        assert dict(store.top_chains().select("chain_id", "rmsecv").iter_rows()) == expected["rmsecv"]
        for chain_id, predicted in expected["predicted"].items():
            np.testing.assert_allclose(store.replay_chain(chain_id, X).ravel(), predicted, rtol=1e-12)
        assert store.files.get("notes.json") == {"notes": 1}
        store.begin_run("new", {}, [])
        store.gc_artifacts(grace_seconds=0)
        assert store.check(read_data=True).errors == ()
    with WorkspaceStore(f"{database}?workspace=corn&replica={tmp_path / 'two'}", blobs=blobs) as other:
        assert sorted(other.list_runs()["name"]) == sorted([*expected["runs"], "new"])


@each_archive
def test_commits_in_a_frozen_inbox_are_applied(archive: Path, tmp_path: Path) -> None:
    expected = unpacked(archive, tmp_path)
    with WorkspaceStore(tmp_path / "share") as store:
        assert store.top_chains()["chain_id"].to_list() == [expected["inbox"]]
        assert np.isfinite(np.asarray(store.replay_chain(expected["inbox"], X))).all()
