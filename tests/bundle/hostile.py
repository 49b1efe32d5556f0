"""Bundles as somebody with bad intentions, or a bad disk, would hand them over."""

from __future__ import annotations

import io
import json
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Members = list[tuple[str, bytes]]


class Kind(NamedTuple):
    """One way to be hostile: what it is called, and the bytes that it makes of an honest bundle."""

    name: str
    make: Callable[[bytes, Path], bytes]
    error: str
    says: str = ""


KINDS: list[Kind] = []


def kind(name: str, error: str = "BundleInvalid", says: str = "") -> Callable[..., Any]:
    def keep(function: Callable[[bytes, Path], bytes]) -> Callable[[bytes, Path], bytes]:
        KINDS.append(Kind(name, function, error, says))
        return function

    return keep


class Touch:
    """Pickles as the making of a file: the canary."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(self.path).touch, ()


# -- taking apart and putting together ---------------------------------------------------------------


def members_of(data: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def packed(members: Any, compression: int = zipfile.ZIP_STORED) -> bytes:
    import warnings

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name, content in members:
                archive.writestr(name, content)
    return buffer.getvalue()


def record_of(members: Members) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dict(members)["nirs_store.json"])
    return found


def with_record(members: Members, record: dict[str, Any]) -> Members:
    """Put in a changed record whose list of members is right for what is there."""
    return [
        (name, json.dumps(record).encode() if name == "nirs_store.json" else data) for name, data in members
    ]


def relisted(members: Members, change: Callable[[dict[str, Any]], None] = lambda record: None) -> bytes:
    """Pack members with a record that lists them correctly: only what is in them is wrong."""
    record = record_of(members)
    change(record)
    roles = {member["name"]: member["role"] for member in record["members"]}
    record["members"] = [
        {"name": name, "size": len(data), "sha256": sha256(data).hexdigest(), "role": roles.get(name, "blob")}
        for name, data in members
        if name != "nirs_store.json"
    ]
    return packed(with_record(members, record))


def blob_of(members: Members) -> str:
    """Name the largest payload."""
    return max(
        (name for name, _ in members if name.startswith("blobs/")), key=lambda n: len(dict(members)[n])
    )


def with_payload(data: bytes, payload: bytes) -> bytes:
    """Put another payload in place of the model, with every hash and id corrected."""
    members = members_of(data)
    old = blob_of(members)
    digest = sha256(payload).hexdigest()
    text = json.dumps(record_of(members)).replace(old[6:70], digest)
    renamed = [(f"blobs/{digest}.skops", payload) if name == old else (name, held) for name, held in members]
    changed = with_record(renamed, json.loads(text))
    return relisted(changed)


def with_schema(data: bytes, change: Callable[[dict[str, Any]], Any], extra: Members = ()) -> bytes:  # type: ignore[assignment]
    """Change the schema of the model's payload."""
    inner = members_of(dict(members_of(data))[blob_of(members_of(data))])
    schema = json.loads(dict(inner)["schema.json"])
    changed = change(schema)
    text = json.dumps(schema if changed is None else changed).encode()
    return with_payload(
        data, packed([*[(n, d) for n, d in inner if n != "schema.json"], *extra, ("schema.json", text)])
    )


def directory(data: bytes, layout: str, offset: int, value: int, member: int = -1) -> bytes:
    """Change a field of a member's entry in the central directory."""
    changed = bytearray(data)
    places = [place for place in range(len(data)) if data[place : place + 4] == b"PK\x01\x02"]
    struct.pack_into(layout, changed, places[member] + offset, value)
    return bytes(changed)


