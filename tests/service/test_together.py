"""Several processes at once, archives that come in, hostile ones among them, and backups."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import children
import pyarrow as pa
import pytest
from servicekit import TESTED, Recorded, record

from nirs_store import WorkspaceStore
from nirs_store.errors import ArchiveInvalid, CalibrationInUse, RecordingWarning


def test_processes_register_one_name_and_move_one_alias(recorded: Recorded, crew: Callable[..., Any]) -> None:
    with WorkspaceStore(recorded.folder) as store:
        store.calibrations.register("fat", recorded.first, alias="production")
    chains = [recorded.first, recorded.second]
    reader = crew(children.read_alias, recorded.folder)
    writers = [crew(children.promote, recorded.folder, chains[::step], 4) for step in (1, -1, 1)]
    for child in (reader, *writers):
        child.hear()
    for child in writers:
        child.tell()
    made = dict(pair for child in writers for pair in child.hear())
    reader.tell()
    seen = reader.hear()
    assert sorted(made) == list(range(2, 14))
    made[1] = recorded.first
    for version, chain, pointed in seen:
        assert made[version] == chain
        # One row of a list has the alias, whichever it was then.
        assert len(pointed) == 1
    with WorkspaceStore(recorded.folder) as store:
        history = store.calibrations.history("fat", "production")
        assert len(history) == 13
        assert [each.previous for each in history[1:]] == [each.version for each in history[:-1]]
        assert store.calibrations.resolve("fat").version == history[-1].version
        assert store.audit.verify().ok


@pytest.fixture(scope="session")
def packed(made: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a workspace with two signed versions, an alias, a rule and history."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(made.folder, folder / "workspace")
    with WorkspaceStore(folder / "workspace") as store:
        calibrations = store.calibrations
        for chain in (made.first, made.second):
            version = calibrations.register("fat", chain, author="Eve")
            for signer in ("Eve", "Mallory"):
                calibrations.sign(version.label, meaning="approval", signer=signer)
            calibrations.set_alias("fat", "production", version)
        calibrations.set_rule("fat", "production")
        store.archive(folder / "elsewhere.zip")
    return folder


@pytest.fixture
def elsewhere(packed: Path, tmp_path: Path) -> Path:
    """A copy of that archive."""
    return Path(shutil.copy(packed / "elsewhere.zip", tmp_path))


def test_an_archive_brings_calibrations_whole_where_the_name_is_new(elsewhere: Path, tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "new") as store:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store.restore_archive(elsewhere)
            again = store.restore_archive(elsewhere)
        assert again.rows == {}
        assert store.calibrations.resolve("fat").version == 2
        assert [each.version for each in store.calibrations.history("fat")] == [1, 2]
        assert list(store.calibrations.rules("fat")) == ["production"]
        found = store.calibrations.verify_signatures("fat")
        assert (found.valid, len(found.problems)) == ((), 2)
        assert "came from elsewhere" in found.problems[0][1]
        # Its signatures were made under another audit trail: they do not count for the rule.
        with pytest.raises(CalibrationInUse, match="has: none"):
            store.calibrations.set_alias("fat", "production", 1)


def test_an_archive_changes_no_name_that_is_here(elsewhere: Path, tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "here") as store:
        own = record(store, 3, **TESTED)
        store.calibrations.register("fat", own, author="Ada")
        for signer in ("Ada", "Grace"):
            store.calibrations.sign("fat@v1", meaning="approval", signer=signer)
        store.calibrations.set_rule("fat", "production", signatures=2, others=2)
        store.calibrations.remove_rule("fat", "production")
        store.calibrations.set_alias("fat", "production", 1)
        store.calibrations.set_rule("fat", "production")
        with pytest.warns(RecordingWarning, match="Left out of the archive: 2 aliases, 1 rules"):
            store.restore_archive(elsewhere)
        assert store.calibrations.resolve("fat") == ("fat", 1, own)
        assert store.calibrations.versions("fat")["version"].to_list() == [3, 2, 1]
        assert store.calibrations.get("fat@v2").metadata["archived_version"] == 1
        assert store.calibrations.verify_signatures("fat@v1").ok
        for number in (2, 3):
            with pytest.raises(CalibrationInUse, match="has: none"):
                store.calibrations.set_alias("fat", "production", number)
        store.calibrations.sign("fat@v2", meaning="review", signer="Ada")
        assert [s.signer for s in store.calibrations.verify_signatures("fat@v2").valid] == ["Ada"]


def _rewritten(path: Path, table: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    manifest = json.loads(members["manifest.json"])
    entry = manifest["tables"][table]
    rows = pa.ipc.open_file(members[entry["member"]]).read_all()
    plain = rows.to_pylist()
    change(plain)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(pa.Table.from_pylist(plain, schema=rows.schema))
    data = members[entry["member"]] = sink.getvalue().to_pybytes()
    entry |= {"size": len(data), "sha256": sha256(data).hexdigest(), "rows": len(plain)}
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.fixture
def bare(tmp_path: Path, empty: Path) -> Iterator[WorkspaceStore]:
    """A store in which nothing was recorded."""
    shutil.copytree(empty, tmp_path / "bare")
    with WorkspaceStore(tmp_path / "bare") as opened:
        yield opened


HOSTILE: dict[str, tuple[str, Callable[[list[dict[str, Any]]], Any]]] = {
    "a name with an @": ("calibration_versions", lambda rows: rows[0].update(name="fat@v9")),
    "a name that clears the screen": ("calibration_versions", lambda rows: rows[0].update(name="f\x1b[2J")),
    "another spelling": ("calibration_versions", lambda rows: rows[0].update(name="fa\u0308t")),
    "no name": ("calibration_versions", lambda rows: rows[0].update(name=None)),
    "a number twice": ("calibration_versions", lambda rows: rows[0].update(version=rows[1]["version"])),
    "a number below 1": ("calibration_versions", lambda rows: rows[0].update(version=0)),
    "a huge number": ("calibration_versions", lambda rows: rows[0].update(version=2**31 - 1)),
    "no JSON": ("calibration_versions", lambda rows: rows[0].update(scope="{")),
    "a list for a scope": ("calibration_versions", lambda rows: rows[0].update(scope="[1]")),
    "limits that are no numbers": (
        "calibration_versions",
        lambda rows: rows[0].update(scope='{"range": "ab"}'),
    ),
    "an unknown scope": ("calibration_versions", lambda rows: rows[0].update(scope='{"evil": 1}')),
    "figures of another form": (
        "calibration_versions",
        lambda rows: rows[0].update(figures='{"targets": [1]}'),
    ),
    "hashes of another form": (
        "calibration_versions",
        lambda rows: rows[0].update(metadata='{"contents": "x"}'),
    ),
    "a last alias": ("calibration_aliases", lambda rows: rows[0].update(number=2**31 - 1)),
    "an alias of nothing": ("calibration_aliases", lambda rows: rows[-1].update(version=9)),
    "an alias like a version": ("calibration_aliases", lambda rows: rows[0].update(alias="v1")),
    "an alias without number": ("calibration_aliases", lambda rows: rows[0].update(number=None)),
    "a rule that is none": ("calibration_rules", lambda rows: rows[0].update(rule='{"signatures": -1}')),
}


@pytest.mark.parametrize(("table", "change"), HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_archive_is_refused(
    elsewhere: Path, bare: WorkspaceStore, table: str, change: Callable[[list[dict[str, Any]]], None]
) -> None:
    _rewritten(elsewhere, table, change)
    for dry_run in (True, False):
        with pytest.raises(ArchiveInvalid):
            bare.restore_archive(elsewhere, dry_run=dry_run)
    assert bare.calibrations.list().height == bare.list_runs().height == 0


def test_forged_signatures_for_a_version_that_is_here_stay_out(
    elsewhere: Path, packed: Path, tmp_path: Path
) -> None:
    def forge(rows: list[dict[str, Any]]) -> None:
        for number, row in enumerate(rows):
            row["signature_id"] = f"forged {number}"

    _rewritten(elsewhere, "signatures", forge)
    shutil.copytree(packed / "workspace", tmp_path / "own")
    with WorkspaceStore(tmp_path / "own") as store:
        before = store.calibrations.signatures("fat@v1")
        with pytest.warns(RecordingWarning, match="4 signatures"):
            store.restore_archive(elsewhere)
        assert store.calibrations.signatures("fat@v1") == before


def test_an_archive_of_one_run_takes_its_calibration_along(recorded: Recorded, tmp_path: Path) -> None:
    with WorkspaceStore(recorded.folder) as store:
        store.calibrations.register("fat", recorded.first, alias="production")
        store.calibrations.register("fat", recorded.second, alias="candidate")
        store.calibrations.register("other", recorded.second)
        run = store.get_pipeline(store.get_chain(recorded.first)["pipeline_id"])["run_id"]  # type: ignore[index]
        store.archive(tmp_path / "one.zip", runs=[run])
        store.backups.create(tmp_path / "backup")
    with WorkspaceStore(tmp_path / "new") as store:
        store.restore_archive(tmp_path / "one.zip")
        assert store.calibrations.list().select("name", "aliases").rows() == [("fat", "production=v1")]
        assert not store.check().of_kind("calibration_broken")
