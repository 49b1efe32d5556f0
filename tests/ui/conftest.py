"""A page over workspaces made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason='the page needs: python -m pip install "nirs-store[ui]"')

from uikit import HOSTILE, Page, put_into_service, record

from nirs_store import WorkspaceStore, load_tecator


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "workspace"
    record(folder)
    return folder


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "workspace"
    record(folder, HOSTILE, note="=cmd|' /C calc'!A0")
    with WorkspaceStore(folder) as store:
        put_into_service(store, HOSTILE, drift=1.0)
    return folder


@pytest.fixture(scope="session")
def serving(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with data sets and a calibration that drifts."""
    folder = tmp_path_factory.mktemp("serving") / "workspace"
    shutil.copytree(recorded, folder)
    with WorkspaceStore(folder) as store:
        put_into_service(store, "protein", drift=1.0)
    return folder


@pytest.fixture
def open_page() -> Iterator[Callable[..., Page]]:
    pages: list[Page] = []

    def make(folder: Path, **options: Any) -> Page:
        pages.append(Page(folder, **options))
        return pages[-1]

    yield make
    for page in pages:
        page.desk.close()


@pytest.fixture
def page(recorded: Path, open_page: Callable[..., Page]) -> Page:
    return open_page(recorded)


@pytest.fixture
def changing(recorded: Path, tmp_path: Path, open_page: Callable[..., Page]) -> Page:
    """A page that may change its copy of the workspace."""
    shutil.copytree(recorded, tmp_path / "workspace")
    return open_page(tmp_path / "workspace", may_change=True)


@pytest.fixture
def chain_id(recorded: Path) -> str:
    with WorkspaceStore(recorded, read_only=True, create=False) as store:
        return str(store.list_chains(limit=1)["chain_id"][0])


@pytest.fixture
def spectra(tmp_path: Path) -> Path:
    """Five spectra with their reference values, as a file."""
    made = load_tecator()
    rows = ["sample,corn," + ",".join(f"{w:g}" for w in made.wavelengths[::5])]
    rows += [f"new{i},{made.fat[i]}," + ",".join(f"{v:.6f}" for v in made.X[i, ::5]) for i in range(5)]
    path = tmp_path / "new.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path
