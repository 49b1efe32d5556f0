"""Numbers of deleted versions are never given again, also not in a copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nirs_store import WorkspaceStore

Put = Callable[[WorkspaceStore, int], int]


def put_dataset(store: WorkspaceStore, value: int) -> int:
    return int(store.datasets.add("corn", np.full((2, 3), float(value)), wavelengths=[1.0, 2.0, 3.0]).version)


def put_file(store: WorkspaceStore, value: int) -> int:
    return int(store.files.put(f"{value}".encode(), "notes", type="log").version)


def put_test_file(store: WorkspaceStore, value: int) -> int:
    return int(
        store.files.put(f"{value}".encode(), "notes", type="log", mode="test", test_name="bench").version
    )


def delete(store: WorkspaceStore, put: Put, version: int) -> None:
    if put is put_dataset:
        store.datasets.delete(f"corn@v{version}", force=True)
    else:
        name = "bench" if put is put_test_file else None
        store.files.delete("notes", version=version, test_name=name, force=True)


PUTS = pytest.mark.parametrize("put", [put_dataset, put_file, put_test_file])


@PUTS
@pytest.mark.parametrize("whole", [True, False])
def test_a_copy_gives_no_number_of_a_deleted_version_again(tmp_path: Path, put: Put, whole: bool) -> None:
    chosen = {} if whole else {"datasets": ["corn"]} if put is put_dataset else {"files": ["notes"]}
    with WorkspaceStore(tmp_path / "one") as one:
        assert [put(one, value) for value in (1, 2, 3)] == [1, 2, 3]
        delete(one, put, 3)
        delete(one, put, 2)
        one.archive(tmp_path / "a.zip", **chosen)  # type: ignore[arg-type]
    with WorkspaceStore(tmp_path / "other") as other:
        other.restore_archive(tmp_path / "a.zip")
        assert not other.restore_archive(tmp_path / "a.zip").rows
        assert put(other, 4) == 4
        assert other.check().ok


@PUTS
def test_what_comes_in_takes_no_number_that_was_deleted_here(tmp_path: Path, put: Put) -> None:
    with WorkspaceStore(tmp_path / "one") as one:
        put(one, 1)
        one.archive(tmp_path / "a.zip")
    with WorkspaceStore(tmp_path / "other") as other:
        for value in (5, 6):
            put(other, value)
        delete(other, put, 2)
        other.restore_archive(tmp_path / "a.zip")
        table = "dataset_versions" if put is put_dataset else "file_versions"
        assert other.sql(f"SELECT version FROM {table} ORDER BY 1")["version"].to_list() == [1, 3]
