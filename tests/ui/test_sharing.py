"""Files that need no server, and the server itself as users start it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from clikit import invoke

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput


def run(*arguments: str) -> str:
    told = invoke(*arguments)
    assert told.exit_code == 0, told.output
    return told.output


@pytest.mark.parametrize("kind", ["chain", "run"])
def test_a_report_is_one_file_with_its_figures(
    recorded: Path, tmp_path: Path, kind: str, chain_id: str
) -> None:
    identifier = chain_id if kind == "chain" else "corn"
    path = tmp_path / "deep" / "report.html"
    run("report", identifier, "-o", str(path), "-w", str(recorded))
    html = path.read_text(encoding="utf-8")
    assert html.count('<svg class="figure"') >= (5 if kind == "chain" else 15)
    assert "Predicted against measured" in html
    assert not re.search(r'(?:href|src)="', html)
    assert "<form" not in html
    assert "default-src 'none'" in html
    assert html.count("<style>") == html.count("<script") == 1


def test_a_report_of_a_chain_from_a_stored_data_set_shows_what_is_inside(
    serving: Path, tmp_path: Path
) -> None:
    with WorkspaceStore(serving, read_only=True, create=False) as store:
        chain_id = store.calibrations.get("protein@v1").chain_id
    run("report", chain_id, "-o", str(tmp_path / "r.html"), "-w", str(serving))
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    for words in ("Coefficients", "Spectra", "Calibration samples: T² and Q"):
        assert f"<figcaption>{words}</figcaption>" in html
    assert not re.search(r'(?:href|src)="', html)
    assert "Back to the chain" not in html


@pytest.mark.parametrize("name", ["protein", "protein@v1"])
def test_a_report_of_a_calibration_has_its_chart_and_its_dossier(
    serving: Path, tmp_path: Path, name: str
) -> None:
    run("report", name, "-o", str(tmp_path / "fat.html"), "-w", str(serving))
    html = (tmp_path / "fat.html").read_text(encoding="utf-8")
    assert ("Control chart" in html) is (name == "protein")
    assert "Figures of merit" in html
    assert not re.search(r'(?:href|src)="', html)
    assert "<form" not in html
    with pytest.raises(AssertionError, match="No chain"):
        run("report", "nothing", "-o", str(tmp_path / "no.html"), "-w", str(serving))


def test_calibrations_and_data_sets_are_exported_under_names_that_any_disk_takes(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "workspace") as store:
        for name in ("fat in milk", "a:b*c?", "Zürich"):
            store.datasets.add(name, [[1.0, 2.0]])
    run("ui", "--export", str(tmp_path / "pages"), "-w", str(tmp_path / "workspace"))
    names = {path.name for path in (tmp_path / "pages").iterdir()}
    assert all(re.fullmatch(r"[A-Za-z0-9_@.-]+", name) for name in names)
    html = (tmp_path / "pages" / "datasets.html").read_text(encoding="utf-8")
    links = re.findall(r'href="(datasets-[^"]*)"', html)
    assert len(set(links)) == 3
    assert set(links) <= names


def test_names_in_a_report_stay_text(hostile: Path, tmp_path: Path) -> None:
    with WorkspaceStore(hostile, create=False) as store:
        chain_id = store.list_chains(limit=1)["chain_id"][0]
    run("report", chain_id, "-o", str(tmp_path / "r.html"), "-w", str(hostile))
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


def test_a_report_of_another_kind_of_file_is_refused(recorded: Path, tmp_path: Path, chain_id: str) -> None:
    told = invoke("report", chain_id, "-o", tmp_path / "r.docx", "-w", recorded)
    assert told.exit_code == 2
    assert "Nothing was written" in told.output


def test_without_a_browser_a_pdf_says_what_to_do(
    recorded: Path, tmp_path: Path, chain_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    told = invoke("report", chain_id, "-o", tmp_path / "r.pdf", "-w", recorded)
    assert told.exit_code == InvalidInput.exit_code
    assert "Chromium" in told.output
    assert not (tmp_path / "r.pdf").exists()


def test_the_pages_are_written_as_files_that_lead_to_each_other(recorded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    run("ui", "--export", str(folder), "-w", str(recorded))
    pages = {path.name for path in folder.iterdir()}
    assert {"index.html", "chains.html", "runs.html", "pivot.html", "page.css", "page.js"} <= pages
    assert len([name for name in pages if re.fullmatch(r"chains-[0-9a-f-]{36}.html", name)]) == 3
    for path in folder.glob("*.html"):
        html = path.read_text(encoding="utf-8")
        leads = set(re.findall(r'(?:href|src)="([^"#]+)', html))
        assert leads <= pages, path.name
        assert "<form" not in html, path.name
        assert html.index("default-src 'none'; style-src 'self' file:") < html.index("<script"), path.name
    told = invoke("ui", "--export", folder, "-w", recorded)
    assert told.exit_code == 2
    assert "not an empty folder" in told.output


# -- The server.


def test_an_open_store_shows_itself_from_a_thread(recorded: Path, tmp_path: Path) -> None:
    shutil.copytree(recorded, tmp_path / "w")
    with WorkspaceStore(tmp_path / "w") as store, store.ui() as page:
        assert page.url in page._repr_html_()
        asked = urllib.request.Request(f"{page.url}chains", headers={"Accept": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert json.load(answer)["total"] == 3
    with pytest.raises(OSError):
        urllib.request.urlopen(page.url, timeout=5)
    with WorkspaceStore(tmp_path / "w") as store:
        assert store.list_runs().height == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a signal of POSIX")
def test_the_command_serves_until_ctrl_c(recorded: Path) -> None:
    call = [sys.executable, "-m", "nirs_store", "ui", "-w", str(recorded), "--port", "0", "--no-browser"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        url = re.search(r"http://\S+", child.stdout.readline())
        assert url is not None
        assert "read-only" in child.stdout.readline()
        with urllib.request.urlopen(url[0], timeout=60) as answer:
            assert b"corn" in answer.read()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert (child.returncode, errors) == (0, "")
