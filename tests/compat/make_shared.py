"""Write a small shared workspace, as its server and its object store hold it, into one archive with its answers.

Run once at the end of a development stage and commit the result; the archive is never rewritten:

    python tests/compat/make_shared.py tests/compat/shared/<name>.zip

The archive also holds a folder with commits in its inbox.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from sklearn.cross_decomposition import PLSRegression

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kit"))
from sharedkit import PostgreSQL, programs

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation


def build(server: PostgreSQL, folder: Path) -> dict[str, Any]:
    """Fill `folder` and return what the workspaces answered."""
    meat = load_tecator()
    X, y = meat.X[::6, ::10].copy(), meat.fat[::6].copy()
    place, blobs = f"{server.new_database()}?workspace=corn", (folder / "blobs").as_uri()
    with WorkspaceStore(f"{place}&replica={folder / 'replica'}", blobs=blobs) as store:
        for name in ("kept", "deleted"):
            model = PLSRegression(2 if name == "kept" else 3)
            result = record_cross_validation(store, model, X, y, cv=3, dataset_name="tecator", name=name)
            if name == "kept":
                kept = result.chain_id
        store.delete_run(result.run_id, now=True)
        store.gc_artifacts(grace_seconds=0)
        # The same bytes again have the next generation of their key.
        again = record_cross_validation(
            store, PLSRegression(3), X, y, cv=3, dataset_name="tecator", name="again"
        ).chain_id
        store.files.put({"notes": 1}, "notes.json", type="report")
        store.tag_run(store.list_runs()["run_id"][0], "best")
        expected: dict[str, Any] = {
            "runs": sorted(store.list_runs()["name"]),
            "predicted": {one: store.replay_chain(one, X[:5]).ravel().tolist() for one in (kept, again)},
            "rmsecv": dict(store.top_chains().select("chain_id", "rmsecv").iter_rows()),
        }
    server.run(
        "pg_dump", "--inserts", "--schema=nirs_store", "--no-owner", "--no-privileges",
        "-f", str(server.folder / "dump.sql"), place.partition("?")[0],
    )  # fmt: skip
    dump = (server.folder / "dump.sql").read_text()
    (folder / "dump.sql").write_text(dump.replace(str(folder), "/lab").replace(socket.gethostname(), "lab"))
    share = folder / "share"
    WorkspaceStore(share).close()
    with WorkspaceStore(share, inbox=True) as node:
        waiting = record_cross_validation(node, PLSRegression(2), X, y, cv=3, dataset_name="t")
        expected["inbox"] = waiting.chain_id
    return expected


def main() -> None:
    """Build the archive that the command line names."""
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    found = programs()
    assert found is not None
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(prefix="pg-") as data:
        folder = Path(name)
        (folder / "expected.json").write_text("{}")
        server = PostgreSQL(found, Path(data))
        try:
            (folder / "expected.json").write_text(json.dumps(build(server, folder)))
        finally:
            server.stop()
        with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                inside = path.relative_to(folder)
                if inside.parts[0] != "replica" and path.name != "reserve":
                    archive.write(path, inside.as_posix())


if __name__ == "__main__":
    main()
