"""Seeded damage to every kind of byte: a check finds it, or every answer and every model is unchanged."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
from clikit import check
from upkeepkit import Sample, answers, overwrite

from nirs_store.maintenance.findings import CheckReport

Damage = Callable[[bytes, random.Random, list[bytes]], bytes]


def flip(data: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


def truncate(data: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    return data[: draw.choice([0, 1, len(data) // 2, len(data) - 1])]


def zero(data: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    start = draw.randrange(len(data))
    end = min(start + draw.choice([1, 100, 4096, len(data)]), len(data))
    return data[:start] + bytes(end - start) + data[end:]


def extend(data: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    return data + draw.randbytes(draw.choice([1, 4096]))


def replace(data: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    return draw.choice([other for other in others if other != data])


# Flips most of all: they are what disks do.
EVERY: tuple[Damage, ...] = (flip, flip, flip, truncate, zero, extend, replace)


@dataclass
class Patient:
    """A workspace that is damaged and made whole again, many times."""

    sample: Sample
    healthy: dict[str, Any]
    scratch: Path
    found: int = 0
    harmless: int = 0

    def check(self) -> CheckReport:
        return check(self.sample.path, read_data=True)

    def judge(self, report: CheckReport, where: set[str], what: str) -> None:
        """Every damage is named where it is, or no answer differs."""
        named = {finding.where for finding in report.errors}
        missed = {place for place in where if not any(found.startswith(place) for found in named)}
        self.found += len(where) - len(missed)
        self.harmless += len(missed)
        if missed:
            shutil.rmtree(self.scratch, ignore_errors=True)
            shutil.copytree(self.sample.path, self.scratch)
            assert answers(self.scratch) == self.healthy, f"{what} of {missed} was missed and changes answers"


@pytest.fixture
def patient(sample: Sample, healthy: dict[str, Any], tmp_path: Path) -> Patient:
    return Patient(sample, healthy, tmp_path / "scratch")


def damaged(data: bytes, draw: random.Random, others: list[bytes]) -> tuple[bytes, str]:
    """Other bytes than before, and how they came about."""
    while True:
        damage = draw.choice(EVERY if len(set(others)) > 1 else EVERY[:-1])
        if not data and damage is not extend:
            continue
        broken = damage(data, draw, others)
        if broken != data:
            return broken, damage.__name__


def rot_blobs(patient: Patient, draw: random.Random, count: int) -> None:
    names = list(patient.sample.artifacts)
    while count > 0:
        hit = draw.sample(names, min(count, len(names)))
        whole = {name: patient.sample.blob(name).read_bytes() for name in names}
        for name in hit:
            overwrite(patient.sample.blob(name), damaged(whole[name], draw, list(whole.values()))[0])
        report = patient.check()
        patient.judge(report, {patient.sample.relative(name) for name in hit}, "damage")
        for name in hit:
            (finding,) = (f for f in report.errors if f.where == patient.sample.relative(name))
            assert set(finding.affects) == patient.sample.needs(name)
            overwrite(patient.sample.blob(name), whole[name])
        count -= len(hit)


def rot_segments(patient: Patient, draw: random.Random, count: int) -> None:
    paths = patient.sample.segments()
    while count > 0:
        hit = draw.sample(paths, min(count, len(paths)))
        whole = {path: path.read_bytes() for path in paths}
        for path in hit:
            overwrite(path, damaged(whole[path], draw, list(whole.values()))[0])
        patient.judge(patient.check(), {f"journal/segments/{path.name}" for path in hit}, "damage")
        for path in hit:
            overwrite(path, whole[path])
        count -= len(hit)


def rot_arrays(patient: Patient, draw: random.Random, count: int) -> None:
    """Other bytes than the catalog was given, with block checksums that fit them."""
    catalog = patient.sample.layout.catalog
    whole_file = catalog.read_bytes()
    while count > 0:
        con = duckdb.connect(str(catalog))
        whole = dict(con.execute("SELECT array_hash, data FROM arrays").fetchall())
        users = array_users(con)
        hit = draw.sample(sorted(whole), min(count, len(whole)))
        for key in hit:
            broken, _ = damaged(whole[key], draw, list(whole.values()))
            con.execute("UPDATE arrays SET data = ? WHERE array_hash = ?", [broken, key])
        con.close()
        report = patient.check()
        patient.judge(report, {f"arrays/{key}" for key in hit}, "damage")
        for key in hit:
            (finding,) = (f for f in report.errors if f.where == f"arrays/{key}")
            assert users[key] <= set(finding.affects)
        overwrite(catalog, whole_file)
        count -= len(hit)


def array_users(con: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    rows = con.execute(
        "SELECT unnest([y_true, y_pred, sample_indices]) AS h, prediction_id FROM prediction_arrays "
        "UNION ALL SELECT wavelengths, chain_id FROM chains WHERE wavelengths IS NOT NULL"
    ).fetchall()
    users: dict[str, set[str]] = {}
    for key, owner in rows:
        users.setdefault(key, set()).add(owner)
    return users


def rot_catalog(patient: Patient, draw: random.Random, count: int) -> None:
    catalog = patient.sample.layout.catalog
    whole = catalog.read_bytes()
    for _ in range(count):
        broken, how = damaged(whole, draw, [])
        overwrite(catalog, broken)
        patient.judge(patient.check(), {"store.duckdb"}, how)
        overwrite(catalog, whole)


ROTS = {rot_blobs: 20, rot_segments: 10, rot_arrays: 14, rot_catalog: 6}


@pytest.mark.parametrize("rot", list(ROTS), ids=lambda rot: rot.__name__)
def test_damage_is_found_or_harmless(
    rot: Callable[[Patient, random.Random, int], None], patient: Patient
) -> None:
    count = ROTS[rot]
    rot(patient, random.Random(20240607), count)
    assert patient.found + patient.harmless == count
    # How much of a catalog is free, where damage is harmless, depends on when it was written: see below.
    assert rot is rot_catalog or patient.found > 0.95 * count
    assert [f.kind for f in patient.check().findings] == ["segments_pending"], "made whole again"


FILE_HEADERS = 3 * 4096  # of a DuckDB file, before its blocks
FIRST_READ = {"nirs_store_meta", "applied", "dead"}  # without these nothing is known of the other tables


def blocks_of_tables(catalog: Path) -> tuple[int, dict[str, int]]:
    """The size of a block, and one block with rows of each table that has any."""
    with duckdb.connect(str(catalog), read_only=True) as con:
        ((size,),) = con.execute("SELECT block_size FROM pragma_database_size()").fetchall()
        first = "SELECT min(block_id) FROM pragma_storage_info(?) WHERE persistent AND block_id >= 0"
        tables = [table for (table,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        blocks = {table: con.execute(first, [table]).fetchall()[0][0] for table in tables}
    return size, {table: block for table, block in blocks.items() if block is not None}


def test_a_flipped_bit_in_each_table_is_found_table_by_table(patient: Patient) -> None:
    catalog, draw = patient.sample.layout.catalog, random.Random(20240607)
    size, blocks = blocks_of_tables(catalog)
    hit = {table: block for table, block in blocks.items() if table not in FIRST_READ}
    assert {"arrays", "audit_entries", "blobs", "chains", "logs", "predictions", "runs"} < set(hit)
    whole = bytearray(catalog.read_bytes())
    for block in set(hit.values()):
        whole[FILE_HEADERS + block * size + draw.randrange(size)] ^= 1 << draw.randrange(8)
    overwrite(catalog, bytes(whole))
    found = {finding.where for finding in patient.check().errors}
    assert {f"store.duckdb/{table}" for table in hit} - found == set()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rot", list(ROTS), ids=lambda rot: rot.__name__)
@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_damages_are_found_or_harmless(
    rot: Callable[[Patient, random.Random, int], None], seed: int, patient: Patient
) -> None:
    rot(patient, random.Random(seed), 50)
    print(f"{rot.__name__}, seed {seed}: {patient.found} found, {patient.harmless} harmless")
    assert patient.found + patient.harmless == 50


# -- each blob gone in turn ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scaler", "fold_1", "late_model"])
def test_without_a_blob_loading_says_so_its_chains_are_named_and_the_others_replay(
    sample: Sample, healthy: dict[str, Any], name: str
) -> None:
    from nirs_store.datasets import load_tecator
    from nirs_store.errors import BlobMissing
    from nirs_store.store import WorkspaceStore

    sample.blob(name).unlink()
    (finding,) = check(sample.path).errors
    assert (finding.kind, set(finding.affects)) == ("blob_missing", sample.needs(name))
    X = load_tecator().X[40:44]
    with WorkspaceStore(sample.path) as store:
        with pytest.raises(BlobMissing):
            store.load_artifact(sample.artifacts[name])
        for chain in sample.chains.values():
            if chain in finding.affects:
                with pytest.raises(BlobMissing):
                    store.replay_chain(chain, X)
            else:
                assert store.replay_chain(chain, X).tobytes() == healthy[chain][1]
        store.repair()
        assert store.get_artifact(sample.artifacts[name]) is not None, "its row is kept"
        assert [f.kind for f in store.check().errors] == ["blob_missing"]
