"""A PostgreSQL server for all tests of a session, and computers that share a workspace in it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import pytest

from nirs_store.store import WorkspaceStore

_WHERE = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")


def programs() -> Path | None:
    """Return the folder of the newest PostgreSQL's programs."""
    found = [path for pattern in _WHERE for path in Path("/").glob(pattern[1:]) if (path / "initdb").exists()]
    on_path = shutil.which("initdb")
    return max(found, default=Path(on_path).parent if on_path else None, key=str)


class PostgreSQL:
    """A server in its own folder, which can be killed and started again."""

    def __init__(self, programs: Path, folder: Path, *, durable: bool = False) -> None:
        self.programs, self.folder, self.durable = programs, folder, durable
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # PostgreSQL refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(folder, self.user)
        self.run(
            "initdb",
            "-D",
            f"{folder}/data",
            "-U",
            "lab",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        )
        self.start()

    def run(self, program: str, *words: str) -> None:
        as_user = ["runuser", "-u", self.user, "--"] if self.user else []
        done = subprocess.run(
            [*as_user, str(self.programs / program), *words], cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        # The tests kill the server, never the whole computer, so fsync is not needed.
        options += (
            f" -c fsync={'on' if self.durable else 'off'} -c shared_buffers=16MB -c log_min_messages=fatal"
        )
        self.run(
            "pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-w", "-o", options, "start"
        )

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", mode, "-w", "stop")

    def url(self, database: str) -> str:
        return f"postgresql://lab@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        import psycopg

        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as con:
            con.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)


@pytest.fixture(scope="session")
def server() -> Iterator[PostgreSQL]:
    """Start a server."""
    pytest.importorskip("psycopg", reason="the extra nirs-store[shared] is not installed")
    found = programs()
    if found is None:
        pytest.skip("no PostgreSQL server is installed here (initdb was not found)")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    running = PostgreSQL(found, folder)
    try:
        yield running
    finally:
        with suppress(AssertionError):
            running.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(server: PostgreSQL) -> str:
    """Return the address of an empty database."""
    return server.new_database()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Run an S3 server in a thread and return its endpoint."""
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of an empty bucket; set credentials in the environment."""
    import urllib.request

    for name, value in (("ACCESS_KEY_ID", "lab"), ("SECRET_ACCESS_KEY", "lab"), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    name = f"b{uuid.uuid4().hex[:12]}"
    urllib.request.urlopen(urllib.request.Request(f"{s3}/{name}", method="PUT"))
    return f"s3://{name}/corn"


Machine = Callable[..., WorkspaceStore]


@pytest.fixture
def machine(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Open the workspace `corn` as on another computer, which has its own replica."""
    tmp_path = tmp_path_factory.mktemp("computers")
    opened: list[WorkspaceStore] = []

    def open_as(name: str, query: str = "", **options: object) -> WorkspaceStore:
        given = {"workspace": "corn", "replica": str(tmp_path / name), "patience": "20"} | dict(
            parse_qsl(query)
        )
        place = f"{database}?{urlencode(given)}"
        settings: dict[str, object] = {"blobs": (tmp_path / "blobs").as_uri(), **options}
        opened.append(WorkspaceStore(place, **settings))  # type: ignore[arg-type]
        return opened[-1]

    yield open_as
    for store in opened:
        store.close()
