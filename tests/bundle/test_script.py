"""The script that predicts on its own."""

from __future__ import annotations

import csv
import io
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store.bundle import export_script, standalone
from nirs_store.errors import InvalidInput, ShapeMismatch, UnknownId

KINDS = [
    "folds",
    "weights",
    "refit",
    "single",
    "steps of each fold",
    "augmentation",
    "targets",
    "hard votes",
    "encoded labels",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_predicts_the_same_bits_as_the_stored_chain(
    kind: str, world: Any, spectra: np.ndarray, tmp_path: Path
) -> None:
    path = export_script(world.shelf, world.chains[kind], tmp_path / "x")
    found = runpy.run_path(str(path))["predict"](spectra)
    expected = world.shelf.replay(world.chains[kind], spectra)
    assert found.dtype == expected.dtype
    assert (found == expected).all()


def spectra_csv(world: Any, path: Path, delimiter: str = ",", comma: bool = False) -> Path:
    lines = [["sample", "fat", *(f"{value:.2f}" for value in world.wavelengths)]]
    for number, row in enumerate(world.new[:5]):
        lines.append([f"meat {number}", "12.5", *(repr(float(value)) for value in row)])
    if comma:
        lines = [lines[0], *([cell.replace(".", ",") for cell in line] for line in lines[1:])]
    path.write_text("\n".join(delimiter.join(line) for line in lines), "utf-8")
    return path


def test_it_runs_without_nirs_store(world: Any, tmp_path: Path) -> None:
    path = export_script(world.shelf, world.chains["folds"], tmp_path / "x")
    assert path.name == "x.n4a.py"
    spectra_csv(world, tmp_path / "in.csv")
    blocked = (
        "import sys, runpy; sys.modules['nirs_store'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", blocked, path, tmp_path / "in.csv", "-o", tmp_path / "out.csv"],
        capture_output=True,
        text=True,
    )
    # A chain without a domain: the script says so, as `nirs-store predict` does.
    warned = "warning: domain not known: nothing says whether the samples are inside"
    assert (done.returncode, done.stdout, done.stderr.strip()) == (0, "", warned)
    rows = list(csv.reader((tmp_path / "out.csv").read_text("utf-8").splitlines()))
    assert rows[0] == ["sample", "fat"]
    assert [row[0] for row in rows[1:]] == [f"meat {number}" for number in range(5)]
    expected = world.shelf.replay(world.chains["folds"], world.new[:5])
    assert [float(row[1]) for row in rows[1:]] == expected.tolist()


