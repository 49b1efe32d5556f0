"""Workspaces that nirs4all wrote."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nirs_store.migration import migrate_nirs4all

WRITTEN = Path(__file__).parents[1] / "compat" / "nirs4all"


def _fingerprint(folder: Path) -> dict[str, str]:
    """Every file and folder, with the hash of what is in it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def fingerprint() -> Callable[[Path], dict[str, str]]:
    """Tells whether anything in a folder has changed."""
    return _fingerprint


@pytest.fixture(scope="session")
def unpack(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a version's archive, which is not to be changed."""
    known: dict[str, Path] = {}

    def unpacked(version: str) -> Path:
        if version not in known:
            known[version] = tmp_path_factory.mktemp("nirs4all")
            with zipfile.ZipFile(WRITTEN / f"{version}.zip") as archive:
                archive.extractall(known[version])
        return known[version]

    return unpacked


@pytest.fixture(scope="session", params=["0.7.1", "1.4.10"])
def migrated(request: pytest.FixtureRequest, unpack: Callable[[str], Path], tmp_path_factory: Any) -> Any:
    """A whole workspace of each generation, carried over once; not to be changed."""
    folder = unpack(request.param)
    source, target = folder / "workspace", tmp_path_factory.mktemp("ours") / "workspace"
    before = _fingerprint(source)
    report = migrate_nirs4all(source, target)
    return SimpleNamespace(
        version=request.param,
        source=source,
        target=target,
        report=report,
        before=before,
        expected=json.loads((folder / "expected.json").read_text()),
    )


@pytest.fixture(scope="session")
def _small(unpack: Callable[[str], Path], tmp_path_factory: Any) -> Path:
    folder = Path(tmp_path_factory.mktemp("small")) / "theirs"
    shutil.copytree(unpack("1.4.10") / "workspace", folder)
    kept = "(SELECT run_id FROM runs WHERE name IN ('plain legacy_p0', 'by hand'))"
    pipelines = f"(SELECT pipeline_id FROM pipelines WHERE run_id IN {kept})"
    with closing(sqlite3.connect(folder / "store.sqlite")) as con, con:
        for table in ("predictions", "chains", "logs"):
            con.execute(f"DELETE FROM {table} WHERE pipeline_id NOT IN {pipelines}")
        con.execute(f"DELETE FROM pipelines WHERE run_id NOT IN {kept}")
        con.execute("DELETE FROM runs WHERE name NOT IN ('plain legacy_p0', 'by hand')")
    return folder


@pytest.fixture
def small(_small: Path, tmp_path: Path) -> Path:
    """Two runs of 1.4.10, to be changed at will."""
    shutil.copytree(_small, tmp_path / "theirs")
    return tmp_path / "theirs"


@pytest.fixture
def sql(small: Path) -> Callable[..., list[Any]]:
    """Changes the catalog of the small workspace."""

    def execute(statement: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(small / "store.sqlite")) as con, con:
            return con.execute(statement, values).fetchall()

    return execute
