"""Power loss: from a recorded trace, the states in which a disk may be found, each looked at.

    python tests/faults/powerloss.py --all          every state of every operation
    python tests/faults/powerloss.py gc --points 50

What a program wrote is safe once the file was synced; a name is safe once its folder was. Everything else may be
there or not. Of each moment the states are built in which all of that is missing, and those in which one
piece of it is: the content of one file, or one name made, renamed or removed. (SIGKILL leaves the page cache
as it is and shows none of this.)
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from fault_bench import CALLS, Bench, Recording, unavailable  # noqa: E402
from fault_ops import OPERATIONS  # noqa: E402

__all__ = ["State", "look_at", "states"]

TRACE = "trace=" + ",".join(f"?{name}" for name in (*CALLS, "lseek", "sendto"))
_CALL = re.compile(r"^(?P<name>\w+)\((?P<args>.*)\) += (?P<result>-?\d+)", re.DOTALL)
_UNFINISHED = re.compile(r"^(?P<start>.*) <unfinished \.\.\.>$", re.DOTALL)
_RESUMED = re.compile(r"^<\.\.\. \w+ resumed>(?P<rest>.*)$", re.DOTALL)
_FD = re.compile(r"^(?P<number>-?\w+)(?:<(?P<path>.*?)>)?$", re.DOTALL)
_HEX = re.compile(r"\\x([0-9a-f]{2})")
_Name = tuple[str, str]  # folder, name in it


@dataclass
class _Inode:
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    folder: bool = False
    _whole: bytes | None = None

    def whole(self) -> bytes:
        """What programs see; the same object until something changes."""
        if self._whole is None:
            self._whole = self.synced if self.synced == self.data else bytes(self.data)
        return self._whole

    def put(self, where: int, data: bytes) -> None:
        """Write some bytes."""
        if len(self.data) < where:
            self.resize(where)
        self.data[where : where + len(data)] = data
        self._whole = None

    def resize(self, size: int) -> None:
        """Cut, or fill up with zeros."""
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))
        self._whole = None

    def sync(self) -> None:
        """Make what programs see safe."""
        self.synced = self.whole()


@dataclass(frozen=True)
class State:
    """What could be found after a power loss."""

    moment: int
    dropped: str
    acks: list[list[Any]]
    files: dict[str, bytes | None]  # None is a folder

    def digest(self) -> int:
        """The same for the same files and the same promises; Python hashes each content once."""
        return hash(
            (json.dumps(self.acks), frozenset((path, hash(data)) for path, data in self.files.items()))
        )


class Disk:
    """Files below a folder: as programs see them, and as far as they are safe."""

    def __init__(self, root: Path, start: Path) -> None:
        self._root = str(root)
        self._inodes: dict[str, _Inode] = {}
        self._next = 0
        self.now: dict[_Name, int] = {}
        self.synced: dict[_Name, int] = {}
        self.inodes: dict[int, _Inode] = {0: _Inode(folder=True)}
        self._offsets: dict[str, int] = {}
        for path in sorted(start.rglob("*")):
            relative = path.relative_to(start).as_posix()
            data = b"" if path.is_dir() else path.read_bytes()
            inode = self._make(_Inode(bytearray(data), data, path.is_dir()))
            self.now[_split(relative)] = inode
        self.synced = dict(self.now)

    def _make(self, inode: _Inode) -> int:
        number = len(self.inodes)
        self.inodes[number] = inode
        return number

    def _inside(self, path: str) -> str | None:
        if path == self._root:
            return ""
        return path[len(self._root) + 1 :] if path.startswith(self._root + "/") else None

    def _file(self, path: str | None) -> _Inode | None:
        relative = None if path is None else self._inside(path)
        if relative is None:
            return None
        if relative == "":
            return self.inodes[0]
        number = self.now.get(_split(relative))
        return None if number is None else self.inodes[number]

    def apply(self, name: str, args: list[str], result: int, result_path: str | None) -> None:
        """One successful system call."""
        if name in ("openat", "open"):
            self._open(args[2] if name == "openat" else args[1], result, result_path)
        elif name in ("write", "pwrite64"):
            self._write(args, result, None if name == "write" else int(args[3]))
        elif name == "lseek":
            self._offsets[_fd(args[0])[0]] = result
        elif name in ("fsync", "fdatasync"):
            self._sync(_fd(args[0])[1])
        elif name == "ftruncate":
            file = self._file(_fd(args[0])[1])
            if file is not None:
                file.resize(int(args[1]))
        elif name in ("rename", "renameat", "renameat2"):
            pair = (args[0], args[1]) if name == "rename" else (args[1], args[3])
            self._rename(_text(pair[0]), _text(pair[1]))
        elif name in ("unlink", "rmdir", "unlinkat"):
            self._remove(_text(args[1] if name == "unlinkat" else args[0]))
        elif name in ("mkdir", "mkdirat"):
            self._mkdir(_text(args[1] if name == "mkdirat" else args[0]))
        elif name == "sendfile":
            self._send(args, result)
        elif name in ("link", "linkat"):
            source, target = (args[0], args[1]) if name == "link" else (args[1], args[3])
            old, new = self._inside(_text(source)), self._inside(_text(target))
            if old is not None and new is not None:
                self.now[_split(new)] = self.now[_split(old)]
        elif any(self._inside(_fd(arg)[1] or "") is not None for arg in args):
            raise AssertionError(f"{name} is not modelled")

    def _open(self, flags: str, fd: int, path: str | None) -> None:
        relative = None if path is None else self._inside(path)
        self._offsets[str(fd)] = 0
        if not relative:
            return
        key = _split(relative)
        if key not in self.now:
            if "O_CREAT" not in flags:
                return
            self.now[key] = self._make(_Inode())
        inode = self.inodes[self.now[key]]
        if "O_TRUNC" in flags:
            inode.resize(0)
        if "O_APPEND" in flags:
            self._offsets[str(fd)] = len(inode.data)

    def _write(self, args: list[str], count: int, at: int | None) -> None:
        fd, path = _fd(args[0])
        file = self._file(path)
        if file is None:
            return
        where = self._offsets.get(fd, 0) if at is None else at
        file.put(where, _bytes(args[1])[:count])
        if at is None:
            self._offsets[fd] = where + count

    def _send(self, args: list[str], count: int) -> None:
        target, source = _fd(args[0]), _fd(args[1])
        file, origin = self._file(target[1]), self._file(source[1])
        if file is None or origin is None:
            return
        # The offset comes as "[old] => [new]", or NULL for the descriptor's own.
        start = int(re.findall(r"\d+", args[2])[0]) if "[" in args[2] else self._offsets.get(source[0], 0)
        where = self._offsets.get(target[0], 0)
        file.put(where, bytes(origin.data[start : start + count]))
        self._offsets[target[0]] = where + count
        if "[" not in args[2]:
            self._offsets[source[0]] = start + count

    def _sync(self, path: str | None) -> None:
        file = self._file(path)
        if file is None or path is None:
            return
        if not file.folder:
            file.sync()
            return
        folder = self._inside(path)
        for key in {*self.now, *self.synced}:
            if key[0] == folder:
                if key in self.now:
                    self.synced[key] = self.now[key]
                else:
                    del self.synced[key]

    def _rename(self, source: str, target: str) -> None:
        old, new = self._inside(source), self._inside(target)
        if old is not None and new is not None:
            self.now[_split(new)] = self.now.pop(_split(old))

    def _remove(self, path: str) -> None:
        relative = self._inside(path)
        if relative is not None:
            self.now.pop(_split(relative), None)

    def _mkdir(self, path: str) -> None:
        relative = self._inside(path)
        if relative is not None:
            self.now[_split(relative)] = self._make(_Inode(folder=True))

    # -- what may be found -------------------------------------------------------------------------

    def without_all(self) -> dict[str, bytes | None]:
        """Nothing that was not synced."""
        return self._tree(self.synced, {number: i.synced for number, i in self.inodes.items()})

    def without_each(self) -> Iterator[tuple[str, dict[str, bytes | None]]]:
        """All but one piece that was not synced."""
        current = {number: i.whole() for number, i in self.inodes.items()}
        for key, number in sorted(self.now.items()):
            inode = self.inodes[number]
            if not inode.folder and inode.synced != current[number]:
                yield f"content of {'/'.join(key)}", self._tree(self.now, current | {number: inode.synced})
        changed = {key for key in {*self.now, *self.synced} if self.now.get(key) != self.synced.get(key)}
        while changed:
            key = min(changed)
            group = {key}
            # A rename is one change: it takes a name away and gives another.
            number = self.now.get(key, self.synced.get(key))
            group |= {k for k in changed if number in (self.now.get(k), self.synced.get(k))}
            changed -= group
            names = dict(self.now)
            for k in group:
                names.pop(k, None)
                if k in self.synced:
                    names[k] = self.synced[k]
            yield f"names {sorted('/'.join(k) for k in group)}", self._tree(names, current)

    def _tree(self, names: dict[_Name, int], content: dict[int, bytes]) -> dict[str, bytes | None]:
        folders = {""} | {_join(key) for key, number in names.items() if self.inodes[number].folder}

        def reachable(folder: str) -> bool:
            return folder == "" or (folder in folders and reachable(_split(folder)[0]))

        return {
            _join(key): None if self.inodes[number].folder else content[number]
            for key, number in names.items()
            if reachable(key[0])
        }


def _split(relative: str) -> _Name:
    path = PurePosixPath(relative)
    return ("" if str(path.parent) == "." else str(path.parent)), path.name


def _join(key: _Name) -> str:
    return f"{key[0]}/{key[1]}" if key[0] else key[1]


def _bytes(argument: str) -> bytes:
    return bytes.fromhex(argument.strip('"').replace("\\x", ""))


def _text(argument: str) -> str:
    return _HEX.sub(lambda match: chr(int(match[1], 16)), argument.strip('"'))


def _fd(argument: str) -> tuple[str, str | None]:
    match = _FD.match(argument)
    if match is None:
        return argument, None
    return match["number"], None if match["path"] is None else _text(match["path"])


def _lines(log: str) -> Iterator[str]:
    """System calls in the order in which they ended; those that another thread interrupted put together."""
    begun: dict[str, str] = {}
    for line in log.splitlines():
        pid, _, text = line.partition(" ")
        text = text.lstrip()
        unfinished, resumed = _UNFINISHED.match(text), _RESUMED.match(text)
        if unfinished is not None:
            begun[pid] = unfinished["start"]
        elif resumed is not None:
            yield begun.pop(pid) + resumed["rest"]
        else:
            yield text


def states(recording: Recording, *, every_moment: bool = True) -> Iterator[State]:
    """The states a recorded operation may leave, each once."""
    disk = Disk(recording.workspace, recording.start)
    acks: list[list[Any]] = []
    said = b""
    seen: set[int] = set()
    for moment, line in enumerate(_lines(recording.log)):
        match = _CALL.match(line)
        if match is None or int(match["result"]) < 0:
            continue
        name, args = match["name"], match["args"].split(", ")
        told = False
        if name == "sendto":
            said += _bytes(args[1])[: int(match["result"])]
            while b"\n" in said:
                text, said = said.split(b"\n", 1)
                heard = json.loads(text)
                if "ack" in heard:
                    acks.append(heard["ack"])
                    told = True
        else:
            path = re.match(r"<(.*?)>", line[match.end() :], re.DOTALL)
            disk.apply(name, args, int(match["result"]), None if path is None else _text(path[1]))
        # What is safe changes at a sync, what was promised at an answer; a name may go at any change of names.
        found: list[tuple[str, dict[str, bytes | None]]] = []
        if told or (every_moment and name in ("fsync", "fdatasync", "rename", "unlink")):
            found.append(("everything", disk.without_all()))
        if told or (every_moment and name in ("unlink", "rename")):
            found += disk.without_each()
        for dropped, files in found:
            state = State(moment, dropped, list(acks), files)
            if (digest := state.digest()) not in seen:
                seen.add(digest)
                yield state


def look_at(bench: Bench, recording: Recording, state: State, *, repeat: bool = False) -> list[str]:
    """Lay a state out on the disk, open it, and say what is wrong."""
    folder = bench.fresh()
    folder.mkdir()
    try:
        for path, data in sorted(state.files.items()):
            if data is None:
                (folder / path).mkdir(parents=True, exist_ok=True)
            else:
                (folder / path).write_bytes(data)
        acks = json.loads(json.dumps(state.acks).replace(str(recording.workspace), str(folder)))
        found = bench.audit(recording.operation, folder, recording.known, acks, repeat=repeat)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [f"{kind}: {text}" for kind, texts in found.items() for text in texts]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("operations", nargs="*", metavar="operation", help="default: all")
    parser.add_argument("--all", action="store_true", help="every state (the default without --points)")
    parser.add_argument("--points", type=int, help="so many states of each operation")
    options = parser.parse_args(arguments)
    reason = unavailable()
    if reason is not None:
        print(reason)
        return 0
    began, looked, bad = time.monotonic(), 0, 0
    with Bench() as bench:
        for operation in options.operations or OPERATIONS:
            with bench.record(operation, TRACE) as recording:
                found = list(states(recording))
                total = len(found)
                if options.points is not None and not options.all:
                    found = random.Random(operation).sample(found, min(total, options.points))
                wrong = 0
                for state in found:
                    problems = look_at(bench, recording, state)
                    if problems:
                        wrong += 1
                        print(
                            f"{operation}, moment {state.moment}, without {state.dropped}, {len(state.acks)} answers:"
                        )
                        print("    " + "\n    ".join(problems)[:1500], flush=True)
            looked, bad = looked + len(found), bad + wrong
            print(f"{operation:<18}{total:>6} states {len(found):>6} looked at {wrong:>4} broken", flush=True)
    print(f"{looked} states, {bad} broken, {time.monotonic() - began:.0f} seconds")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