@pytest.fixture
def script(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The module that every script is made of, with the chain of a script in it."""
    names = runpy.run_path(str(export_script(world.shelf, world.chains["folds"], tmp_path / "x")))
    for name in ("CHAIN", "OBJECTS", "_loaded"):
        monkeypatch.setattr(standalone, name, names[name])
    return vars(standalone)


@pytest.mark.parametrize(("delimiter", "comma"), [(",", False), (";", False), ("\t", False), (";", True)])
def test_the_usual_forms_of_csv_are_read(
    script: Any, world: Any, tmp_path: Path, capsys: Any, delimiter: str, comma: bool
) -> None:
    assert script["main"]([str(spectra_csv(world, tmp_path / "in.csv", delimiter, comma))]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    expected = world.shelf.replay(world.chains["folds"], world.new[:5])
    assert [float(row[1]) for row in rows[1:]] == expected.tolist()


def test_numbers_without_a_header_are_read(
    script: Any, world: Any, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    text = "\n".join(",".join(repr(float(value)) for value in row) for row in world.new[:3])
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert script["main"](["-"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert [row[0] for row in rows] == ["sample", "1", "2", "3"]
    expected = world.shelf.replay(world.chains["folds"], world.new[:3])
    assert [float(row[1]) for row in rows[1:]] == expected.tolist()


def test_a_file_that_does_not_fit_is_an_error_and_a_status(script: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "in.csv").write_text("sample,850.0,852.02\na,1,2\n")
    assert script["main"]([str(tmp_path / "in.csv")]) == 2
    assert "100 channels" in capsys.readouterr().err
    assert script["main"]([str(tmp_path / "nothing.csv")]) == 2
    (tmp_path / "in.csv").write_text("")
    assert script["main"]([str(tmp_path / "in.csv")]) == 2


def test_spectra_that_do_not_fit_are_refused(script: Any, world: Any) -> None:
    with pytest.raises(ValueError, match="trained on 100 channels"):
        script["predict"](world.new[:, 1:])
    with pytest.raises(ValueError, match="not on the grid"):
        script["predict"](world.new, world.wavelengths + 1)
    with pytest.raises(ValueError, match="100 channels, but there are 99"):
        script["predict"](world.new, world.wavelengths[1:])
    with pytest.raises(ValueError, match="shape"):
        script["predict"](world.new[0])
    found = script["predict"](world.new.tolist(), world.wavelengths)
    assert (found == script["predict"](world.new.astype(object))).all()


def frames(X: np.ndarray, names: list[Any]) -> list[Any]:
    import pandas as pd
    import polars as pl

    return [pd.DataFrame(X, columns=names), pl.DataFrame(X, schema=[str(name) for name in names])]


def test_columns_of_a_data_frame_that_are_named_by_wavelength_are_compared(script: Any, world: Any) -> None:
    grid, expected = world.wavelengths, world.shelf.replay(world.chains["folds"], world.new)
    for frame in frames(world.new, grid.tolist()):
        assert (script["predict"](frame) == expected).all()
        assert (script["predict"](frame, grid) == expected).all()
    for frame in frames(world.new[:, ::-1], grid[::-1].tolist()):
        for given in (None, grid):
            with pytest.raises(ValueError, match="not on the grid"):
                script["predict"](frame, given)
        with pytest.raises(ShapeMismatch):
            world.shelf.replay(world.chains["folds"], frame)


@pytest.mark.parametrize("names", [list(range(100)), [f"x{k}" for k in range(100)], [float("nan")] * 100])
def test_columns_that_are_named_by_something_else_are_not(script: Any, world: Any, names: list[Any]) -> None:
    import pandas as pd

    expected = world.shelf.replay(world.chains["folds"], world.new)
    assert (script["predict"](pd.DataFrame(world.new, columns=names)) == expected).all()


def test_columns_tell_a_step_the_wavelengths_where_none_are_stored(
    toy: Any, kit: Any, tmp_path: Path
) -> None:
    toy.chains["chain-0"]["steps"][0].update(
        operator_class="bundle_kit.Tilted", artifact_id=toy.keep(kit.Tilted())
    )
    predict = runpy.run_path(str(export_script(toy, "chain-0", tmp_path / "x")))["predict"]
    for frame in frames(np.array([[1.0, 2.0], [3.0, 5.0]]), [900.0, 1000.0]):
        assert (predict(frame) == toy.replay("chain-0", frame)).all()


def test_wavelengths_reach_a_step_that_takes_them(toy: Any, kit: Any, tmp_path: Path) -> None:
    chain = toy.chains["chain-0"]
    chain["wavelengths"] = np.array([900.0, 1000.0])
    chain["steps"][0].update(operator_class="bundle_kit.Tilted", artifact_id=toy.keep(kit.Tilted()))
    path = export_script(toy, "chain-0", tmp_path / "x")
    X = np.array([[1.0, 2.0], [3.0, 5.0]])
    found = runpy.run_path(str(path))["predict"](X)
    assert (found == toy.replay("chain-0", X)).all()
    assert (found != toy.replay("chain-0", X * 0)).all()


def test_a_damaged_script_says_so(world: Any, tmp_path: Path) -> None:
    path = export_script(world.shelf, world.chains["folds"], tmp_path / "x")
    text = path.read_text("utf-8")
    start = text.index('""",\n', text.index("OBJECTS:")) - 20
    path.write_text(text[:start] + ("A" if text[start] != "A" else "B") + text[start + 1 :], "utf-8")
    with pytest.raises(ValueError, match="damaged"):
        runpy.run_path(str(path))["predict"](world.new)


@pytest.mark.parametrize(
    ("given", "written"),
    [("m", "m.n4a.py"), ("m.n4a", "m.n4a.py"), ("m.n4a.py", "m.n4a.py"), ("m.py", "m.py")],
)
def test_the_suffix_is_added(toy: Any, tmp_path: Path, given: str, written: str) -> None:
    assert export_script(toy, "chain-0", tmp_path / given) == tmp_path / written


def test_the_same_chain_gives_the_same_script(toy: Any, tmp_path: Path) -> None:
    one = export_script(toy, "chain-0", tmp_path / "a").read_text("utf-8")
    assert export_script(toy, "chain-0", tmp_path / "sub" / "a").read_text("utf-8") == one


@pytest.mark.parametrize(
    "evil",
    [
        '"""\nraise SystemExit(7)\n"""\\" \' {0} ',
        "@FILE@",
        "OBJECTS: dict[str, str] = {}",
        'json.loads(r"""{}""")',
        "\\",
    ],
)
def test_names_of_users_cannot_become_code(toy: Any, tmp_path: Path, evil: str) -> None:
    toy.chains["chain-0"].update(
        model_class=evil, preprocessings=evil, metadata={"target": evil}, chain_id=evil
    )
    toy.chains["chain-0"]["steps"][0]["operator_class"] = evil
    names = runpy.run_path(str(export_script(toy, "chain-0", tmp_path / "x")))
    assert names["CHAIN"]["chain_id"] == evil
    X = np.array([[1.0, 2.0], [3.0, 5.0]])
    assert (names["predict"](X) == toy.replay("chain-0", X)).all()


def test_chains_that_only_nirs_store_can_replay_are_refused(world: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="2 sources"):
        export_script(world.shelf, world.sources, tmp_path / "x")
    with pytest.raises(UnknownId):
        export_script(world.shelf, "nothing", tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_the_template_is_filled_completely(toy: Any, tmp_path: Path) -> None:
    text = export_script(toy, "chain-0", tmp_path / "x").read_text("utf-8")
    assert not [mark for mark in ("@TITLE@", "@FILE@", "@ENVIRONMENT@", '"""{}"""') if mark in text]
    assert standalone.OBJECTS == {}