def local(data: bytes, layout: str, offset: int, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, offset, value)
    return bytes(changed)


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if "__loader__" in schema:
            yield schema
        for value in schema.values():
            yield from nodes(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from nodes(value)


def json_node(text: str) -> dict[str, Any]:
    return {
        "__class__": "str",
        "__module__": "builtins",
        "__loader__": "JsonNode",
        "content": text,
        "is_json": True,
    }


def list_node(*content: Any, **more: Any) -> dict[str, Any]:
    return {
        "__class__": "list",
        "__module__": "builtins",
        "__loader__": "ListNode",
        "content": [*content],
        **more,
    }


def named(loader: str, full: str, **more: Any) -> dict[str, Any]:
    module, _, name = full.rpartition(".")
    return {"__class__": name, "__module__": module, "__loader__": loader, **more}


def root(node: dict[str, Any], honest: dict[str, Any]) -> dict[str, Any]:
    return {**node, "protocol": honest["protocol"], "_skops_version": honest["_skops_version"]}


# -- names --------------------------------------------------------------------------------------------

for _label, _name in {
    "a name that climbs": "../evil.txt",
    "a name that climbs later": "blobs/../../evil.txt",
    "an absolute name": "/etc/evil",
    "a drive letter": "C:\\evil.txt",
    "a backslash": "blobs\\evil.txt",
    "a drive with a slash": "C:/evil.txt",
    "a share": "//host/evil",
    "a stream of NTFS": "card.md:evil",
    "an empty part": "blobs//evil",
    "a folder": "evil/",
    "a line break": "evil\nname",
    "text that runs backwards": "\u202egpj.evil",
    "a name that is too deep": "a/b/c/d/e",
    "a name that is too long": "e" * 300,
}.items():
    KINDS.append(
        Kind(
            _label, lambda data, _, name=_name: packed([*members_of(data), (name, b"evil")]), "BundleInvalid"
        )  # type: ignore[misc]
    )


@kind("a NUL in a name")
def _(data: bytes, _: Path) -> bytes:
    return packed([*members_of(data), ("evilXname", b"x")]).replace(b"evilXname", b"evil\0name")


@kind("two members of one name")
def _(data: bytes, _: Path) -> bytes:
    return packed([*members_of(data), ("card.md", b"another")])


@kind("two names that differ by case")
def _(data: bytes, _: Path) -> bytes:
    return packed([*members_of(data), ("CARD.md", b"another")])


@kind("a link")
def _(data: bytes, _: Path) -> bytes:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return packed([*members_of(data), (info, b"/etc/passwd")])


@kind("a device")
def _(data: bytes, _: Path) -> bytes:
    info = zipfile.ZipInfo("device")
    info.external_attr = (stat.S_IFCHR | 0o666) << 16
    return packed([*members_of(data), (info, b"")])


@kind("a name that an extra field changes")
def _(data: bytes, _: Path) -> bytes:
    name = b"card.md"
    info = zipfile.ZipInfo("seemly")
    field = struct.pack("<BL", 1, zlib.crc32(b"seemly")) + name
    info.extra = struct.pack("<HH", 0x7075, len(field)) + field
    return packed([*[(n, d) for n, d in members_of(data) if n != "card.md"], (info, b"x")])


# -- the container --------------------------------------------------------------------------------------


@kind("a million members", says="too many for 5 members")
def _(data: bytes, _: Path) -> bytes:
    """Their directory, that is, with a last record that counts them as far as it can."""
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"
    entries = entry * 1_000_000
    return (
        b"PK\x03\x04"
        + bytes(26)
        + entries
        + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 5, 5, len(entries), 30, 0)
    )


@kind("more members than are said", says="its directory has")
def _(data: bytes, _: Path) -> bytes:
    count = len(members_of(data)) - 1
    return data[:-14] + struct.pack("<HH", count, count) + data[-10:]


@kind("many members")
def _(data: bytes, _: Path) -> bytes:
    return packed([*members_of(data), *((f"m{number}", b"") for number in range(10_001))])


@kind("a bomb", says="-fold when decompressed")
def _(data: bytes, _: Path) -> bytes:
    return packed([*members_of(data), ("bomb", bytes(32 << 20))], zipfile.ZIP_DEFLATED)


@kind("a size that lies: less")
def _(data: bytes, _: Path) -> bytes:
    deflated = packed(members_of(data), zipfile.ZIP_DEFLATED)
    return directory(deflated, "<I", 24, 100, member=1)


