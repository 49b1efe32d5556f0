"""Many files as one, reference values by name, conversions, kept originals, and readers of other packages."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput
from nirs_store.reading import Measured, Reader, list_readers, read_spectra, spectra_from
from nirs_store.reading.collect import read_labels

HEAD = (
    "##TITLE={}\n##XUNITS=1/CM\n##YUNITS={}\n##FIRSTX=4000\n##LASTX={}\n##NPOINTS=3\n##XYDATA=(X++(Y..Y))\n"
)


def jcamp(path: Path, values: list[float], last: int = 3996, signal: str = "ABSORBANCE") -> Path:
    text = HEAD.format(path.stem, signal, last) + "4000 " + " ".join(map(str, values)) + "\n##END=\n"
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "field"
    home.mkdir()
    for k, name in enumerate(("b", "a", "c")):
        jcamp(home / f"{name}.jdx", [0.1 + k, 0.2, 0.3])
    return home


@pytest.mark.parametrize("kind", ["folder", "pattern", "list"])
def test_files_of_one_grid_become_one(kind: str, folder: Path) -> None:
    (folder / "notes.txt").write_text("nothing")
    (folder / ".hidden").write_text("nothing")
    given: Any = {"folder": folder, "pattern": str(folder / "*.jdx"), "list": sorted(folder.glob("*.jdx"))}[
        kind
    ]
    found = read_spectra(given)
    assert found.ids.tolist() == ["a", "b", "c"]  # type: ignore[union-attr]
    assert found.X[:, 0].tolist() == [1.1, 0.1, 2.1]
    assert found.understood.startswith(
        "3 samples of 3 files, 3 channels 4000 to 3996 cm-1, labels: id, title; absorbance"
    )
    assert ("1 other file left out: notes.txt" in found.understood) == (kind == "folder")
    assert [source.path.name for source in found.sources] == ["a.jdx", "b.jdx", "c.jdx"]
    assert found.sources[0].sha256 == hashlib.sha256((folder / "a.jdx").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"last": 3998},
            "d.jdx has another grid than a.jdx: 3 channels 4000 to 3998 cm-1, not 3 channels 4000 to 3996",
        ),
        ({"signal": "REFLECTANCE"}, "d.jdx holds reflectance, but a.jdx absorbance"),
    ],
)
def test_a_file_that_differs_is_named(change: Any, words: str, folder: Path) -> None:
    jcamp(folder / "d.jdx", [1, 2, 3], **change)
    with pytest.raises(InvalidInput, match=words):
        read_spectra(folder)


@pytest.mark.parametrize(
    "text",
    [
        "id;fat\na;12,5\nb;13,5\n",
        "sep=;\nid;fat\na;12,5\nb;13,5\n",
        "id;fat\n\na;12,5\nb;13,5\nc;\nd\n",
        '"id"\t"fat"\n"a"\t"12,5"\nb\t13,5\n',
        "id|fat\na|12,5\nb|13,5\n",
        "id,fat\na,12.5\nb,13.5\n",
        'id,fat\na,"12,5"\nb,"13,5"\n',
        "id;fat;lab\na;12,5;north, old\nb;13,5;south, new\n",
    ],
)
def test_a_small_table_of_references_is_split_as_its_header(tmp_path: Path, text: str) -> None:
    file = tmp_path / "lab.csv"
    file.write_text(text)
    found = read_labels(file)
    assert found.columns[:2] == ["id", "fat"]
    assert found["fat"].to_list()[:2] == [12.5, 13.5]


def test_references_join_by_name(folder: Path) -> None:
    lab = folder / "lab.csv"
    lab.write_text("moisture;sample;lot\n12,5;c;007\n11;a.jdx;008\n13;z;009\n")
    with pytest.raises(InvalidInput, match="has no column 'protein'"):
        read_spectra(folder, references=lab, target="protein")
    found = read_spectra(folder, references=lab, target="moisture")
    assert found.references["lot"].to_list() == ["008", None, "007"]
    assert np.array_equal(found.y, [11, np.nan, 12.5], equal_nan=True)
    assert "references of lab.csv: 2 of 3 samples; none for b; no spectrum of z" in found.understood
    assert found.sources[-1].path == lab
    for text, words in [
        ("sample;m\na;1\na;2\n", "several rows for a"),
        ("sample;m\nq;1\n", "No sample is in lab.csv: its column 'sample' holds q; the samples are a, b, c"),
        ("sample;title\na;1\n", "column 'title', which the spectra have as well"),
        ("sample;m\n", "no rows below its header"),
        ("sample;m\na;1;2\n", "line 2 has more cells"),
    ]:
        lab.write_text(text)
        with pytest.raises(InvalidInput, match=words):
            read_spectra(folder, references=lab)
    pl.DataFrame({"id": ["a", "b", "c"], "m": [1.0, 2.0, 3.0]}).write_parquet(folder.parent / "lab.parquet")
    assert read_spectra(folder, references=folder.parent / "lab.parquet", target="m").y.tolist() == [1, 2, 3]  # type: ignore[union-attr]


def test_values_are_converted_only_when_asked(tmp_path: Path) -> None:
    share = jcamp(tmp_path / "r.jdx", [0.5, 0.25, 1.0], signal="REFLECTANCE")
    assert read_spectra(share).X.tolist() == [[0.5, 0.25, 1.0]]
    found = read_spectra(share, to="absorbance")
    assert np.allclose(found.X, -np.log10([[0.5, 0.25, 1.0]]))
    assert (found.signal, "reflectance converted to absorbance" in found.understood) == ("absorbance", True)
    percent = jcamp(tmp_path / "p.jdx", [50, 25, 100], signal="TRANSMITTANCE")
    with pytest.raises(InvalidInput, match="goes up to 100, so it may be in percent"):
        read_spectra(percent, to="absorbance")
    assert np.allclose(read_spectra(percent, to="absorbance", signal="%T").X, found.X)
    with pytest.raises(InvalidInput, match="says 'transmittance'"):
        read_spectra(percent, signal="absorbance")
    with pytest.raises(InvalidInput, match="sample 1 at channel 2 is 0 and has no absorbance"):
        read_spectra(jcamp(tmp_path / "z.jdx", [0.5, 0, 1], signal="REFLECTANCE"), to="absorbance")
    (tmp_path / "s.csv").write_text("850,852,854\n0.5,0.25,1\n")
    with pytest.raises(InvalidInput, match="does not say what its values are"):
        read_spectra(tmp_path / "s.csv", to="absorbance")
    assert np.allclose(read_spectra(tmp_path / "s.csv", to="absorbance", signal="reflectance").X, found.X)


def test_originals_are_kept_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    lab = tmp_path / "lab.csv"
    lab.write_text("id,m\na,1\nb,2\nc,3\n")
    with WorkspaceStore(tmp_path / "ws") as store:
        one = read_spectra(folder / "a.jdx")
        kept = one.keep(store, "raw/a.jdx")
        assert store.files.get(kept) == (folder / "a.jdx").read_bytes()
        about = store.files.metadata("raw/a.jdx")
        assert about["version_id"] == kept
        assert about["metadata"]["sha256"] == one.source.sha256
        many = read_spectra(folder, references=lab)
        members = store.files.get(many.keep(store))
        assert sorted(members) == ["a.jdx", "b.jdx", "c.jdx", "lab.csv"]
        assert members["lab.csv"] == lab.read_bytes()
        jcamp(folder / "b.jdx", [9, 9, 9])
        with pytest.raises(InvalidInput, match=r"b.jdx has changed since it was read"):
            many.keep(store)


@pytest.fixture
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, gain: float = 1.0) -> Any:
        if path.read_bytes() == b"bad":
            raise ZeroDivisionError("oops")
        X = gain * np.array([[1.0, 2.0, 3.0]])
        return spectra_from(Measured(X, np.array([1100.0, 1102.0, 1104.0]), "nm", "absorbance"), path, "Foss")

    module: Any = types.ModuleType("a_package_of_readers")
    module.foss = Reader("foss", "Foss", (".nir",), read)
    module.wrong = 7
    monkeypatch.setitem(sys.modules, "a_package_of_readers", module)
    site = tmp_path_factory.mktemp("site")
    about = site / "a_package_of_readers-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: a-package-of-readers\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[nirs_store.readers]\nbroken = no_such_package:reader\nwrong = a_package_of_readers:wrong\n"
        "foss = a_package_of_readers:foss\n"
    )
    monkeypatch.syspath_prepend(site)


@pytest.mark.usefixtures("installed")
def test_other_packages_add_readers_and_a_broken_one_breaks_no_other(tmp_path: Path) -> None:
    (tmp_path / "s.nir").write_bytes(b"good")
    found = read_spectra(tmp_path / "s.nir")
    assert (found.X.tolist(), found.ids.tolist(), found.unit) == ([[1, 2, 3]], ["s"], "nm")  # type: ignore[union-attr]
    (tmp_path / "t.nir").write_bytes(b"more")
    assert read_spectra(tmp_path).ids.tolist() == ["s", "t"]  # type: ignore[union-attr]
    (tmp_path / "s.csv").write_text("850,852\n1,2\n")
    assert read_spectra(tmp_path / "s.csv").X.tolist() == [[1, 2]]
    assert list_readers()["foss"] == "a_package_of_readers:foss"
    for options, words in [
        (
            {"format": "broken"},
            "'broken' is offered by no_such_package:reader, which cannot be loaded: ModuleNotFound",
        ),
        ({"format": "wrong"}, "offered by a_package_of_readers:wrong.*cannot be loaded|which is int"),
        ({"block": "AB"}, "block= does not go with Foss"),
    ]:
        with pytest.raises(InvalidInput, match=words):
            read_spectra(tmp_path / "s.nir", **options)
    (tmp_path / "s.nir").write_bytes(b"bad")
    with pytest.raises(
        InvalidInput, match="reader 'foss' of another package failed: ZeroDivisionError: oops"
    ):
        read_spectra(tmp_path / "s.nir")
    (tmp_path / "s.xyz").write_bytes(b"?")
    with pytest.raises(InvalidInput, match=r"must end in one of .*no_such_package"):
        read_spectra(tmp_path / "s.xyz")
