"""Read and write rows: of one table as dicts, of strangers as Arrow, and of a direct change as images."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, cast

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from nirs_store.db.schema import SCHEMA_VERSION, TABLES, arrow_schema, column_names
from nirs_store.db.sql import StagedRows, execute, incoming
from nirs_store.errors import InvalidInput
from nirs_store.ids import utcnow
from nirs_store.values import as_float, as_int, as_long, as_text, from_json, to_json

# -- Reading Arrow rows that a stranger may have made: never more memory than their bytes promise.


# Places of the fields in the tables of Arrow's format, which no later version may move.
_MESSAGE_VERSION, _MESSAGE_HEADER, _BATCH_BUFFERS, _BATCH_COMPRESSION = 0, 2, 2, 3
# In messages before it, Arrow believes notes of the writer that the buffers are compressed.
_V5 = 4


class Unfolds(ValueError):
    """A table that is larger than its bytes, or that this library would not have written."""


def read_rows(
    source: pa.NativeFile | pa.Buffer, check: Callable[[pa.Schema], None], *, most: int, packed: bool = False
) -> pa.Table:
    """Read a stream of Arrow rows, from its schema on, without copying it; they may take `most` bytes.

    `check` raises if the schema is not the right one. With `packed`, buffers may be compressed with zstd or LZ4.
    """
    # One message after the other, and not as the table of contents of a file says: that may name one a thousand times.
    messages = pa.ipc.MessageReader.open_stream(source)
    first = next(iter(messages), None)
    if first is None:
        raise Unfolds("it has no schema")
    found = pa.ipc.read_schema(first)
    check(found)
    batches, size = [], 0
    for message in messages:
        if message.type != "record batch":
            raise Unfolds("it has dictionaries, or other messages than rows")
        unfolded = _unfolded(message)
        if unfolded is not None:
            if not packed:
                raise Unfolds("it is compressed a second time inside")
            size += unfolded
            if size > most:
                raise Unfolds(f"it unfolds to more than {most:,} bytes")
        batches.append(pa.ipc.read_record_batch(message, found))
    table = pa.Table.from_batches(batches, found)
    table.validate(full=True)
    if table.nbytes > most:
        raise Unfolds(
            f"its columns take {table.nbytes:,} bytes of {most:,}: they share what each should have"
        )
    return table


def same_kind(found: pa.DataType, expected: pa.DataType) -> bool:
    """Tell whether two types are the same but for how long a text or a value may be."""
    kinds = (pa.types.is_string, pa.types.is_large_string), (pa.types.is_binary, pa.types.is_large_binary)
    return found == expected or any(
        any(kind(found) for kind in pair) and any(kind(expected) for kind in pair) for pair in kinds
    )


def _unfolded(message: pa.Message) -> int | None:
    """Add up what the compressed buffers of a message say that they unfold to; None if it is not compressed.

    Arrow allots what a buffer says, and refuses one that unfolds to more or less.
    """
    data, body = memoryview(message.metadata), memoryview(message.body)
    try:
        root = struct.unpack_from("<I", data)[0]
        version = _field(data, root, _MESSAGE_VERSION)
        if not version or struct.unpack_from("<h", data, version)[0] != _V5:
            raise Unfolds("it has another version of Arrow's format")
        header = _field(data, root, _MESSAGE_HEADER)
        batch = header + struct.unpack_from("<I", data, header)[0]
        if not _field(data, batch, _BATCH_COMPRESSION):
            return None
        listed = _field(data, batch, _BATCH_BUFFERS)
        listed += struct.unpack_from("<I", data, listed)[0]
        (count,) = struct.unpack_from("<I", data, listed)
        total = 0
        for place in range(listed + 4, listed + 4 + 16 * count, 16):
            offset, length = struct.unpack_from("<qq", data, place)
            if not 0 <= offset <= len(body) or not 0 <= length <= len(body) - offset:
                raise Unfolds("a buffer of it does not lie in it")
            # No bytes are an empty buffer; -1 says that what follows is not compressed.
            said = struct.unpack_from("<q", body, offset)[0] if length else 0
            if said < -1:
                raise Unfolds("a buffer of it has a size below zero")
            total += length if said == -1 else said
        return total
    except struct.error as error:
        raise Unfolds("a message of it cannot be read") from error


def _field(data: memoryview, table: int, number: int) -> int:
    """Find a field of a table of flatbuffers; 0 where it is not set."""
    listed = table - struct.unpack_from("<i", data, table)[0]
    place = 4 + 2 * number
    if listed < 0:
        raise Unfolds("a message of it cannot be read")
    if place >= struct.unpack_from("<H", data, listed)[0]:
        return 0
    offset = struct.unpack_from("<H", data, listed + place)[0]
    return table + offset if offset else 0


# -- Direct changes as images of rows: what a transaction touched, noted while it runs, and written again elsewhere.


MAGIC = b"NIRSDLT1"
_FORMAT = 1
_CHANGING = ("INSERT", "UPDATE", "DELETE")
# What a change may do besides that; everything else could alter rows that are not noted.
_HARMLESS = ("SELECT",)
_TARGET = re.compile(
    r"\s*(?:WITH\b.*?\)\s*)?(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|UPDATE|DELETE\s+FROM)\s+(?:store\.)?(\w+)",
    re.IGNORECASE | re.DOTALL,
)
_RETURNING = re.compile(r"\bRETURNING\b", re.IGNORECASE)
# What a change may use of its connection besides `execute`: nothing that writes.
_PASSED_ON = (
    "register", "unregister", "extract_statements", "description", "rowcount", "fetchmany", "fetchnumpy", "interrupt",
)  # fmt: skip
# Tables of each catalog by itself, and keys of its own.
LOCAL_TABLES = ("applied",)
LOCAL_KEYS = ("change_count", "position", "workspace_id")
# What no change of another computer touches.
_OWN_KEYS = (*LOCAL_KEYS, "format", "schema_version")


class NotCaptured(RuntimeError):
    """A statement of a direct change that cannot be sent to others: a fault of this library."""


class Delta(msgspec.Struct):
    """Images of a change, by table: the keys that were touched, and the rows that they have now."""

    tables: dict[str, tuple[pa.Table, pa.Table]]


class Capture:
    """Notes which rows a change touches, statement by statement."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        # The catalog's own connection: what runs on it is not noted.
        self.real = con
        self._con = con
        self._touched: dict[str, set[Any]] = {}
        # The capturing connection replaces the real one wherever a change uses it.
        self.connection = cast("duckdb.DuckDBPyConnection", _Capturing(con, self))

    def run(self, statement: str | duckdb.Statement, params: Any) -> Any:
        """Execute one statement, and note the keys that it touched."""
        if isinstance(statement, str):
            found = self._con.extract_statements(statement)
            if len(found) != 1:
                raise NotCaptured(f"expected one statement, found {len(found)}: {statement[:200]}")
            statement = found[0]
        kind = statement.type.name
        sql = statement.query
        if kind not in _CHANGING:
            if kind not in _HARMLESS:
                raise NotCaptured(f"a change may not hold a statement of the kind {kind}: {sql[:200]}")
            return self._con.execute(statement, params)
        target = _TARGET.match(sql)
        table = "" if target is None else target[1].lower()
        if table not in TABLES:
            raise NotCaptured(f"no table of the catalog was found in {sql[:200]}")
        key = column_names(table)[0]
        if _RETURNING.search(sql):
            # The caller wants its own columns: the keys are looked at first, and all of them come with the rows.
            return self._returning(table, key, sql, params)
        rows = self._con.execute(f"{sql.rstrip().rstrip(';')} RETURNING {key}", params).fetchall()
        self._touched.setdefault(table, set()).update(row[0] for row in rows)
        return _Result([(len(rows),)], [("Count", "BIGINT", None, None, None, None, None)])

    def _returning(self, table: str, key: str, sql: str, params: Any) -> Any:
        cursor = self._con.execute(f"{sql.rstrip().rstrip(';')}, {key} AS captured_key", params)
        described = list(cursor.description or ())
        rows = cursor.fetchall()
        self._touched.setdefault(table, set()).update(row[-1] for row in rows)
        return _Result([row[:-1] for row in rows], described[:-1])

    def touches(self, table: str) -> bool:
        """Tell whether a row of a table was touched."""
        return bool(self._touched.get(table))

    def encode(self, con: duckdb.DuckDBPyConnection, *, txid: str) -> bytes | None:
        """Encode what the transaction touched, as it is now; None where that is nothing."""
        images: dict[str, tuple[pa.Table, pa.Table]] = {}
        for table in TABLES:
            keys = {key for key in self._touched.get(table, ()) if not _is_local(table, key)}
            if not keys:
                continue
            schema = arrow_schema(table)
            touched = pa.table({"key": pa.array(sorted(keys), schema.field(0).type)})
            with incoming(con) as arriving:
                arriving.rows = touched
                where = f"{schema.names[0]} IN (SELECT key FROM {arriving.name})"
                rows = con.sql(f"SELECT * FROM {table} WHERE {where}").to_arrow_table()
            images[table] = (touched, plain_rows(rows, schema))
        return encode_images(images, txid=txid) if images else None


