"""Run the servers of a shared workspace on this computer: PostgreSQL, S3, and proxies that delay their answers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.paths import ROOT

_WHERE = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin")
_S3 = """
import logging, sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple
logging.getLogger("werkzeug").setLevel(logging.ERROR)
WSGIRequestHandler.protocol_version = "HTTP/1.1"
WSGIRequestHandler.disable_nagle_algorithm = True
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=True)
"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "lab", "AWS_REGION": "us-east-1"}


def free_port() -> int:
    """Find an unused port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def postgresql(folder: Path) -> Iterator[int]:
    """Run a PostgreSQL server that syncs each commit; yield its port."""
    found = [path for pattern in _WHERE for path in Path("/").glob(pattern) if (path / "initdb").exists()]
    on_path = shutil.which("initdb")
    programs = max(found, default=Path(on_path).parent if on_path else None, key=str)
    if programs is None:
        raise SystemExit(
            "PostgreSQL is not installed here (initdb was not found); name a server with --server"
        )
    folder.mkdir()
    port, as_user = free_port(), []
    if os.name == "posix" and os.geteuid() == 0:  # it does not run as root
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")

    def run(program: str, *words: str) -> None:
        command = [*as_user, str(programs / program), "-D", str(folder / "data"), *words]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    run("initdb", "-U", "lab", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=on"
    run("pg_ctl", "-l", str(folder / "log"), "-w", "-o", options, "start")
    try:
        yield port
    finally:
        run("pg_ctl", "-m", "immediate", "-w", "stop")


@contextmanager
def object_store(bucket: str) -> Iterator[int]:
    """Run moto with one bucket in its own process; yield its port."""
    port = free_port()
    with _process(port, "-c", _S3, str(port)):
        address = f"http://127.0.0.1:{port}/{bucket}"
        urllib.request.urlopen(urllib.request.Request(address, method="PUT"))
        yield port


@contextmanager
def slow_line(to: int, milliseconds: float) -> Iterator[int]:
    """Run a proxy that delays each answer of a port; yield the proxy's port."""
    port = free_port()
    with _process(port, "-m", __name__, str(port), str(to), str(milliseconds)):
        yield port


@contextmanager
def _process(port: int, *words: str) -> Iterator[None]:
    """Run a program during the block; enter the block when the program listens."""
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > until:
                        raise SystemExit(f"a server did not start: {words[:2]}") from None
                    time.sleep(0.05)
            yield
        finally:
            process.kill()


class Child:
    """A process that records on request; to use several at once, call `send` on each, then `answer`."""

    def __init__(self, *command: str | Path, **environment: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the process)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )  # fmt: skip

    def send(self, *words: object) -> None:
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)

    def answer(self) -> list[float]:
        """Return the milliseconds of each pipeline; the first answer only reports that it is ready."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise SystemExit(f"a recording process ended: {self._errors.read()[-2000:]}")
        found: list[float] = json.loads(line)
        return found

    def ask(self, *words: object) -> list[float]:
        self.send(*words)
        return self.answer()

    def close(self) -> None:
        self._process.communicate()
        self._errors.close()


def obey(record: Callable[[list[int]], object]) -> None:
    """Serve the parent: each line is `times N ...` or `seconds S ...`, followed by what to record each time."""
    print("[]", flush=True)
    for line in sys.stdin:
        what, amount, *rest = line.split()
        numbers = [int(word) for word in rest]
        taken: list[float] = []
        end = time.perf_counter() + float(amount)
        while time.perf_counter() < end if what == "seconds" else len(taken) < int(amount):
            begin = time.perf_counter()
            record(numbers)
            taken.append((time.perf_counter() - begin) * 1000)
        print(json.dumps(taken), flush=True)


async def _serve(port: int, to: int, seconds: float) -> None:
    async def one_way(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: float) -> None:
        # What arrives while something is held back is not held back for longer: a line, not a queue.
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    sink.close()
                    return
                sink.write(data)

        sending = asyncio.create_task(send())
        while True:
            try:
                data = await source.read(1 << 18)
            except OSError:
                data = b""
            waiting.put_nowait((time.monotonic() + delay, data))
            if not data:
                break
        await sending

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", to)
        await asyncio.gather(one_way(reader, forth, 0.0), one_way(back, writer, seconds))

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