@kind("a size that lies: more")
def _(data: bytes, _: Path) -> bytes:
    deflated = packed(members_of(data), zipfile.ZIP_DEFLATED)
    return directory(deflated, "<I", 24, 400_000, member=1)


@kind("a size that lies: two for the same bytes")
def _(data: bytes, _: Path) -> bytes:
    return directory(data, "<I", 24, 7, member=1)


@kind("members that overlap")
def _(data: bytes, _: Path) -> bytes:
    return directory(data, "<I", 42, 60, member=2)


@kind("a member that reaches into the directory")
def _(data: bytes, _: Path) -> bytes:
    return directory(directory(data, "<I", 20, 1 << 20), "<I", 24, 1 << 20)


@kind("an encrypted member")
def _(data: bytes, _: Path) -> bytes:
    return directory(data, "<H", 8, 1, member=1)


@kind("another method of compression")
def _(data: bytes, _: Path) -> bytes:
    return packed(members_of(data), zipfile.ZIP_LZMA)


@kind("a method that does not exist")
def _(data: bytes, _: Path) -> bytes:
    return directory(data, "<H", 10, 77, member=1)


@kind("a wrong checksum", says="CRC")
def _(data: bytes, _: Path) -> bytes:
    return directory(data, "<I", 16, 12345, member=1)


@kind("bytes in front")
def _(data: bytes, _: Path) -> bytes:
    return b"#!/bin/sh\ntouch canary\n" + data


@kind("bytes behind")
def _(data: bytes, _: Path) -> bytes:
    return data + b"PK"


@kind("a second archive behind")
def _(data: bytes, _: Path) -> bytes:
    return data + data


@kind("a comment")
def _(data: bytes, _: Path) -> bytes:
    return data[:-2] + struct.pack("<H", 4) + b"evil"


@kind("a part of a set of archives")
def _(data: bytes, _: Path) -> bytes:
    return data[:-18] + struct.pack("<HH", 1, 1) + data[-14:]


@kind("the large directory")
def _(data: bytes, _: Path) -> bytes:
    return data[:-14] + struct.pack("<HHLL", 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF) + data[-2:]