def encode_images(
    images: Mapping[str, tuple[pa.Table, pa.Table]],
    *,
    txid: str,
    schema: int = SCHEMA_VERSION,
    created: str | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> bytes:
    """Encode images, by table: the keys that were touched, and the rows that they have now; `more` for the header."""
    streams: list[bytes] = []
    index: list[tuple[str, int, int, int, int]] = []
    for table, (touched, rows) in images.items():
        pair = [_stream(touched), _stream(rows)]
        index.append((table, touched.num_rows, len(pair[0]), rows.num_rows, len(pair[1])))
        streams += pair
    header = json.dumps(
        {
            "format": _FORMAT,
            "schema": schema,
            "txid": txid,
            "claim": "",
            "session": "",
            "created": created or utcnow().isoformat(),
            "tables": index,
            **more,
        }
    ).encode()
    body = b"".join([MAGIC, struct.pack("<I", len(header)), header, *streams])
    return body + xxhash.xxh3_128(body).digest()


class _Capturing:
    """A connection whose statements are noted; what else it has is the real one's."""

    def __init__(self, con: duckdb.DuckDBPyConnection, capture: Capture) -> None:
        self._con = con
        self._capture = capture
        self._result: Any = con

    def execute(self, query: Any, parameters: Any = None) -> Any:
        """Run one statement."""
        self._result = self._capture.run(query, parameters)
        return self._result

    def fetchall(self) -> Any:
        """Fetch from the last statement."""
        return self._result.fetchall()

    def fetchone(self) -> Any:
        """Fetch from the last statement."""
        return self._result.fetchone()

    def sql(self, query: str | duckdb.Statement, **given: Any) -> Any:
        """Run a query that returns a relation."""
        found = self._con.extract_statements(query) if isinstance(query, str) else [query]
        if [each.type.name for each in found] != ["SELECT"]:
            raise NotCaptured(f"expected a query, found {str(query)[:200]}")
        return self._con.sql(query, **given)

    def __getattr__(self, name: str) -> Any:
        if name not in _PASSED_ON:
            raise NotCaptured(f"a change may not use {name} of its connection")
        return getattr(self._con, name)


class _Result:
    """Rows of a statement that were fetched to be noted."""

    def __init__(self, rows: list[tuple[Any, ...]], description: list[Any]) -> None:
        self._rows = rows
        self.description = description
        self.rowcount = -1

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all rows that are left."""
        rows, self._rows = self._rows, []
        return rows

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row."""
        return self._rows.pop(0) if self._rows else None

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        """Return some rows."""
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows


def _is_local(table: str, key: Any) -> bool:
    return table in LOCAL_TABLES or (table == "nirs_store_meta" and key in LOCAL_KEYS)


def plain_rows(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast the rows to the types that travel: DuckDB labels JSON, and may make long texts of short ones."""
    columns = []
    for field in schema:
        column = rows.column(field.name)
        if isinstance(column.type, pa.ExtensionType):
            column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
        columns.append(column.cast(field.type))
    return pa.table(columns, schema=schema)


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    found: bytes = sink.getvalue().to_pybytes()
    return found


def decode_images(header: Mapping[str, Any], data: memoryview) -> Delta:
    """Decode the images that follow a header; raises ValueError for what makes no sense."""
    found: dict[str, tuple[pa.Table, pa.Table]] = {}
    start = 0
    for name, n_keys, key_bytes, n_rows, row_bytes in header["tables"]:
        if name not in TABLES or name in found or name in LOCAL_TABLES:
            raise ValueError(f"images of a table {name!r}")
        if not (0 < key_bytes <= len(data) - start and 0 < row_bytes <= len(data) - start - key_bytes):
            raise ValueError(f"the images of {name!r} are not within the commit")
        schema = arrow_schema(name)
        key = pa.schema([("key", schema.field(0).type)])
        keys = _read(data[start : start + key_bytes], key, n_keys, name)
        start += key_bytes
        # Rows of an older schema may lack columns that were added since.
        older = header.get("schema", 0) < SCHEMA_VERSION
        rows = _read(data[start : start + row_bytes], schema, n_rows, name, older=older)
        start += row_bytes
        if name == "nirs_store_meta" and not set(_OWN_KEYS).isdisjoint(keys.column(0).to_pylist()):
            raise ValueError("it changes what a catalog says of itself")
        if not pc.all(pc.is_in(rows.column(0), keys.column(0).combine_chunks()), min_count=0).as_py():
            raise ValueError(f"it has rows of {name!r} whose keys it does not name")
        found[name] = (keys, rows)
    if start != len(data):
        raise ValueError(f"{len(data) - start} bytes follow its images")
    return Delta(found)


def _read(data: memoryview, schema: pa.Schema, count: int, name: str, *, older: bool = False) -> pa.Table:
    def check(found: pa.Schema) -> None:
        known = pa.schema([field for field in schema if field.name in found.names]) if older else schema
        if not found.equals(known) or not found.names:
            raise ValueError(f"images of {name!r} have other columns than the table")

    table = read_rows(pa.py_buffer(data), check, most=len(data))
    if table.num_rows != count:
        raise ValueError(f"{table.num_rows} images of {name!r}, where {count} were announced")
    return table


def apply_images(con: duckdb.DuckDBPyConnection, arriving: StagedRows, delta: Delta) -> None:
    """Replace rows by their images, inside the caller's transaction."""
    for name, (keys, rows) in delta.tables.items():
        key = column_names(name)[0]
        arriving.rows = keys
        execute(con, f"DELETE FROM {name} WHERE {key} IN (SELECT key FROM arriving)")
        if rows.num_rows:
            arriving.rows = rows
            columns = ", ".join(rows.column_names)
            execute(con, f"INSERT INTO {name} ({columns}) SELECT {columns} FROM arriving")


def digests(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Return count and sums of hashes of the rows of each table, in any order.

    Left out is what each catalog has for itself: when commits were applied, and in which groups.
    """
    found = {}
    for name in TABLES:
        if name in LOCAL_TABLES:
            continue
        local = ", ".join(f"'{key}'" for key in LOCAL_KEYS if key != "workspace_id")
        where = f"WHERE key NOT IN ({local})" if name == "nirs_store_meta" else ""
        sql = f"SELECT count(*), bit_xor(hash(t)), sum(hash(t)) FROM {name} t {where}"
        found[name] = "-".join(str(value) for value in execute(con, sql).fetchall()[0])
    return found


Row = dict[str, Any]

# So many values are looked up in the index of a key; more are joined.
_FEW = 64


class Table:
    """The rows of a table, inside the caller's query or transaction.

    Conditions are given as ``column=value``: a list means any of its values, None means NULL.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, name: str) -> None:
        self._con, self._name, self._columns = con, name, column_names(name)

    def insert(
        self, rows: Sequence[Mapping[str, Any]], conflict: Literal["", "OR IGNORE", "OR REPLACE"] = ""
    ) -> None:
        """Insert rows in one statement; a missing column is NULL."""
        if not rows:
            return
        names, documents = self._columns, _documents(self._name)
        if unknown := {name for row in rows for name in row}.difference(names):
            raise KeyError(f"{self._name} has no columns {sorted(unknown)}")
        values = [[to_json(row.get(n), n) if n in documents else row.get(n) for n in names] for row in rows]
        into = f"INSERT {conflict} INTO {self._name}"
        if len(rows) == 1:
            execute(self._con, f"{into} VALUES ({', '.join('?' * len(names))})", values[0])
            return
        with incoming(self._con) as arriving:
            columns = dict(zip(names, zip(*values, strict=True), strict=True))
            arriving.rows = pa.table(columns, schema=arrow_schema(self._name))
            execute(self._con, f"{into} SELECT * FROM {arriving.name}")

    def where(self, order: str = "", limit: int | None = None, /, **equal: Any) -> list[Row]:
        """Return the rows that fit, in an order."""
        text, params = _condition(equal)
        text += f" ORDER BY {order}" if order else ""
        text += f" LIMIT {int(limit)}" if limit is not None else ""
        return fetch(self._con, f"SELECT {', '.join(self._columns)} FROM {self._name} WHERE {text}", params)

    def keys(self, **equal: Any) -> list[str]:
        """Return the keys of the rows that fit."""
        text, params = _condition(equal)
        return column(self._con, f"SELECT {self._columns[0]} FROM {self._name} WHERE {text}", params)

    def update(self, values: Mapping[str, Any], **equal: Any) -> list[str]:
        """Change columns of the rows that fit; returns their keys."""
        documents = _documents(self._name)
        text, params = _condition(equal)
        return column(
            self._con,
            f"UPDATE {self._name} SET {', '.join(f'{name} = ?' for name in values)} WHERE {text} "
            f"RETURNING {self._columns[0]}",
            [*(to_json(v, name) if name in documents else v for name, v in values.items()), *params],
        )

    def raise_number(self, name: str, number: int) -> None:
        """Note the highest number that was given for a name, in a table of these two."""
        value = self._columns[1]
        highest = f"SET {value} = greatest({value}, excluded.{value})"
        sql = f"INSERT INTO {self._name} VALUES (?, ?) ON CONFLICT DO UPDATE {highest}"
        execute(self._con, sql, [name, number])

    def delete(self, **equal: Any) -> list[Row]:
        """Delete the rows that fit, and return them."""
        text, params = _condition(equal)
        return fetch(self._con, f"DELETE FROM {self._name} WHERE {text} RETURNING *", params)


def fetch(con: duckdb.DuckDBPyConnection, sql: str, params: Any = None) -> list[Row]:
    """Run a query whole and return its rows; columns that come as JSON are decoded."""
    cursor = execute(con, sql, params if params is not None else [])
    columns = [(each[0], str(each[1]) == "JSON") for each in cursor.description or ()]
    return [
        {name: from_json(v) if is_json else v for (name, is_json), v in zip(columns, row, strict=True)}
        for row in cursor.fetchall()
    ]


def column(con: duckdb.DuckDBPyConnection, sql: str, params: Any = None) -> list[Any]:
    """Run a query whole and return its first column."""
    return [row[0] for row in execute(con, sql, params if params is not None else []).fetchall()]


def checked(table: str, values: Mapping[str, Any]) -> Row:
    """Return values as their columns take them, JSON as text; an error names the argument that does not fit."""
    checks = _checks(table)
    return {name: checks[name](value, name) for name, value in values.items()}


@cache
def _checks(table: str) -> dict[str, Callable[[Any, str], Any]]:
    return {each.name: _check_of(each.sql) for each in TABLES[table].columns}


def _check_of(sql: str) -> Callable[[Any, str], Any]:
    kind, required = sql.split()[0], "NOT NULL" in sql or "PRIMARY KEY" in sql
    checks: dict[str, Callable[[Any, str], Any]] = {
        "VARCHAR": as_text if required else _as_optional_text,
        "INTEGER": as_int,
        "BIGINT": as_long,
        "DOUBLE": as_float,
        "JSON": to_json,
    }
    check = checks.get(kind, lambda value, _: value)
    return _required(check) if required and kind in ("INTEGER", "BIGINT") else check


def _as_optional_text(value: Any, name: str) -> str | None:
    return None if value is None else as_text(value, name)


def _required(check: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def call(value: Any, name: str) -> Any:
        if value is None:
            raise InvalidInput(f"{name}: expected a whole number, found None. Nothing was recorded.")
        return check(value, name)

    return call


@cache
def _documents(table: str) -> frozenset[str]:
    return frozenset(each.name for each in TABLES[table].columns if each.sql.startswith("JSON"))


def _condition(equal: Mapping[str, Any]) -> tuple[str, list[Any]]:
    parts: list[str] = []
    params: list[Any] = []
    for name, value in equal.items():
        if value is None:
            parts.append(f"{name} IS NULL")
        elif not isinstance(value, (list, tuple, set, frozenset)):
            parts.append(f"{name} = ?")
            params.append(value)
        elif len(value) <= _FEW:
            parts.append(f"{name} IN ({', '.join('?' * len(value))})" if value else "FALSE")
            params += value
        else:
            parts.append(f"{name} IN (SELECT unnest(?::VARCHAR[]))")
            params.append(list(value))
    return " AND ".join(parts) or "TRUE", params
