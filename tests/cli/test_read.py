"""``nirs-store read``: what files of spectra hold, for people and programs, and as CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store import read_spectra

HEAD = "##TITLE={}\n##XUNITS=NANOMETERS\n##YUNITS=REFLECTANCE\n##FIRSTX=850\n##LASTX=1048\n##NPOINTS=100\n##XYDATA=(X++(Y..Y))\n"


@pytest.fixture
def folder(tmp_path: Path, recorded: Any) -> Path:
    home = tmp_path / "meat"
    home.mkdir()
    for k in range(3):
        share = 10.0 ** -recorded.tecator.X[60 + k]
        lines = [f"{850 + 2 * j} {value!r}" for j, value in enumerate(map(float, share))]
        (home / f"m{k}.jdx").write_text(HEAD.format(f"meat\x1b[2J {k}") + "\n".join(lines) + "\n##END=\n")
    return home


def test_files_are_described_and_converted(run: Any, folder: Path, recorded: Any, tmp_path: Path) -> None:
    shown = run("read", folder).stdout
    assert (
        "3 samples of 3 files, 100 channels 850 to 1048 nm, labels: id, title; reflectance; JCAMP-DX" in shown
    )
    about = json.loads(run("read", "--json", *sorted(folder.iterdir()), "--to", "absorbance").stdout)
    assert (about["ids"], about["signal"], about["unit"]) == (["m0", "m1", "m2"], "absorbance", "nm")
    output = tmp_path / "out" / "meat.csv"
    run("read", folder, "--to", "absorbance", "--csv", output)
    again = read_spectra(output)
    assert np.allclose(again.X, recorded.tecator.X[60:63])
    assert (again.unit, again.ids.tolist()) == ("nm", ["m0", "m1", "m2"])  # type: ignore[union-attr]
    assert "exists" in run("read", folder, "--csv", output, expect=2).stderr
    run("read", folder, "--csv", output, "--overwrite")
    assert "\x1b" not in run("read", folder / "m0.jdx").stdout


def test_instrument_files_are_predicted(run: Any, folder: Path, recorded: Any, tmp_path: Path) -> None:
    (folder / "lab.csv").write_text("sample,fat\nm0,10\nm2,12\n")
    chain = recorded.chains["better"].chain_id
    for k in range(3):  # the grid of the calibration
        path = folder / f"m{k}.jdx"
        grid = recorded.tecator.wavelengths
        path.write_text(path.read_text().replace("##LASTX=1048", f"##LASTX={float(grid[-1])}"))
    shown = run("predict", chain, folder, "--to", "absorbance", "--references", folder / "lab.csv", "--json")
    rows = json.loads(shown.stdout)
    assert [(row["id"], row["fat"]) for row in rows] == [("m0", 10), ("m1", None), ("m2", 12)]
    assert "none for m1" in shown.stderr
