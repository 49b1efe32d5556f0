"""Whatever is wrong with a bundle, it is refused with the right error, and nothing has happened."""

from __future__ import annotations

import importlib.util
import random
import sys
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nirs_store import WorkspaceStore, load_bundle
from nirs_store.bundle import export_chain, inspect_bundle
from nirs_store.errors import BundleError

# The honest bundle has 60 kB; the largest hostile one brings 60 MB of its own, which is read and thrown away.
_MEMORY = 48 << 20


def _corpus() -> ModuleType:
    name = "hostile_bundles"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("hostile.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


corpus = _corpus()


@pytest.fixture(scope="module")
def honest(world: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A bundle without pickles: a scatter correction, a derivative, and the model fitted on all samples."""
    folder = tmp_path_factory.mktemp("honest")
    path = export_chain(world.shelf, world.chains["refit"], folder / "honest", safe=True, probe=world.new[:3])
    return path.read_bytes()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Any:
    # Without a trail, so that not even the attempt is noted.
    with WorkspaceStore(tmp_path_factory.mktemp("hostile") / "workspace", audit=False) as store:
        yield store


def everything(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def test_the_corpus_is_large_and_each_kind_has_a_name() -> None:
    names = [kind.name for kind in corpus.KINDS]
    assert len(names) >= 40
    assert len(set(names)) == len(names)


def test_the_honest_bundle_is_opened(honest: bytes, world: Any, tmp_path: Path) -> None:
    path = tmp_path / "honest.n4a"
    path.write_bytes(honest)
    assert load_bundle(path).predict(world.new).shape == (len(world.new),)
    again = tmp_path / "again.n4a"
    again.write_bytes(corpus.relisted(corpus.members_of(honest)))
    assert load_bundle(again).predict(world.new).shape == (len(world.new),)
    again.write_bytes(corpus.with_schema(honest, lambda schema: None))
    assert load_bundle(again).predict(world.new).shape == (len(world.new),)


def _refused(kind: Any, attempt: Any, path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        attempt(path)
    assert type(caught.value).__name__ == kind.error, str(caught.value)
    assert kind.says in str(caught.value)
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("kind", corpus.KINDS, ids=lambda kind: kind.name)
def test_it_is_refused_and_nothing_has_happened(
    kind: Any, honest: bytes, workspace: WorkspaceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "canary"
    path = tmp_path / "hostile.n4a"
    path.write_bytes(kind.make(honest, canary))
    allowed = path.stat().st_size + _MEMORY
    before = everything(tmp_path), everything(workspace.workspace_path)
    tracemalloc.start()
    try:
        _refused(kind, load_bundle, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    _refused(kind, workspace.import_bundle, path)
    assert peak < allowed
    assert (everything(tmp_path), everything(workspace.workspace_path)) == before
    assert not canary.exists()


def test_the_workspace_is_as_empty_as_before(workspace: WorkspaceStore) -> None:
    assert workspace.list_runs().height == 0
    assert list((workspace.workspace_path / "artifacts").rglob("*.skops")) == []


def _mutated(rng: random.Random, honest: bytes, other: bytes) -> bytes:
    """Damage a bundle somewhere: its bytes, its members, or its texts, hashes corrected or not."""
    choice = rng.randrange(6)
    if choice == 0:
        data = bytearray(honest)
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if choice == 1:
        start, length = rng.randrange(len(honest)), rng.randrange(1, 2000)
        insert = rng.choice((b"", rng.randbytes(rng.randrange(1, 2000)), honest[:length]))
        return honest[:start] + insert + honest[start + length :]
    if choice == 2:
        tail = bytearray(honest)
        for _ in range(rng.randrange(1, 6)):
            tail[len(tail) - 1 - rng.randrange(900)] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        return bytes(tail)
    members = corpus.members_of(honest)
    place = rng.randrange(len(members))
    name, data = members[place]
    if choice == 3 and name != "nirs_store.json":
        members[place] = (name, _bent(rng, data))
        return bytes(corpus.relisted(members))
    if choice == 4:
        blob = corpus.blob_of(members)
        inner = corpus.members_of(dict(members)[blob])
        at = rng.randrange(len(inner))
        inner[at] = (inner[at][0], _bent(rng, inner[at][1]))
        return bytes(corpus.with_payload(honest, corpus.packed(inner)))
    members[place] = (name, rng.choice((other, _bent(rng, data), b"", b"{}", data + b" ")))
    return bytes(corpus.packed(members))


def _bent(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return rng.randbytes(4)
    changed = bytearray(data)
    words = (
        b'"ObjectNode"',
        b'"FunctionNode"',
        b'"os.system"',
        b"null",
        b"-1",
        b"1e308",
        b"{",
        b"]",
        b"99999999999",
    )
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed))
        if rng.random() < 0.5:
            changed[at] = rng.randrange(256)
        else:
            word = rng.choice(words)
            changed[at : at + len(word)] = word
    return bytes(changed)


def _fuzz(cases: int, honest: bytes, tmp_path: Path, seed: int) -> dict[str, int]:
    """Open damaged bundles; each is refused with a typed error, or it was not damaged where it matters."""
    rng = random.Random(seed)
    other = dict(corpus.members_of(honest))["card.md"]
    counts: dict[str, int] = {}
    path = tmp_path / "fuzz.n4a"
    before = set(tmp_path.iterdir()) | {path}
    for case in range(cases):
        path.write_bytes(_mutated(rng, honest, other))
        try:
            load_bundle(path)
            inspect_bundle(path)
            outcome = "opened"
        except BundleError as error:
            outcome = type(error).__name__
        except BaseException as error:
            raise AssertionError(f"seed {seed}, case {case}: {type(error).__name__}: {error}") from error
        counts[outcome] = counts.get(outcome, 0) + 1
        assert set(tmp_path.iterdir()) == before
    return counts


@pytest.mark.filterwarnings("ignore")
def test_some_damaged_bundles_end_in_typed_errors(honest: bytes, tmp_path: Path) -> None:
    counts = _fuzz(60, honest, tmp_path, seed=1)
    assert counts["BundleInvalid"] > 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
def test_ten_thousand_damaged_bundles_end_in_typed_errors(honest: bytes, tmp_path: Path) -> None:
    counts = _fuzz(10_000, honest, tmp_path, seed=20260101)
    print(f"\noutcomes of 10,000 damaged bundles: {dict(sorted(counts.items()))}")
    assert sum(counts.values()) == 10_000
    assert counts["BundleInvalid"] > 5_000
