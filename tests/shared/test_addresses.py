"""Addresses of shared workspaces: read right or refused in words, and no secret of them is ever shown or kept."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nirs_store.addresses import refuse_address, without_secret_words
from nirs_store.cli._app import app
from nirs_store.errors import InvalidInput
from nirs_store.shared import moving
from nirs_store.shared.address import parse
from nirs_store.store import WorkspaceStore

SECRET = "hunter2"


def _messages(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql:///nirs?host=/var/run/pg&workspace=corn", {"host": "/var/run/pg", "dbname": "nirs"}),
        ("postgresql://%2Fvar%2Frun/nirs?workspace=corn", {"host": "/var/run", "dbname": "nirs"}),
        ("postgres://?service=lab&workspace=corn", {"service": "lab"}),
        ("postgresql://ann@[::1]:5433/n?workspace=corn", {"host": "::1", "port": "5433", "user": "ann"}),
        ("POSTGRESQL://a,b:5433/n?workspace=my%20corn", {"host": "a,b", "port": ",5433"}),
        ("postgresql://h/caf%C3%A9?workspace=my+corn", {"host": "h", "dbname": "café"}),
        ("postgresql://h/n?workspace=Ma%C3%AFs Süd 玉米", {"host": "h"}),
        ("postgresql://h/n?workspace=c&sslrootcert=/a+b/c.crt", {"host": "h", "sslrootcert": "/a+b/c.crt"}),
    ],
)
def test_an_address_is_read_and_written_again(text: str, expected: dict[str, str]) -> None:
    address = parse(text)
    found = address.libpq()
    assert {name: found[name] for name in expected} == expected
    again = parse(str(address))
    assert (again.workspace, str(again)) == (address.workspace, str(address))
    places = ("host", "port", "user", "dbname", "service")
    assert [again.libpq().get(name) for name in places] == [found.get(name) for name in places]


def test_a_name_is_the_same_however_a_keyboard_sends_its_letters() -> None:
    assert parse("postgresql://h/n?workspace=e\u0301t\u00e9").workspace == "\u00e9t\u00e9"


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("postgresql://ann:hunter2@h/n?workspace=corn", "hunter2"),
        ("postgresql://ann:hunter2%2F%40%23@h/n?workspace=corn", "hunter2/@#"),
        ("postgresql://ann:hunter2@x@h/n?workspace=corn", "hunter2@x"),
        ("postgresql://ann@h/n?workspace=corn&password=hunter2+b", "hunter2+b"),
        ("postgresql://ann@h/n?workspace=corn&sslpassword=hunter2", None),
        ("postgresql://ann@h/n?workspace=corn&oauth_client_secret=hunter2", None),
    ],
)
def test_secrets_reach_libpq_and_nothing_else(text: str, password: str | None) -> None:
    if "oauth" in text and not _libpq_knows("oauth_client_secret"):
        pytest.skip("this libpq has no such option")
    address = parse(text)
    assert address.libpq().get("password") == password
    assert any(SECRET in value for value in address.libpq().values())
    copy = pickle.loads(pickle.dumps(address))
    assert copy == address
    for shown in (repr(address), str(address), repr(copy.libpq()), str(pickle.dumps(address))):
        assert SECRET not in shown


def _libpq_knows(name: str) -> bool:
    from psycopg import pq

    return name in {option.keyword.decode() for option in pq.Conninfo.get_defaults()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("postgresql://ann:hunter2/x@h/n?workspace=corn", "%2F"),
        ("postgresql://ann:hunter2#x@h/n?workspace=corn", "%23"),
        ("postgresql://ann:x?hunter2@h/n?workspace=corn", "name=value"),
        ("postgresql://ann:hunter2%zz@h/n?workspace=corn", "%25"),
        ("postgresql://ann:hunter2%ff@h/n?workspace=corn", "not UTF-8"),
        ("postgresql://ann:hunter2@[::1/n?workspace=corn", "name of a host"),
        ("postgresql://ann:hunter2@[::1]x:1/n?workspace=corn", "name of a host"),
        ("postgresql://ann:hunter2@h:99999/n?workspace=corn", "port from 1"),
        ("postgresql://ann:hunter2@h:1\n/n?workspace=corn", "name of a host"),
        ("postgresql://ann:hunter2@h/n\0?workspace=corn", "control characters"),
        ("postgresql://ann:hunter2@h/n?workspace=corn&workspace=wheat", "is given twice"),
        ("postgresql://ann:hunter2@h/n?workspace=corn&user=bob", "is given twice"),
        ("postgresql://h/n?workspace=corn&password=hunter2&sslmoode=require", "Did you mean 'sslmode'"),
        ("postgresql://ann:hunter2@h/n", "name of a workspace"),
        ("postgresql://ann:hunter2@h/n?workspace=..", "name of a workspace"),
        ("postgresql://ann:hunter2@h/n?workspace=corn (2)", "name of a workspace"),
        ("postgresql://ann:hunter2@h/n?workspace=corn&patience=soon", "expected seconds"),
        ("postgresql://ann:hunter2@h/n?workspace=corn&pooler=transaction", "loses the locks"),
        ("postgresql:ann:hunter2@h/n?workspace=corn", "begins with postgresql://"),
        ("postgresql:/ann:hunter2@h/n?workspace=corn", "begins with postgresql://"),
        (Path("postgresql://ann:hunter2@h/n?workspace=corn"), "begins with postgresql://"),
        (b"postgresql://ann:hunter2@h/n?workspace=corn", "found bytes"),
        ("host=lab dbname=nirs password=hunter2", "parameters of a connection"),
        ("mysql://ann:hunter2@h/n", "does not open"),
        (" s3 ://bucket", "does not open"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused_without_its_password(
    text: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput) as caught:
        WorkspaceStore(text, blobs=tmp_path / "blobs")
    assert words in str(caught.value)
    assert SECRET not in "".join(_messages(caught.value))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "blobs", ["s3://KEY:hunter2@bucket/x", "s3://bucket/x?token=hunter2", "az://lab/x?sig=hunter2", "blobs"]
)
def test_credentials_among_the_blobs_are_refused_before_the_server_is_asked(
    blobs: str, database: str
) -> None:
    import psycopg

    with pytest.raises(InvalidInput, match="blobs") as caught:
        WorkspaceStore(f"{database}?workspace=corn", blobs=blobs)
    assert SECRET not in "".join(_messages(caught.value))
    with psycopg.connect(database) as con:
        row = con.execute("SELECT to_regclass('nirs_store.workspaces')").fetchone()
    assert row == (None,)


@pytest.mark.parametrize(
    "folder", ["s3://bucket/x", "file:///x", "mysql://h/d", "postgresql://h/d?workspace=c"]
)
def test_folders_of_share_and_clone_are_no_addresses(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = parse("postgresql://127.0.0.1:1/n?workspace=corn&patience=0", blobs="/lab")
    for move in (lambda: moving.share(Path(folder), place), lambda: moving.clone(place, Path(folder))):
        with pytest.raises(InvalidInput, match="expected a path"):
            move()
    assert os.listdir(tmp_path) == []


def test_the_command_line_takes_an_address_for_a_new_workspace_and_hides_passwords(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIRS_STORE_REPLICAS", str(tmp_path / "replicas"))
    run = CliRunner().invoke
    place = f"{database}?workspace=corn"
    assert "blobs" in run(app, ["init", place]).output
    made = run(app, ["init", place, "--blobs", str(tmp_path / "blobs")])
    assert made.exit_code == 0, made.output
    assert run(app, ["runs", "-w", place]).exit_code == 0
    odd = run(app, ["ui", "postgresql://ann:hunter2@h/n"])
    assert odd.exit_code == 2
    assert SECRET not in odd.output


# -- What is an address, and what is a secret.


PATHS = (
    "C:\\labs\\ws",
    "C:/labs/ws",
    "c:ws",
    "./s3:/ws",
    "data:2026",
    "a b/c",
    "/home/ann/s3:/ws",
    "~/ws",
    "ws",
    ".",
)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_stays_a_path(path: str) -> None:
    refuse_address(path, "path")
    # Of the front dot a Path keeps nothing.
    refuse_address(Path(path).absolute(), "path")


@pytest.mark.parametrize(
    "words",
    [["--epochs", "3"], ["--key-file", "id.pub"], ["monkey=3"], ["--n-tokens", "5"], ["a@b.c"], ["--seed=7"]],
)
def test_what_is_no_secret_is_recorded(words: list[str]) -> None:
    assert without_secret_words(words) == words
