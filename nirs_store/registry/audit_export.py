"""Writing the audit trail to files: JSON, CSV, or JSON lines a month."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.catalog import audit_queries
from nirs_store.catalog.access import Connection
from nirs_store.catalog.audit_rows import Head, head_of
from nirs_store.catalog.engine import Engine
from nirs_store.errors import InvalidInput, UnknownFormat
from nirs_store.ids import utcnow

__all__ = ["FORMATS", "export_entries"]

FORMATS = ("json", "jsonl", "csv")


def export_entries(
    engine: Engine, path: Path, format: str, since: Any, until: Any
) -> tuple[list[Path], Head]:
    """Write the entries; returns the files and the head of the trail at that moment."""
    if format not in FORMATS:
        near = difflib.get_close_matches(str(format), FORMATS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownFormat(
            f"format: expected one of {', '.join(FORMATS)}, found {format!r}.{hint} Nothing was written."
        )
    path = path.expanduser()
    if format != "jsonl" and path.is_dir():
        raise InvalidInput(f"{path} is a folder; name the file to write. Nothing was written.")
    if format == "jsonl" and path.is_file():
        raise InvalidInput(
            f"{path} is a file; name a folder, which gets a file a month. Nothing was written."
        )

    def ask(con: Connection) -> tuple[list[Path], Head]:
        head = head_of(con)
        rows = (
            _plain(row)
            for row in audit_queries.audit_rows(
                con,
                operation=None,
                success=None,
                since=since,
                until=until,
                object_kind=None,
                object_id=None,
                user=None,
                by_month=format == "jsonl",
            )
        )
        return _write(path, format, rows, head), head

    return engine.query(ask, committed=True)


def _write(path: Path, format: str, rows: Iterator[dict[str, Any]], head: Head) -> list[Path]:
    if format == "jsonl":
        ensure_dir(path)
        written = []
        for month, entries in groupby(rows, key=lambda row: row["made_at"][:7]):
            target = path / f"audit_{month.replace('-', '')}.jsonl"
            write_file(target, (f"{_json(entry)}\n".encode() for entry in entries))
            written.append(target)
        return written
    ensure_dir(path.parent)
    write_file(path, _csv(rows) if format == "csv" else _document(rows, head))
    return [path]


def _document(rows: Iterable[dict[str, Any]], head: Head) -> Iterator[bytes]:
    top = {"exported_at": utcnow().isoformat(), "head": head._asdict()}
    yield f'{_json(top)[:-1]}, "entries": ['.encode()
    for place, row in enumerate(rows):
        yield f"{',' if place else ''}\n{_json(row)}".encode()
    yield b"\n]}\n"


def _csv(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.DictWriter(text, audit_queries.EXPORTED, lineterminator="\n")
    writer.writeheader()
    yield text.getvalue().encode()
    for row in rows:
        text.seek(0)
        text.truncate()
        writer.writerow({**row, "details": None if row["details"] is None else _json(row["details"])})
        yield text.getvalue().encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    at: datetime = row["made_at"]
    details = row["details"]
    return {
        **row,
        "made_at": at.replace(tzinfo=UTC).isoformat(timespec="microseconds"),
        "details": None if details is None else json.loads(details),
    }