@kind("cut off")
def _(data: bytes, _: Path) -> bytes:
    return data[: len(data) // 2]


@kind("nothing")
def _(data: bytes, _: Path) -> bytes:
    return b""


@kind("a name that the member itself does not have")
def _(data: bytes, _: Path) -> bytes:
    return data.replace(b"card.md", b"cart.md", 1)


# -- what is listed ---------------------------------------------------------------------------------------


@kind("a member that is not listed", says="is not listed")
def _(data: bytes, _: Path) -> bytes:
    return packed([*members_of(data), ("train_pipeline.json", b"{}")])


@kind("a listed member that is missing")
def _(data: bytes, _: Path) -> bytes:
    members = members_of(data)
    return packed([item for item in members if item[0] != blob_of(members)])


@kind("a member whose hash is another", says="has the SHA-256")
def _(data: bytes, _: Path) -> bytes:
    members = members_of(data)
    return packed([(n, d[:-1] + bytes([d[-1] ^ 1]) if n == blob_of(members) else d) for n, d in members])


@kind("a listed name that no bundle has")
def _(data: bytes, _: Path) -> bytes:
    return relisted([*members_of(data), ("evil.sh", b"rm")])


@kind("a card as long as a library", says="card.md promises")
def _(data: bytes, _: Path) -> bytes:
    return relisted([(n, b"x" * (2 << 20) if n == "card.md" else d) for n, d in members_of(data)])


@kind("a payload that is not named by its hash")
def _(data: bytes, _: Path) -> bytes:
    members = members_of(data)
    other = members_of(data)[-1][1]
    return relisted([(n, other if n == blob_of(members) else d) for n, d in members])


@kind("a list of members that was taken out")
def _(data: bytes, _: Path) -> bytes:
    return packed([item for item in members_of(data) if item[0] != "nirs_store.json"])


@kind("no manifest")
def _(data: bytes, _: Path) -> bytes:
    return relisted([item for item in members_of(data) if item[0] != "manifest.json"])


@kind("a member listed twice")
def _(data: bytes, _: Path) -> bytes:
    members = members_of(data)
    record = record_of(members)
    record["members"].append(record["members"][0])
    return packed(with_record(members, record))


# -- JSON ---------------------------------------------------------------------------------------------------


def _manifest(text: bytes) -> Callable[[bytes, Path], bytes]:
    def make(data: bytes, _: Path) -> bytes:
        return relisted([(n, text if n == "manifest.json" else d) for n, d in members_of(data)])

    return make


def _raw_record(old: bytes, new: bytes) -> Callable[[bytes, Path], bytes]:
    def make(data: bytes, _: Path) -> bytes:
        members = [(n, d.replace(old, new, 1) if n == "nirs_store.json" else d) for n, d in members_of(data)]
        return packed(members)

    return make


for _label, _text in {
    "JSON that is too deep": b'{"a":' * 60 + b"1" + b"}" * 60,
    "JSON that is very deep": b"[" * 20_000,
    "a number beyond what JSON readers share": b'{"a": 99999999999999999999}',
    "a number of a million digits": b'{"a": ' + b"9" * 900_000 + b"}",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": 1e999}',
    "a key twice": b'{"a": 1, "a": 2}',
    "bytes that are no UTF-8": b'{"a": "\xff"}',
    "no JSON": b"hello",
    "a list in place of an object": b"[]",
    "a manifest that is too large": b'{"a": "' + b"x" * (1 << 20) + b'"}',
    "a format version that is none": b'{"bundle_format_version": "../1"}',
    "a model step that is none": b'{"model_step_index": -1}',
}.items():
    KINDS.append(Kind(_label, _manifest(_text), "BundleInvalid"))

KINDS += [
    Kind("a format that is too new", _manifest(b'{"bundle_format_version": "1.1"}'), "BundleTooNew"),
    Kind(
        "a record that is too new",
        _raw_record(b'"record_version": 1', b'"record_version": 2'),
        "BundleTooNew",
    ),
    Kind("a record of another kind", _raw_record(b'"kind": "skops"', b'"kind": "marsh"'), "BundleInvalid"),
    Kind("a kind that the names deny", _raw_record(b'"kind": "skops"', b'"kind": "joblib"'), "BundleInvalid"),
]


# -- the chain ----------------------------------------------------------------------------------------------


def _chain(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes, Path], bytes]:
    return lambda data, _: relisted(members_of(data), lambda record: change(record["chain"]))


def _stateless(chain: dict[str, Any]) -> None:
    step = chain["steps"][0]
    step.pop("artifact_ids")
    step |= {"stateless": True, "operator_class": "subprocess.Popen", "params": {"args": "touch canary"}}


KINDS += [
    Kind(
        "a class that the chain names", _chain(_stateless), "BundleInvalid", "from the names of their classes"
    ),
    Kind(
        "a chain that names what is not there",
        _chain(lambda chain: chain["fold_artifacts"].update(fold_final="0" * 64)),
        "BundleInvalid",
    ),
    Kind("a chain without a model", _chain(lambda chain: chain.update(fold_artifacts={})), "BundleInvalid"),
    Kind("a chain without steps", _chain(lambda chain: chain.update(steps="none")), "BundleInvalid"),
    Kind(
        "a chain whose wavelengths are text",
        _chain(lambda chain: chain.update(wavelengths=["a"])),
        "BundleInvalid",
    ),
]


# -- payloads -----------------------------------------------------------------------------------------------


@kind("a pickle in place of skops", says="it is a pickle")
def _(data: bytes, canary: Path) -> bytes:
    return with_payload(data, pickle.dumps(Touch(str(canary))))


@kind("a joblib member that is listed")
def _(data: bytes, canary: Path) -> bytes:
    return relisted([*members_of(data), ("artifacts/step_1_sub0.joblib", pickle.dumps(Touch(str(canary))))])


