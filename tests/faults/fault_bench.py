"""Running one operation under strace, with or without a fault, and auditing what is left."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fault_ops import OPERATIONS
from fault_zygote import Line

__all__ = ["CALLS", "Bench", "Call", "Fault", "Outcome", "Recording", "unavailable"]

# What can change a file system; a name unknown to the machine is passed over.
CALLS = (
    *("openat", "open", "creat", "write", "writev", "pwrite64", "pwritev", "pwritev2"),
    *("fsync", "fdatasync", "sync_file_range", "ftruncate", "truncate", "fallocate"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
    *("link", "linkat", "symlink", "sendfile", "copy_file_range"),
)
_TRACE = "trace=" + ",".join(f"?{name}" for name in CALLS)
# On a full or broken disk these fail from some moment on. Opening is left out: it would also fail for
# files that lie elsewhere.
LASTING = tuple(
    name for name in CALLS if name not in ("openat", "open", "creat", "unlink", "unlinkat", "rmdir")
)
_LINE = re.compile(r"^(?:\d+ +)?(?P<name>\w+)\((?P<rest>.*)$")
# Seconds. A child that gets no processor for minutes has done nothing wrong.
_PATIENCE = 600.0
_TRIES = 5


@functools.cache
def unavailable() -> str | None:
    """Why no fault can be injected on this machine; None when it can."""
    if sys.platform != "linux":
        return "fault injection needs strace, which is there on Linux only"
    if shutil.which("strace") is None:
        return "fault injection needs strace, which is not installed"
    with tempfile.TemporaryDirectory() as folder:
        probe = subprocess.run(
            [
                "strace",
                "-f",
                "-o",
                f"{folder}/log",
                "-e",
                "inject=mkdir:error=ENOSPC:when=1",
                "mkdir",
                f"{folder}/x",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        log = Path(folder, "log")
        if probe.returncode == 0 or not log.exists() or "INJECTED" not in log.read_text():
            return f"strace cannot trace here: {probe.stderr.strip()[:200]}"
    return None


@dataclass(frozen=True)
class Call:
    """One system call of an operation: number `nth` of its name in its thread."""

    name: str
    nth: int
    text: str
    # How many calls of each name came before it.
    before: dict[str, int] = field(compare=False, hash=False)


@dataclass(frozen=True)
class Fault:
    """What happens at which call of which operation."""

    operation: str
    thread: str
    call: Call
    # KILL, or the name of an error, followed by + when it lasts.
    what: str

    def __str__(self) -> str:
        where = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{20,}|[0-9a-f]{16,}", "*", self.call.text)[:90]
        return f"{self.operation}/{self.thread} {self.what} at {self.call.name} {self.call.nth}: {where}"

    def injections(self) -> list[str]:
        """Arguments for strace."""
        name, nth = self.call.name, self.call.nth
        if self.what == "KILL":
            rules = [f"{name}:signal=KILL:when={nth}"]
        elif not self.what.endswith("+"):
            rules = [f"{name}:error={self.what}:when={nth}"]
        else:
            code = self.what[:-1]
            rules = [f"?{other}:error={code}:when={self.call.before.get(other, 0) + 1}+" for other in LASTING]
        return [arg for rule in rules for arg in ("-e", f"inject={rule}")]


@dataclass
class Outcome:
    """How it went."""

    fault: Fault | None
    fired: bool
    ended: str  # killed, ok, error, untyped, crashed, hung
    errors: list[dict[str, Any]]
    lost: list[str]
    half: list[str]
    repeat: list[str]

    @property
    def silent(self) -> bool:
        """Whether a fault cost something although the operation said nothing."""
        return bool(self.lost) and self.ended == "ok"

    @property
    def stuck(self) -> bool:
        """Whether the store failed again although the disk was well again."""
        passed = self.fault is not None and self.fault.what in ("EIO", "ENOSPC")
        return passed and self.ended == "error" and len(self.errors) > 1

    @property
    def problems(self) -> list[str]:
        """Everything that breaks a promise, in words."""
        found = [f"{kind}: {text}" for kind in ("lost", "half", "repeat") for text in getattr(self, kind)]
        if self.ended in ("untyped", "crashed", "hung"):
            found.append(f"{self.ended}: {[e['text'] for e in self.errors if not e['typed']]}")
        if self.stuck:
            found.append(f"stuck: {[e['text'] for e in self.errors]}")
        return found


@dataclass(frozen=True)
class Recording:
    """The trace of an operation, with the workspace that it began on."""

    operation: str
    start: Path
    workspace: Path
    log: str
    known: dict[str, Any]


class Bench:
    """A zygote, a scratch folder and the prepared workspaces."""

    def __init__(self) -> None:
        shared = Path("/dev/shm")
        place = shared if shared.is_dir() else None
        self._folder = Path(tempfile.mkdtemp(prefix="nirs-faults-", dir=place))
        self._log = (self._folder / "zygote.log").open("w")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._folder / "socket"))
        self._listener.listen()
        self._listener.settimeout(_PATIENCE)
        self._zygote = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fault_zygote.py"))],
            # A measurement of coverage makes system calls of its own, and dies of faults in them.
            env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._zygote.stdout is not None
        if self._zygote.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the zygote did not start: {(self._folder / 'zygote.log').read_text()}")
        self._numbers = itertools.count()
        self._prepared: dict[str, tuple[Path, dict[str, Any]]] = {}

    def close(self) -> None:
        """End the zygote and remove everything."""
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.close()
        self._zygote.wait(_PATIENCE)
        self._zygote.stdout.close()
        self._listener.close()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def calls(self, operation: str, thread: str) -> list[Call]:
        """System calls by which a thread changes files of the workspace, in order."""
        with _Copy(self, operation) as copy:
            log = self._operate(copy, operation, thread, ["-y", "-e", _TRACE])[0]
            return _parse(log, str(copy.workspace))

    def outcome(self, fault: Fault, *, again: bool = True) -> Outcome:
        """Run an operation with a fault, then look, then run it again without.

        After an error that passes, the operation was called again by the process that met it.
        """
        for _ in range(_TRIES):
            outcome = self._outcome(fault, again)
            if outcome is not None:
                return outcome
        raise RuntimeError(f"the fault never met the workspace: {fault}")

    def _outcome(self, fault: Fault, again: bool) -> Outcome | None:
        """None when the call with that number was another one this time, outside the workspace."""
        injections = fault.injections()
        repeat = again and (fault.what == "KILL" or fault.what.endswith("+"))
        with _Copy(self, fault.operation) as copy:
            log, acks, errors, hung = self._operate(
                copy, fault.operation, fault.thread, ["-e", _TRACE, *injections]
            )
            killed = "+++ killed by SIGKILL" in log and fault.what == "KILL"
            fired = killed or "(INJECTED)" in log
            if _missed(log, fault, str(copy.workspace)):
                return None
            if hung:
                ended = "hung"
            elif killed:
                ended = "killed"
            elif errors is None:
                ended, errors = "crashed", [{"type": "", "typed": False, "text": log[-2000:]}]
            elif not errors:
                ended = "ok"
            else:
                ended = "error" if all(e["typed"] for e in errors) else "untyped"
            found = self.audit(fault.operation, copy.workspace, copy.known, acks, repeat=repeat)
            return Outcome(fault, fired, ended, errors or [], found["lost"], found["half"], found["repeat"])

    @contextlib.contextmanager
    def record(self, operation: str, trace: str, *, after: Fault | None = None) -> Iterator[Recording]:
        """Run an operation without a fault and give the trace of all its threads, with what was written.

        With `after`, a process does the same before and meets that fault; the trace has both.
        """
        source, known = self.prepared(OPERATIONS[operation].base)
        options = ["-f", "-y", "-xx", "-s", "100000000", "-e", trace]
        with _Copy(self, operation) as copy:
            before = ""
            if after is not None:
                before = self._operate(copy, operation, after.thread, options + after.injections())[0]
            log, _, errors, _ = self._operate(copy, operation, "main", options)
            if errors != []:
                raise RuntimeError(f"{operation} did not come through: {errors}")
            yield Recording(operation, source, copy.workspace, before + log, known)

    def audit(
        self, operation: str, workspace: Path, known: dict[str, Any], acks: list[Any], *, repeat: bool
    ) -> dict[str, list[str]]:
        """What is wrong with a workspace, as a fresh process sees it."""
        return self._ask(
            "audit",
            operation=operation,
            workspace=str(workspace),
            facts=known["facts"],
            before=known["before"],
            acks=acks,
            repeat=repeat,
        )

    # -- inside ------------------------------------------------------------------------------------

    def prepared(self, base: str) -> tuple[Path, dict[str, Any]]:
        """A workspace to copy, made once."""
        if base not in self._prepared:
            folder = self._folder / f"base-{base}"
            self._prepared[base] = folder, self._ask("prepare", base=base, workspace=str(folder))
        return self._prepared[base]

    def fresh(self) -> Path:
        """A folder that nothing used before."""
        return self._folder / f"w{next(self._numbers)}"

    def _start(self, kind: str, **request: Any) -> tuple[Line, socket.socket]:
        assert self._zygote.stdin is not None
        text = json.dumps({"kind": kind, "socket": str(self._folder / "socket"), **request})
        self._zygote.stdin.write(text + "\n")
        self._zygote.stdin.flush()
        connection, _ = self._listener.accept()
        connection.settimeout(_PATIENCE)
        return Line(connection), connection

    def _ask(self, kind: str, **request: Any) -> dict[str, Any]:
        line, _ = self._start(kind, **request)
        answer = line.receive()
        line.close()
        if answer is None:
            raise RuntimeError(f"{kind} died: {(self._folder / 'zygote.log').read_text()[-3000:]}")
        return dict(answer)

    def _operate(
        self, copy: _Copy, operation: str, thread: str, options: list[str]
    ) -> tuple[str, list[Any], list[dict[str, Any]] | None, bool]:
        line, _ = self._start(
            "operate",
            operation=operation,
            thread=thread,
            workspace=str(copy.workspace),
            facts=copy.known["facts"],
        )
        hello = line.receive()
        if hello is None:
            raise RuntimeError(f"{operation} died: {(self._folder / 'zygote.log').read_text()[-3000:]}")
        output = copy.workspace.with_name(copy.workspace.name + ".trace")
        tracer = subprocess.Popen(
            ["strace", "-p", str(hello["tid"]), "-o", str(output), "-s", "0", *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        # Both wait for each other at each system call: on two processors that takes three times as long.
        os.sched_setaffinity(tracer.pid, {hello["cpu"]})
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        if "attached" not in said:
            raise RuntimeError(f"strace could not attach: {said}{tracer.stderr.read()}")
        line.send("go")
        acks: list[Any] = []
        errors: list[dict[str, Any]] | None = None
        hung = False
        try:
            while (heard := line.receive()) is not None:
                if "ack" in heard:
                    acks.append(heard["ack"])
                else:
                    errors = heard["end"]
        except TimeoutError:
            hung = True
            _kill(int(hello["pid"]))
        line.close()
        tracer.stderr.read()
        tracer.wait(_PATIENCE)
        tracer.stderr.close()
        log = output.read_text(errors="replace")
        output.unlink()
        return log, acks, errors, hung


class _Copy:
    """A copy of a prepared workspace that goes away."""

    def __init__(self, bench: Bench, operation: str) -> None:
        source, self.known = bench.prepared(OPERATIONS[operation].base)
        self.workspace = bench.fresh()
        shutil.copytree(source, self.workspace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.workspace, ignore_errors=True)


def _parse(log: str, below: str) -> list[Call]:
    counts: dict[str, int] = {}
    calls = []
    for text in log.splitlines():
        match = _LINE.match(text)
        if match is None:
            continue
        name, rest = match["name"], match["rest"]
        before = dict(counts)
        counts[name] = counts.get(name, 0) + 1
        changes = name not in ("openat", "open") or "O_CREAT" in rest or "O_TRUNC" in rest
        if below in rest and changes:
            calls.append(Call(name, counts[name], rest.replace(below, ""), before))
    return calls


def _missed(log: str, fault: Fault, below: str) -> bool:
    """Whether an open that was to fail was one of a file elsewhere: how often one waits is not always the same."""
    if fault.call.name not in ("openat", "open") or fault.what not in ("EIO", "ENOSPC"):
        return False
    return any("(INJECTED)" in line and below not in line for line in log.splitlines())


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
