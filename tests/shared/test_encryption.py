"""Encryption: servers that cannot prove who they are are refused, and weaker connections are warned of."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import subprocess
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from nirs_store.blobs.bucket import Bucket, parse_place
from nirs_store.errors import SharedStoreUnreachable
from nirs_store.shared import pg
from nirs_store.shared.address import parse
from nirs_store.shared.pg import Server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities (ca.crt, other.crt), and a server's certificate of the first for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(words: str) -> None:
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)

    new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for name in ("ca", "other"):
        openssl(f"req -x509 {new} -days 2 -keyout {name}.key -out {name}.crt -subj /CN={name}")
    openssl(f"req {new} -keyout lab.key -out lab.csr -subj /CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    openssl(
        "x509 -req -in lab.csr -CA ca.crt -CAkey ca.key -set_serial 1 -days 2 -out lab.crt -extfile names"
    )
    return folder


@pytest.fixture
def encrypted(server: Any, database: str, certificates: Path) -> Iterator[str]:
    """The address of a database, as localhost, while the server takes TLS."""
    for name in ("lab.crt", "lab.key"):
        target = server.folder / name
        shutil.copy(certificates / name, target)
        target.chmod(0o600)
        if server.user:
            shutil.chown(target, server.user)

    def turn(state: str) -> None:
        with psycopg.connect(database, autocommit=True) as con:
            con.execute(f"ALTER SYSTEM SET ssl = {state}")
            con.execute(f"ALTER SYSTEM SET ssl_cert_file = '{server.folder}/lab.crt'")
            con.execute(f"ALTER SYSTEM SET ssl_key_file = '{server.folder}/lab.key'")
            con.execute("SELECT pg_reload_conf()")
        # The postmaster reads its settings in its own time.
        wanted = "require" if state == "on" else "disable"
        for _ in range(1000):
            try:
                psycopg.connect(f"{database}?sslmode={wanted}").close()
            except psycopg.OperationalError:
                continue
            return
        raise AssertionError("the server does not take the setting")

    turn("on")
    yield database.replace("127.0.0.1", "localhost")
    turn("off")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pg, "_told", set())


@pytest.mark.usefixtures("told")
def test_who_cannot_prove_to_be_the_server_is_refused_at_once(
    encrypted: str, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every host counts as far away.
    monkeypatch.setattr(pg, "is_loopback", lambda host: False)
    other = encrypted.replace("localhost", "127.0.0.1")

    def connect(place: str, query: str) -> list[str]:
        server = Server(parse(f"{place}?workspace=corn&{query}"))
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                server.run(lambda con: con.execute("SELECT 1"), patience=3600)
        finally:
            server.close()
        return [str(each.message) for each in said]

    full = f"sslmode=verify-full&sslrootcert={certificates}"
    assert connect(encrypted, f"{full}/ca.crt") == []
    for place, file, words in (
        (encrypted, "other.crt", "certificate verify failed"),
        (other, "ca.crt", "does not match host name"),
        (encrypted, "missing.crt", "does not exist"),
    ):
        with pytest.raises(SharedStoreUnreachable, match=words) as caught:
            connect(place, f"{full}/{file}")
        assert "Correct the address" in str(caught.value)
    (unproved,) = connect(encrypted, "sslmode=require")
    assert "nothing proves" in unproved
    assert connect(encrypted, "sslmode=require") == []  # said once
    (plain,) = connect(other, "sslmode=disable")
    assert "is not encrypted" in plain


def test_an_encrypted_connection_that_is_cut_is_made_again(encrypted: str, certificates: Path) -> None:
    server = Server(parse(f"{encrypted}?workspace=corn&sslmode=require"))
    try:
        handle = server.run(lambda con: con.fileno())
        with socket.socket(fileno=os.dup(handle)) as wire:
            wire.shutdown(socket.SHUT_RDWR)
        assert server.run(lambda con: con.execute("SELECT 1").fetchone()) == (1,)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("words", "passing"),
    [
        ("consuming input failed: SSL error: unexpected eof while reading", True),
        ("SSL SYSCALL error: Connection reset by peer", True),
        ("SSL connection has been closed unexpectedly", True),
        ("connection failed: SSL error: certificate verify failed", False),
        ("SSL error: tlsv1 alert unknown ca", False),
        ("server does not support SSL, but SSL was required", False),
    ],
)
def test_what_is_worth_another_try(words: str, passing: bool) -> None:
    assert pg._may_pass(psycopg.OperationalError(words)) is passing


def test_an_object_store_with_a_certificate_of_strangers_is_refused_at_once(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "lab.crt", certificates / "lab.key")
    web = app.DomainDispatcherApplication(app.create_backend_app)
    running = make_server("127.0.0.1", 0, web, threaded=True, ssl_context=context)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    for name, value in (("ACCESS_KEY_ID", "lab"), ("SECRET_ACCESS_KEY", "lab"), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    place = parse_place(f"s3://lab/corn?endpoint=https://localhost:{running.server_address[1]}")
    try:
        for file in ("other.crt", None):
            if file is not None:
                monkeypatch.setenv("SSL_CERT_FILE", str(certificates / file))
            with pytest.raises(SharedStoreUnreachable, match="certificate is not trusted"):
                Bucket(place, patience=3600).head("x")
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.crt"))
        # Trusted: the answer is one of the object store.
        with pytest.raises(SharedStoreUnreachable, match="no such bucket"):
            Bucket(place, patience=3600).list("x")
    finally:
        running.shutdown()