@kind("a bundle of pickles", "UntrustedBundle")
def _(data: bytes, canary: Path) -> bytes:
    members = members_of(data)
    old = blob_of(members)
    payload = pickle.dumps(Touch(str(canary)))
    digest = sha256(payload).hexdigest()
    kept = [(f"blobs/{digest}.joblib", payload) if n == old else (n, d) for n, d in members]
    others = [(n, d) for n, d in kept if not n.endswith(".skops")]
    return relisted(others, lambda record: record.update(kind="joblib"))


@kind("an archive in an archive that is compressed", says="compressed inside")
def _(data: bytes, _: Path) -> bytes:
    inner = members_of(dict(members_of(data))[blob_of(members_of(data))])
    return with_payload(data, packed(inner, zipfile.ZIP_DEFLATED))


@kind("an archive in an archive that climbs", says="plain relative name")
def _(data: bytes, _: Path) -> bytes:
    inner = members_of(dict(members_of(data))[blob_of(members_of(data))])
    return with_payload(data, packed([*inner, ("../evil.npy", b"x")]))


@kind("a payload without a schema", says="has no schema")
def _(data: bytes, _: Path) -> bytes:
    return with_payload(data, packed([("000001.npy", b"x")]))


@kind("a payload that another bundle nests")
def _(data: bytes, _: Path) -> bytes:
    return with_payload(data, data)


@kind("a payload with a member that nobody names")
def _(data: bytes, _: Path) -> bytes:
    return with_schema(data, lambda schema: None, [("000999.npy", b"x")])


@kind("an array that promises more than it holds", says="its array 000001.npy cannot be read")
def _(data: bytes, _: Path) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    return _with_array(data, buffer.getvalue())


@kind("an array of objects", says="its array 000001.npy cannot be read")
def _(data: bytes, canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Touch(str(canary))], dtype=object), allow_pickle=True)
    return _with_array(data, buffer.getvalue())


@kind("an array whose header is code", says="its array 000001.npy cannot be read")
def _(data: bytes, _: Path) -> bytes:
    text = b"{'descr': __import__('os').system('touch canary'), 'fortran_order': False, 'shape': ()}\n"
    return _with_array(data, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)


def _with_array(data: bytes, array: bytes) -> bytes:
    inner = members_of(dict(members_of(data))[blob_of(members_of(data))])
    return with_payload(data, packed([(n, array if n == "000001.npy" else d) for n, d in inner]))


def _schema(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes, Path], bytes]:
    """Change the schema, or put another in its place; members that it no longer names go as well."""

    def make(data: bytes, _: Path) -> bytes:
        inner = members_of(dict(members_of(data))[blob_of(members_of(data))])
        schema = json.loads(dict(inner)["schema.json"])
        made = change(schema)
        schema = root(made, schema) if made else schema
        used = {node.get("file") for node in nodes(schema)} if made else {name for name, _ in inner}
        kept = [(name, held) for name, held in inner if name in used and name != "schema.json"]
        return with_payload(data, packed([*kept, ("schema.json", json.dumps(schema).encode())]))

    return make


def _first(schema: dict[str, Any], loader: str) -> dict[str, Any]:
    return next(node for node in nodes(schema) if node["__loader__"] == loader)


def _doubling(_: dict[str, Any]) -> dict[str, Any]:
    """Short references to large nodes: an audit that follows them never ends."""
    node = list_node(json_node("1"), __id__=1000)
    for level in range(1, 60):
        node = list_node(node, {**list_node(), "__id__": 999 + level}, __id__=1000 + level)
    return node


