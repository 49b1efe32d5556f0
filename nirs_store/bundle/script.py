"""Writing a chain as a Python script that predicts on its own.

The script is the module `standalone` with its two constants filled in, so that what users run is code that is
checked and tested here.
"""

from __future__ import annotations

import base64
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.bundle.manifest import read_environment
from nirs_store.bundle.package import Package, pack_chain
from nirs_store.bundle.source import ChainSource
from nirs_store.bundle.writer import target_path
from nirs_store.chains.kinds import MODEL, SPLITTER, TARGETS
from nirs_store.errors import InvalidInput

__all__ = ["export_script"]

SUFFIX = ".n4a.py"
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
    path = Path(output_path)
    if path.name.endswith(".n4a"):
        path = path.with_name(path.name.removesuffix(".n4a"))
    target = target_path(path, ".py" if path.name.endswith(".py") else SUFFIX)
    package = pack_chain(source, chain_id)
    if not package.layout.expressible:
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
    environment = ", ".join(f"{name} {version}" for name, version in read_environment().items())
    described = json.dumps(_chain(package, title), sort_keys=True, indent=1, ensure_ascii=True)
    text = files("nirs_store.bundle").joinpath("standalone.py").read_text("utf-8")
    text = text.replace("@TITLE@", title).replace("@ENVIRONMENT@", environment)
    text = text.replace("@FILE@", _plain(file_name))
    # Text of users comes in last, so that nothing in it is taken for a place to fill.
    text = text.replace("OBJECTS: dict[str, str] = {}", f"OBJECTS: dict[str, str] = {_objects(package)}", 1)
    # JSON has no three quotes in a row: one inside a string stands behind a backslash, also in a raw string.
    return text.replace('json.loads(r"""{}""")', f'json.loads(r"""\n{described}\n""")', 1)


def _chain(package: Package, title: str) -> dict[str, Any]:
    """Reduce a chain to what the script needs."""
    chain = package.chain
    metadata = chain["metadata"] or {}
    steps = [step for step in chain["steps"] if step["operator_type"] not in (MODEL, SPLITTER, TARGETS)]
    targets = [step for step in chain["steps"] if step["operator_type"] == TARGETS]
    folds = chain["fold_artifacts"]
    alone = next(
        (
            step["artifact_id"]
            for step in chain["steps"]
            if step["operator_type"] == MODEL and "artifact_id" in step
        ),
        None,
    )
    weights = chain["fold_weights"]
    return {
        "title": title,
        "chain_id": chain["chain_id"],
        "steps": [{"kind": step["operator_type"], "objects": step["artifact_ids"]} for step in steps],
        "models": list(folds.values()) if folds else [alone],
        "weights": [weights[fold] for fold in folds] if weights else None,
        "targets": [identifier for step in targets for identifier in step["artifact_ids"]],
        "target": _plain(str(metadata.get("target") or "prediction")),
        "wavelengths": chain["wavelengths"],
    }


def _objects(package: Package) -> str:
    lines = ["{"]
    for payload in {payload.sha256: payload for payload in package.payloads}.values():
        text = base64.b64encode(payload.data).decode("ascii")
        lines.append(f'    "{payload.sha256}": """')
        lines += [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
        lines.append('""",')
    return "\n".join([*lines, "}"])


def _plain(text: str) -> str:
    """Keep what can stand in a docstring: names come from users."""
    return re.sub(r"[^\w .,:;()\[\]=+%/-]", "", text, flags=re.ASCII)[:120].strip()
