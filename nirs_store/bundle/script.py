"""Writing a chain as a Python script that predicts on its own."""

from __future__ import annotations

import ast
import base64
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from nirs_store.addresses import user_path
from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.bundle.manifest import read_environment
from nirs_store.bundle.pack import ChainSource, Package, pack_chain
from nirs_store.bundle.writer import target_path
from nirs_store.chains.plan import COLUMNS, text_names
from nirs_store.chains.steps import MODEL, SPLITTER, TARGETS
from nirs_store.errors import InvalidInput
from nirs_store.reading.cells import parse_unit

_SUFFIX = ".n4a.py"
_READER = "# @READER@\n"
_READ_BY_SCRIPTS = (
    "reading/cells",
    "reading/dialect",
    "reading/grid",
    "reading/summaries",
    "reading/text",
    "chains/grids",
    "domain/measure",
)
_LINE = 100


def export_script(source: ChainSource, chain_id: str, output_path: str | Path) -> Path:
    """Write a stored chain as a Python script with a ``predict(X)`` and a small command line.

    Parameters
    ----------
    source : ChainSource
        The store, or anything that can look up chains and artifacts.
    chain_id : str
        The chain.
    output_path : path
        The file to write; ``.n4a.py`` is added unless it ends in ``.py``. An existing file is replaced when
        the new one is complete.

    Returns
    -------
    Path
        The file. It needs numpy, joblib and what the fitted objects need, as scikit-learn.

    Raises
    ------
    UnknownId, ArtifactMissing, BlobMissing, BlobCorrupt, ReplayError, WriteFailed, ReadOnlyStore
        As for `export_chain`.
    InvalidInput
        The path is a folder, or the chain is one that only nirs_store can replay.

    Examples
    --------
    >>> export_script(store, chain_id, "exports/wheat").as_posix()
    'exports/wheat.n4a.py'
    """
    path = user_path(output_path)
    if path.name.endswith(".n4a"):
        path = path.with_name(path.name.removesuffix(".n4a"))
    target = target_path(path, ".py" if path.name.endswith(".py") else _SUFFIX)
    package = pack_chain(source, chain_id)
    if not package.expressible:
        raise InvalidInput(
            f"Chain {chain_id!r} cannot be written as a script. {' '.join(package.notes)} "
            "Nothing was written; export it with format='n4a'."
        )
    text = _script(package, target.name)
    ensure_dir(target.parent)
    write_file(target, text.encode())
    return target


def _script(package: Package, file_name: str) -> str:
    chain = package.chain
    title = _plain(
        f"{chain['model_class'].rpartition('.')[2]} {chain['preprocessings']}".strip() or "a chain"
    )
    described = json.dumps(_chain(package, title), sort_keys=True, indent=1, ensure_ascii=True)
    objects = {payload.sha256: payload.data for payload in package.payloads}
    encoded = "".join(f'    "{digest}": """\n{_base64(data)}\n""",\n' for digest, data in objects.items())
    text = files("nirs_store.bundle").joinpath("standalone.py").read_text("utf-8")
    head, _, rest = text.partition(_READER)
    text = f"{head}{_reader_source()}{rest.partition(_READER)[2]}"
    environment = ", ".join(f"{name} {version}" for name, version in read_environment().items())
    text = text.replace("@TITLE@", title).replace("@ENVIRONMENT@", environment)
    text = text.replace("@FILE@", _plain(file_name))
    # Text of users comes in last, so that nothing in it is taken for a place to fill.
    text = text.replace("OBJECTS: dict[str, str] = {}", f"OBJECTS: dict[str, str] = {{\n{encoded}}}", 1)
    if package.domain is not None:
        text = text.replace('DOMAIN = ""', f'DOMAIN = """\n{_base64(package.domain)}\n"""', 1)
    # JSON has no three quotes in a row: one inside a string follows a backslash, also in a raw string.
    return text.replace('json.loads(r"""{}""")', f'json.loads(r"""\n{described}\n""")', 1)


def _reader_source() -> str:
    """Return the modules that read text files as one, without what imports them from each other."""
    parts = []
    for name in _READ_BY_SCRIPTS:
        source = files("nirs_store").joinpath(*f"{name}.py".split("/")).read_text("utf-8")
        lines = source.splitlines()
        for node in ast.parse(source).body:
            own = isinstance(node, ast.ImportFrom) and str(node.module).startswith(
                ("nirs_store", "__future__")
            )
            if own:
                lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)  # type: ignore[operator]
        parts.append(re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)).strip())
    return "\n\n\n".join(parts) + "\n"


def _chain(package: Package, title: str) -> dict[str, Any]:
    """Reduce a chain to what the script needs."""
    chain = package.chain
    metadata = chain["metadata"] or {}
    steps = [step for step in chain["steps"] if step["operator_type"] not in (MODEL, SPLITTER, TARGETS)]
    targets = [step for step in chain["steps"] if step["operator_type"] == TARGETS]
    folds = chain["fold_artifacts"]
    alone = [step["artifact_id"] for step in chain["steps"] if "artifact_id" in step]
    weights = chain["fold_weights"]
    return {
        "title": title,
        "chain_id": chain["chain_id"],
        "steps": [{"kind": step["operator_type"], "objects": step["artifact_ids"]} for step in steps],
        "models": list(folds.values()) if folds else alone,
        "weights": [weights[fold] for fold in folds] if weights else None,
        "targets": [identifier for step in targets for identifier in step["artifact_ids"]],
        "target": _plain(str(metadata.get("target") or "prediction")),
        "target_names": metadata.get("target_names"),
        "wavelengths": chain["wavelengths"],
        "unit": parse_unit(metadata.get("wavelength_unit")),
        "columns": text_names(metadata.get(COLUMNS)),
    }


def _base64(data: bytes) -> str:
    text = base64.b64encode(data).decode("ascii")
    return "\n".join(text[start : start + _LINE] for start in range(0, len(text), _LINE))


def _plain(text: str) -> str:
    """Keep what can stand in a docstring: names come from users."""
    return re.sub(r"[^\w .,:;()\[\]=+%/-]", "", text, flags=re.ASCII)[:120].strip()
