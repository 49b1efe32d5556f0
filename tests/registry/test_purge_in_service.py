"""A purge never removes what a calibration in service, or a signature, needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from clikit import invoke
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.artifacts.registry import ArtifactRegistry
from nirs_store.errors import CalibrationInUse

MEAT = load_tecator()
X, Y = MEAT.X[:40, ::10], MEAT.fat[:40]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def store(folder: Path) -> Iterator[WorkspaceStore]:
    """One for each test: they look at everything in it."""
    with WorkspaceStore(folder) as opened:
        yield opened


@pytest.fixture
def chains(store: WorkspaceStore) -> list[str]:
    made = [
        record_cross_validation(store, PLSRegression(n), X, Y, cv=KFold(2), dataset_name=f"meat {n}").chain_id
        for n in (1, 2)
    ]
    store.calibrations.register("fat", made[0])
    return made


def hold(store: WorkspaceStore, how: str) -> None:
    if how == "alias":
        store.calibrations.set_alias("fat", "production", 1)
    else:
        store.calibrations.sign("fat@v1", signer="A", meaning="review")


@pytest.mark.parametrize("how", ["alias", "signature"])
@pytest.mark.parametrize("force", [False, True])
def test_a_purge_leaves_what_is_in_service(
    store: WorkspaceStore, chains: list[str], how: str, force: bool
) -> None:
    hold(store, how)
    pipeline_id = store.get_chain(chains[0])["pipeline_id"]
    registry = ArtifactRegistry(store, "meat 1")
    before = store.predict("fat@v1", X[:3], log=False).to_dicts()
    [(reason, chain_id)] = registry.plan_purge(dataset="meat 1").needed_by
    assert chain_id == chains[0]
    assert "fat" in reason
    with pytest.raises(CalibrationInUse, match="Nothing was deleted"):
        registry.purge_dataset_artifacts(confirm=True, force=force)
    with pytest.raises(CalibrationInUse, match=chains[0]):
        registry.delete_pipeline_artifacts(pipeline_id, delete_files=True, force=force)
    assert store.predict("fat@v1", X[:3], log=False).to_dicts() == before
    assert store.check(read_data=True).ok
    # The other data set is not in service.
    assert ArtifactRegistry(store, "meat 2").purge_dataset_artifacts(confirm=True)[0]


def test_the_command_names_what_holds_a_chain(store: WorkspaceStore, chains: list[str], folder: Path) -> None:
    hold(store, "alias")
    store.close()
    arguments = ["artifacts", "purge", "--dataset", "meat 1", "--workspace", str(folder), "--force"]
    shown = invoke(*arguments, "--dry-run")
    assert f"chain {chains[0]} cannot be removed: the alias fat@production" in shown.output
    plain = json.loads(invoke(*arguments, "--dry-run", "--json").output)
    assert plain["needed_by"] == [["the alias fat@production names it", chains[0]]]
    assert invoke(*arguments, "--yes").exit_code != 0
    with WorkspaceStore(folder) as again:
        assert again.predict("fat", X[:3], log=False).height == 3
