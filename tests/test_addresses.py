"""Addresses are no paths, and secrets of a command are not written down."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clikit import invoke
from sklearn.linear_model import Ridge
from storekit import ADDRESSES

from nirs_store import WorkspaceStore, load_bundle, read_spectra, record_cross_validation
from nirs_store.errors import InvalidInput
from nirs_store.plots import chain_predicted_vs_measured, save_figure


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    """A workspace that refusals leave as it is."""
    with WorkspaceStore(tmp_path_factory.mktemp("opened") / "ws") as store:
        yield store


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("kind", [str, Path])
def test_an_address_is_refused_wherever_a_place_to_write_is_named_and_nothing_is_made(
    opened: WorkspaceStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    kind: Callable[[str], Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = kind(address)
    for way in (
        WorkspaceStore,
        opened.backups.create,
        opened.archive,
        opened.restore_archive,
        opened.audit.export,
    ):
        with pytest.raises(InvalidInput, match="address") as caught:
            way(given)
        assert "geheim" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["s3://bucket/ws", "md:ws", "https://host/ws"])
@pytest.mark.parametrize("way", ["argument", "option", "environment"])
def test_the_command_line_refuses_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, way: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {"argument": ["init", address], "option": ["runs", "-w", address], "environment": ["runs"]}[way]
    environment = {"NIRS_STORE_WORKSPACE": address} if way == "environment" else {}
    done = invoke(*words, env=environment)
    assert done.exit_code == 2
    assert "address" in done.output
    assert not list(tmp_path.iterdir())


def test_no_folder_is_made_that_is_called_as_a_scheme_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="address"):
        WorkspaceStore(Path("gs://bucket/ws").absolute())
    assert not list(tmp_path.iterdir())


SECRET = "hunter2"
COMMANDS = (
    ["--password", SECRET], ["--db-password", SECRET], ["--token=" + SECRET], ["--api-key", SECRET], ["--API_KEY=" + SECRET],
    ["--aws-secret-access-key", SECRET], ["--secret", SECRET], ["--key=" + SECRET], ["AWS_SECRET_ACCESS_KEY=" + SECRET],
    ["--passphrase", "-" + SECRET], [f"postgresql://ann:{SECRET}@host/db"], [f"--url=https://{SECRET}@host/x"],
    [f"https://host/x?api_key={SECRET}&n=3"], ["--header", f"Authorization: Bearer {SECRET}"],
    ["-c", f"connect(password='{SECRET}', n=3)"], ["--auth-token", SECRET, "--token", SECRET],
)  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=str)
def test_a_secret_of_the_command_is_not_recorded(tmp_path: Path, words: list[str]) -> None:
    with WorkspaceStore(tmp_path) as store:
        run_id = store.begin_run("run", {}, [])
        store.capture_environment(run_id, command=["train.py", *words, "--epochs", "3"])
        run = store.get_run(run_id)
    assert run is not None
    told = json.dumps(run, default=str)
    assert SECRET not in told
    assert "***" in told
    assert run["environment"]["command"][0] == "train.py"
    assert run["environment"]["command"][-2:] == ["--epochs", "3"]


def test_paths_that_users_type_begin_at_their_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.csv").write_text("id,1100,1102,1104\na,1,2,3.5\nb,2,3,4\n")
    (tmp_path / "~$w.csv").write_text("id,1100,1102,1104\na,1,2,3.5\n")
    assert (
        len(read_spectra("~/w.csv")) == len(read_spectra("~/w*.csv")) == len(read_spectra(["~/w.csv"])) == 2
    )
    assert len(read_spectra("~$w.csv")) == 1
    with WorkspaceStore("~/ws") as store:
        X = np.random.default_rng(0).normal(size=(20, 4))
        made = record_cross_validation(store, Ridge(), X, X[:, 0], cv=2, dataset_name="d")
        store.export_chain(made.chain_id, "~/out/a.n4a")
        load_bundle("~/out/a.n4a", allow_pickle=True)
        store.import_bundle("~/out/a.n4a", allow_pickle=True)
        store.export_chain(made.chain_id, "~/out/a.n4a.py", format="n4a.py")
        store.archive("~/out/all.tar.gz")
        store.backups.create("~/out/backups")
        store.files.put("~/w.csv", "w.csv", type="dataset")
        store.files.get("w.csv", output="~/out/w.csv")
        store.files.export("*", "~/out/files")
        store.export_predictions_parquet("~/out/p.parquet")
        store.export_run(made.run_id, "~/out/run")
        store.audit.export("~/out/audit.json")
        save_figure(chain_predicted_vs_measured(store, made.chain_id), "~/out/f.png")
    with WorkspaceStore("~/other") as other:
        other.restore_archive("~/out/all.tar.gz")
    assert not (tmp_path / "~").exists()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {
        "a.n4a",
        "a.n4a.py",
        "all.tar.gz",
        "backups",
        "w.csv",
        "files",
        "p.parquet",
        "run",
        "audit.json",
        "f.png",
    }


_WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("psycopg", "obstore"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Missing())
from nirs_store.cli import main
main()
"""


@pytest.mark.parametrize(
    "words",
    [
        ["share", "{ws}", "postgresql://lab/nirs?workspace=corn", "--dry-run"],
        ["clone", "postgresql://lab/nirs?workspace=corn", "{ws}-clone"],
        ["check", "-w", "postgresql://lab/nirs?workspace=corn"],
        ["shared", "grant", "ann", "reader", "-w", "postgresql://lab/nirs?workspace=corn"],
        ["check", "-w", "{ws}"],
        ["repair", "-w", "{ws}", "--dry-run"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_without_the_extra_a_folder_works_and_an_address_says_what_to_install(
    tmp_path: Path, words: list[str]
) -> None:
    folder = str(tmp_path / "ws")
    WorkspaceStore(folder).close()
    command = [sys.executable, "-c", _WITHOUT, *(word.format(ws=folder) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if any("://" in word for word in words):
        assert done.returncode == 2, done.stderr
        assert 'pip install "nirs-store[shared]"' in done.stderr
        assert "Traceback" not in done.stderr
    else:
        assert done.returncode == 0, done.stderr