def _set(loader: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    def change(schema: dict[str, Any]) -> None:
        _first(schema, loader).update(values)

    return change


def _attribute(name: str, text: str) -> Callable[[dict[str, Any]], None]:
    def change(schema: dict[str, Any]) -> None:
        _first(schema, "ObjectNode")["content"]["content"][name] = json_node(text)

    return change


def _in_place(name: str, node: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Put a node where the model has an attribute."""

    def change(schema: dict[str, Any]) -> None:
        _first(schema, "ObjectNode")["content"]["content"][name] = node

    return change


def _shared_id(schema: dict[str, Any]) -> None:
    """Give what is allowed the id of what is not; both are one node large."""
    state = _first(schema, "ObjectNode")["content"]["content"]
    state["tol"] = {**json_node("1e-6"), "__id__": 7777}
    state["max_iter"] = {**json_node('"../evil"'), "__id__": 7777}


_METHOD = named("MethodNode", "builtins.str", content={"func": "format", "obj": json_node('"x"')})
_PARTIAL = named(
    "PartialNode",
    "functools.partial",
    content={
        "func": named("FunctionNode", "os.system"),
        "args": list_node(),
        "kwds": list_node(),
        "namespace": json_node("null"),
    },
)
_CALLER = named("OperatorFuncNode", "operator.methodcaller", attrs=list_node(json_node('"system"')))

_SAYS = {
    "a method in a payload": "no safe bundle may hold",
    "a partial function in a payload": "no safe bundle may hold",
    "an operator in a payload": "no safe bundle may hold",
    "a sparse matrix in a payload": "no safe bundle may hold",
    "a node of a kind that nobody knows": "no safe bundle may hold",
    "a node without a kind": "does not say what reads it",
    "a node whose kind is a node": "does not say what reads it",
    "a reference to a node": "no safe bundle may hold",
    "a constructor with arguments": "no safe bundle may hold",
    "a type whose name is no name": "a type is called",
    "a list that is something else": "makes a os.environ",
    "an older protocol": "protocol '0'",
    "a newer protocol": "protocol '99'",
    "a protocol that is true": "protocol 'True'",
    "a schema that refers to itself for ever": "two different nodes",
    "a node that is itself": "two different nodes",
    "an array from another file": "reads from a member",
    "an array from the schema": "reads from a member",
    "a value that is a structure": "not plain",
    "a value that is deep": "not plain",
    "a value that is no JSON": "is not JSON",
    "a cache in somebody's folder": "sets memory",
    "a thousand processes": "sets n_jobs",
    "an id that two values share": "two different nodes",
    "a loss that is a pipeline": "makes a sklearn.pipeline.Pipeline",
    "a list in place of a model": "in place of an estimator",
    "an object made of a type of Python": "an object is made of builtins.str",
    "a function that is a class": "names the class sklearn.pipeline.Pipeline",
    "a key whose type is a class": "names the class sklearn.pipeline.Pipeline",
    "keys without types": "one type for each",
}

for _label, _change in {
    "a method in a payload": lambda _: _METHOD,
    "a partial function in a payload": lambda _: _PARTIAL,
    "an operator in a payload": lambda _: _CALLER,
    "a sparse matrix in a payload": lambda _: named(
        "SparseMatrixNode", "scipy.sparse._csr.csr_matrix", type="scipy"
    ),
    "a node of a kind that nobody knows": lambda _: named("EvilNode", "os.system"),
    "a node without a kind": lambda _: {"__class__": "list", "__module__": "builtins"},
    "a node whose kind is a node": lambda _: {
        "__class__": "a",
        "__module__": "b",
        "__loader__": json_node("1"),
    },
    "a reference to a node": lambda _: named("CachedNode", "builtins.list", __id__=1),
    "a constructor with arguments": lambda _: named(
        "ConstructorFromReduceNode", "pathlib.Path", content=list_node()
    ),
    "a type whose name is no name": lambda _: named("TypeNode", "os.system('x')"),
    "a list that is something else": _set("DictNode", key_types=named("ListNode", "os.environ", content=[])),
    "an older protocol": lambda schema: schema.update(protocol=0),
    "a newer protocol": lambda schema: schema.update(protocol=99),
    "a protocol that is true": lambda schema: schema.update(protocol=True),
    "a schema that refers to itself for ever": _doubling,
    "a node that is itself": lambda _: list_node(list_node(__id__=7), __id__=7),
    "an array from another file": _set("NdArrayNode", file="../../etc/passwd"),
    "an array from the schema": _set("NdArrayNode", file="schema.json"),
    "a value that is a structure": _set("JsonNode", content="[[[[1]]]]"),
    "a value that is deep": _set("JsonNode", content="[" * 100_000),
    "a value that is no JSON": _set("JsonNode", content="__import__('os')"),
    "a cache in somebody's folder": _attribute("memory", '"/tmp/cache"'),
    "a thousand processes": _attribute("n_jobs", "1000"),
    "an id that two values share": _shared_id,
    "a loss that is a pipeline": lambda _: named(
        "LossNode", "sklearn.pipeline.Pipeline", __reduce__={"args": list_node()}, content=list_node()
    ),
    "a list in place of a model": lambda _: list_node(json_node("1")),
    "an object made of a type of Python": lambda _: named("ObjectNode", "builtins.str"),
    "a function that is a class": _in_place("tol", named("FunctionNode", "sklearn.pipeline.Pipeline")),
    "a key whose type is a class": lambda schema: _first(schema, "DictNode")["key_types"][
        "content"
    ].__setitem__(0, named("TypeNode", "sklearn.pipeline.Pipeline")),
    "keys without types": lambda schema: _first(schema, "DictNode")["key_types"].update(content=[]),
}.items():
    KINDS.append(Kind(_label, _schema(_change), "BundleInvalid", _SAYS[_label]))

for _label, _change in {
    "a function of the system": lambda _: named("FunctionNode", "os.system"),
    "a type that nobody knows": lambda _: named("TypeNode", "subprocess.Popen"),
    "an object that nobody knows": lambda _: named("ObjectNode", "pathlib.Path"),
    "a support vector machine": _set("ObjectNode", __module__="sklearn.svm._classes", __class__="SVR"),
    "a tree": lambda schema: named(
        "TreeNode",
        "sklearn.tree._tree.Tree",
        __reduce__={"args": list_node()},
        content=list_node(),
        __id__=1,
    ),
    "nearest neighbours": _set(
        "ObjectNode", __module__="sklearn.neighbors._regression", __class__="KNeighborsRegressor"
    ),
    "a reader of files": _set(
        "ObjectNode", __module__="sklearn.feature_extraction.text", __class__="CountVectorizer"
    ),
    "a name where a number belongs": _in_place("tol", json_node('"tofile"')),
    "a function where a number belongs": _in_place("tol", named("FunctionNode", "numpy.exp")),
    "a type where a number belongs": _in_place("tol", named("TypeNode", "numpy.float64")),
    "an attribute that hides a method": lambda schema: _first(schema, "ObjectNode")["content"].update(
        content={
            "predict" if key == "tol" else key: value
            for key, value in _first(schema, "ObjectNode")["content"]["content"].items()
        }
    ),
    "a class of the same name elsewhere": _set("ObjectNode", __module__="sklearn.evil"),
}.items():
    KINDS.append(Kind(_label, _schema(_change), "UntrustedBundle", "need your trust"))


# -- what it predicts -----------------------------------------------------------------------------------------


@kind("a model that predicts something else", says="it predicts other values here")
def _(data: bytes, _: Path) -> bytes:
    inner = members_of(dict(members_of(data))[blob_of(members_of(data))])
    place, array = next((n, d) for n, d in inner if n.endswith(".npy") and len(d) > 900)
    values = np.load(io.BytesIO(array)) + 1.0
    buffer = io.BytesIO()
    np.save(buffer, values)
    return with_payload(data, packed([(n, buffer.getvalue() if n == place else d) for n, d in inner]))


@kind("probe spectra that cannot be read", says="probe spectra cannot be read")
def _(data: bytes, _: Path) -> bytes:
    def change(record: dict[str, Any]) -> None:
        record["probe"]["expected"] = "manifest.json"

    return relisted(members_of(data), change)


@kind("probe spectra of another width", says="cannot predict its own probe")
def _(data: bytes, _: Path) -> bytes:
    def change(record: dict[str, Any]) -> None:
        record["probe"]["spectra"] = [record["probe"]["expected"]]

    return relisted(members_of(data), change)
