"""The tutorials run from top to bottom, and show what they did when they were written."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

nbformat = pytest.importorskip("nbformat")
notebooks = pytest.importorskip("notebooks")

TUTORIALS = notebooks.notebooks()

pytestmark = pytest.mark.skipif(not TUTORIALS, reason="the tutorials are in the checkout")


def printed(notebook: Any) -> list[str]:
    """What each cell printed, without its numbers: their last digits differ between machines."""
    return [
        re.sub(r"\d[\d,.]*", "#", re.sub(r"\s+", " ", output.text))
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stdout"
    ]


def run(path: Path) -> Any:
    """Run a notebook in this process and folder: most of a kernel's time is spent on starting it."""
    notebook, names = nbformat.read(path, as_version=4), {"__name__": "__main__"}
    for cell in (each for each in notebook.cells if each.cell_type == "code"):
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            exec(compile(cell.source.replace("%matplotlib inline\n", ""), path.name, "exec"), names)
        printed = text.getvalue()
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed)] if printed else []
    return notebook


@pytest.mark.filterwarnings("ignore")  # what a kernel writes to stderr is not compared
@pytest.mark.parametrize(
    ("path", "kernel"),
    [(path, path is TUTORIALS[0]) for path in TUTORIALS],
    ids=[path.stem for path in TUTORIALS],
)
def test_a_tutorial_runs_and_prints_what_it_shows(
    path: Path, kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel is another process: it must find the package that is tested, and no settings of a user.
    checkout = str(path.parents[2])
    monkeypatch.setenv("PYTHONPATH", checkout)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    folder = tmp_path / "tutorial"
    folder.mkdir()
    shown = nbformat.read(path, as_version=4)
    monkeypatch.chdir(folder)
    with pl.Config():  # tutorials set how tables are printed
        done = notebooks.clean(notebooks.execute(path, folder) if kernel else run(path), folder)
    assert printed(done) == printed(shown)
    assert (folder / "workspace" / "store.duckdb").is_file()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_stored_tutorial_was_executed_in_order_and_tells_nothing_of_the_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell.outputs) for cell in code) >= 5
    for cell in code:
        assert not cell.metadata
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output
    text = path.read_text(encoding="utf-8")
    for trace in ("/tmp", "/home", "/root", "/Users", "C:\\", "execution_start", "iopub", "ipykernel_"):
        assert trace not in text, trace
    assert path.stat().st_size < 200_000


def test_each_tutorial_leads_to_the_next() -> None:
    assert [path.name for path in TUTORIALS] == [
        "1-record-and-rank.ipynb",
        "2-replay-share-trust.ipynb",
        "3-housekeeping.ipynb",
        "4-screen-and-choose.ipynb",
        "5-diagnose.ipynb",
        "6-second-instrument.ipynb",
        "7-a-year-of-a-calibration.ipynb",
    ]
    for path, following in itertools.pairwise(TUTORIALS):
        assert f"]({following.name})" in nbformat.read(path, as_version=4).cells[-1].source
