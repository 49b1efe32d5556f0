"""Recording runs, pipelines, chains and logs; predictions have a file of their own.

Each function checks everything first and adds rows last, so a call that raises leaves nothing
behind. None of them waits for another process: an id that is not known here is looked up for
at most a second, and accepted unseen while the catalog is busy.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.addresses import without_secret_words
from nirs_store.blobs.code import CODE
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.chains.plan import check_numbers, check_weights
from nirs_store.chains.steps import SPLITTER
from nirs_store.db.database import Connection
from nirs_store.db.journal import encode_array
from nirs_store.db.session import Engine
from nirs_store.db.sql import number
from nirs_store.db.table import Table, checked, fetch
from nirs_store.domain import DOMAIN, domain_id
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.ids import new_id, now_naive
from nirs_store.records import queries
from nirs_store.records.artifacts import add_reference, add_reference_transfer, claim_artifact, code_of
from nirs_store.records.notes import add_note, check_guard, short_error
from nirs_store.values import as_array, as_error, as_floats, as_name, as_text, one_of, target_of, to_json

# -- What a run was recorded with: Python, platform and the versions of the libraries that matter.


CONTAINER_VARIABLE = "NIRS_STORE_CONTAINER"
_CONTAINER_ID = re.compile(r"(?:docker|containers|libpod|kubepods|crio|cri-containerd)[^\n]*?([0-9a-f]{64})")

_PACKAGES = (
    "nirs-store",
    "numpy",
    "scipy",
    "scikit-learn",
    "joblib",
    "chemotools",
    "duckdb",
    "polars",
    "pyarrow",
)


@functools.cache
def environment() -> dict[str, str]:
    """Versions by name, and the git commit of the working folder; what is not there is left out."""
    # Looked up once a process.
    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    commit = (_git("rev-parse", "--verify", "HEAD") or "").strip()
    # Empty where there is no repository, or no git.
    if len(commit) in (40, 64) and set(commit) <= set("0123456789abcdef"):
        found["git-commit"] = commit
    return found


def capture_environment(
    *,
    seeds: int | Sequence[int] | Mapping[str, int] | None = None,
    container: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Capture in one call what it takes to do the same again.

    Give it to `WorkspaceStore.run` or `begin_run` as `environment`, where `compare` shows it.

    Parameters
    ----------
    seeds : int, sequence of int, or mapping of str to int, optional
        The seeds that the program was given.
    container : str, optional
        Digest of the container's image. By default what the variable ``NIRS_STORE_CONTAINER`` says, else the id
        of the container that the process runs in, as far as Linux tells.
    parameters : mapping, optional
        Plain data: what the program was told to do.
    command : sequence of str, optional
        The command line; by default that of this process. It is kept as it is: leave secrets out.

    Returns
    -------
    dict
        ``python``, ``platform`` and versions as every run has them; ``git-commit`` and ``git-dirty`` (whether
        tracked files differ from the commit) of the folder the program was started in; ``packages``, the
        version of everything installed; ``command``; ``seeds``, ``container``, ``parameters`` where known.

    Raises
    ------
    InvalidInput
        Seeds that are not whole numbers, or parameters that are not a mapping.

    Examples
    --------
    >>> found = capture_environment(seeds=[1, 2], parameters={"folds": 5})
    >>> found["seeds"], found["parameters"], found["packages"]["numpy"] == found["numpy"]
    ([1, 2], {'folds': 5}, True)
    """
    found: dict[str, Any] = {**environment()}
    dirty = _git_dirty() if "git-commit" in found else None
    if dirty is not None:
        found["git-dirty"] = dirty
    found["command"] = _words(sys.orig_argv if command is None else command)
    if seeds is not None:
        found["seeds"] = _seeds(seeds)
    image = container or os.environ.get(CONTAINER_VARIABLE) or _container_id()
    if image:
        found["container"] = str(image)
    if parameters is not None:
        if not isinstance(parameters, Mapping):
            raise InvalidInput(f"parameters: expected a mapping, found {type(parameters).__name__}.")
        found["parameters"] = dict(parameters)
    found["packages"] = dict(_packages())
    return found


def versions_only(captured: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the part of an environment that may leave with a model: no command line, no parameters."""
    return {
        str(name): value
        for name, value in (captured or {}).items()
        if isinstance(value, str) and name not in ("container", "command", "seeds", "parameters")
    }


def _words(command: Sequence[str]) -> list[str]:
    # Names of files need not be valid Unicode.
    words = [str(word).encode("utf-8", "backslashreplace").decode() for word in command]
    return without_secret_words(words)


def _seeds(seeds: int | Sequence[int] | Mapping[str, int]) -> list[int] | dict[str, int]:
    if isinstance(seeds, Mapping):
        return {str(name): _seed(seed) for name, seed in seeds.items()}
    listed: Any = seeds
    many = hasattr(listed, "__iter__") and not isinstance(listed, str)
    return [_seed(seed) for seed in (listed if many else [listed])]


def _seed(seed: Any) -> int:
    try:
        whole = int(seed)
        if isinstance(seed, str | bool) or whole != seed:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"seeds: expected whole numbers, found {seed!r}. Nothing was captured.") from error
    return whole


@functools.cache
def _packages() -> tuple[tuple[str, str], ...]:
    """Name and version of everything installed; looked up once a process."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a broken installation has none
            found.setdefault(str(name).lower().replace("_", "-"), distribution.version)
    return tuple(sorted(found.items()))


def _container_id() -> str | None:
    """Id of the container that this process runs in, where the kernel's tables say it."""
    for table in ("/proc/self/cgroup", "/proc/self/mountinfo"):
        try:
            match = _CONTAINER_ID.search(Path(table).read_text("utf-8", "replace"))
        except OSError:
            continue
        if match is not None:
            return match[1]
    return None


@functools.cache
def _git_dirty() -> bool | None:
    """Whether tracked files differ from the commit; like the commit, as it was when first looked up."""
    answer = _git("status", "--porcelain", "--untracked-files=no")
    return None if answer is None else bool(answer.strip())


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return answer.stdout


_LEVELS = ("debug", "info", "warning", "error", "critical")


def require(engine: Engine, kind: str, identifier: str) -> dict[str, Any] | None:
    """Return what is known of an id; None while the catalog is busy and the id is not known here."""
    engine.check_writable(closely=False)
    known = engine.id_cache.get(kind, identifier) if isinstance(identifier, str) else None
    if known is not None:
        return dict(known)
    if not isinstance(identifier, str) or not identifier:
        raise UnknownId(kind, identifier)
    if engine.recorder.find(queries.ID_COLUMNS[kind][0], identifier) is not None:
        # Not forgotten with everything else when something was deleted meanwhile.
        return None
    answered, note = engine.look_up(lambda con: queries.note_of(con, kind, identifier))
    if not answered:
        return None
    if note is None:
        raise UnknownId(kind, identifier, "Nothing was recorded.")
    engine.id_cache.add(kind, identifier, note)
    return note


# -- runs ------------------------------------------------------------------------------------


def add_environment(engine: Engine, run_id: str, captured: Mapping[str, Any]) -> None:
    """Merge a captured environment into that of a run that has begun."""
    require(engine, "run", run_id)
    text = to_json(captured, "environment")
    sql = (
        "UPDATE runs SET environment = json_merge_patch(coalesce(environment, '{}'::JSON), ?::JSON) "
        "WHERE run_id = ?"
    )
    if not engine.change(lambda con: number(con, sql, [text, run_id])):
        raise UnknownId("run", run_id, "It was deleted. Nothing was recorded.")


def begin_run(
    engine: Engine,
    name: str,
    config: Any,
    datasets: Any,
    captured: Mapping[str, Any] | None = None,
) -> str:
    """Record a run and commit it, with what was captured of its environment, or the versions alone."""
    engine.check_writable()
    run_id, named = new_id(), _datasets(datasets)
    row = {
        "run_id": run_id,
        "name": as_name(name, "name"),
        "config": to_json(config, "config"),
        "datasets": to_json(named, "datasets"),
        "status": "running",
        "created_at": now_naive(),
        "session_id": engine.session_id,
        "environment": to_json({**environment(), **_as_dict(captured, "environment")}, "environment"),
    }
    check_guard(engine, {"name": name, "config": config, "datasets": named})
    with engine.recording(commit=True) as buffer:
        buffer.add("runs", row)
        add_note(engine, buffer, "begin_run", "run", run_id, details={"name": row["name"]})
        engine.id_cache.add("run", run_id, {})
    return run_id


def _datasets(given: Any) -> list[Any]:
    """Normalize `datasets` to a list; a single name or mapping becomes a one-item list."""
    if given is None:
        return []
    if isinstance(given, (str, Mapping)):
        listed = [given] if given else []
    else:
        listed = as_list(given, "datasets", "names or dicts")
    for each in listed:
        named = each.get("name") if isinstance(each, Mapping) else each
        if isinstance(named, str):
            as_name(named, "datasets")
    return listed


def _as_dict(value: Any, name: str) -> dict[Any, Any]:
    try:
        return dict(value or {})
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{name}: expected a dict, found {type(value).__name__} {value!r}. Nothing was recorded."
        ) from error


def as_list(value: Any, name: str, what: str) -> list[Any]:
    """Return a list of what was given as one."""
    # What has an order and letters or keys for items would be taken apart without a word.
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InvalidInput(
            f"{name}: expected a list of {what}, found {type(value).__name__} {value!r}. Nothing was recorded."
        )
    return list(value)


def complete_run(engine: Engine, run_id: str, summary: Any) -> None:
    """Commit everything and mark the run as completed."""
    require(engine, "run", run_id)
    check_guard(engine, {"summary": summary})
    _finish(engine, "complete_run", run_id, {"summary": summary})


def edit_run(
    engine: Engine,
    run_id: str,
    *,
    name: str | None = None,
    note: str | None = None,
    add_tags: Sequence[str] = (),
    remove_tags: Sequence[str] = (),
) -> None:
    """Change what may be changed of a run, finished or not: its name, note and tags."""
    require(engine, "run", run_id)
    payload: dict[str, Any] = {}
    if name is not None:
        payload["name"] = as_name(name, "name")
    if note is not None:
        payload["note"] = as_text(note, "note")
    for key, tags in (("add_tags", add_tags), ("remove_tags", remove_tags)):
        if tags:
            payload[key] = [_tag(tag) for tag in tags]
    check_guard(engine, {name: value for name, value in payload.items() if name != "remove_tags"})
    with engine.recording(commit=True) as buffer:
        buffer.change("edit_run", run_id, payload)
        add_note(engine, buffer, "edit_run", "run", run_id, details=payload)


def _tag(tag: Any) -> str:
    text = as_name(tag, "tag").strip()
    if not text or "," in text:
        raise InvalidInput(
            f"tag: expected a word or phrase without commas, found {tag!r}. Nothing was changed."
        )
    return text


def fail_run(engine: Engine, run_id: str, error: str) -> None:
    """Mark the run, and the pipelines it left unfinished, as failed."""
    require(engine, "run", run_id)
    _finish(engine, "fail_run", run_id, {"error": as_error(error)})
    # Its pipelines failed with it; the next call that names one looks it up and is told.
    engine.id_cache.forget_noted("pipeline", "run_id", run_id)


def _finish(engine: Engine, kind: str, identifier: str, payload: Mapping[str, Any]) -> None:
    with engine.recording(commit=True) as buffer:
        buffer.change(kind, identifier, payload)
        failed = payload.get("error") if kind.startswith("fail") else None
        add_note(
            engine,
            buffer,
            kind,
            kind.partition("_")[2],
            identifier,
            success=failed is None,
            message=None if failed is None else short_error(failed),
        )


# -- pipelines ---------------------------------------------------------------------------------


def begin_pipeline(
    engine: Engine,
    run_id: str,
    name: str,
    expanded_config: Any,
    generator_choices: Any,
    dataset_name: str,
    dataset_hash: str | None,
) -> str:
    """Record a pipeline and commit it."""
    require(engine, "run", run_id)
    pipeline_id = new_id()
    values = {
        "pipeline_id": pipeline_id,
        "run_id": run_id,
        "name": as_name(name, "name"),
        "expanded_config": expanded_config,
        "generator_choices": generator_choices,
        # Empty where the caller does not say.
        "dataset_name": dataset_name if dataset_name == "" else as_name(dataset_name, "dataset_name"),
        "dataset_hash": dataset_hash,
        "status": "running",
        "created_at": now_naive(),
        "session_id": engine.session_id,
    }
    row = checked("pipelines", values)
    check_guard(
        engine, {"name": name, "expanded_config": expanded_config, "generator_choices": generator_choices}
    )
    with engine.recording(commit=True) as buffer:
        buffer.add("pipelines", row)
        add_note(engine, buffer, "begin_pipeline", "pipeline", pipeline_id)
        engine.id_cache.add("pipeline", pipeline_id, {"run_id": run_id, "status": "running"})
    return pipeline_id


def complete_pipeline(
    engine: Engine,
    pipeline_id: str,
    best_val: float | None,
    best_test: float | None,
    metric: str | None,
    duration_ms: int | None,
) -> None:
    """Commit everything and mark the pipeline as completed."""
    note = require(engine, "pipeline", pipeline_id)
    values = {"best_val": best_val, "best_test": best_test, "metric": metric, "duration_ms": duration_ms}
    payload = checked("pipelines", values)
    _finish(engine, "complete_pipeline", pipeline_id, payload)
    _note_end(engine, pipeline_id, note, "completed")


def _note_end(engine: Engine, pipeline_id: str, note: Mapping[str, Any] | None, status: str) -> None:
    # The first final state wins, here as in the catalog. Where nothing is known the catalog is asked.
    if note is not None and note.get("status") == "running":
        engine.id_cache.add("pipeline", pipeline_id, {**note, "status": status})


def fail_pipeline(engine: Engine, pipeline_id: str, error: str) -> None:
    """Mark the pipeline as failed; what it recorded is rolled back, its row and logs stay."""
    note = require(engine, "pipeline", pipeline_id)
    if note is not None and note.get("status") in ("failed", "completed"):
        with engine.recording(commit=True):
            return  # what is buffered is still committed
    _finish(engine, "fail_pipeline", pipeline_id, {"error": as_error(error)})
    _note_end(engine, pipeline_id, note, "failed")


def require_open_pipeline(engine: Engine, pipeline_id: str) -> None:
    """Check that a pipeline exists and takes rows, as far as it is known here."""
    note = require(engine, "pipeline", pipeline_id)
    if note is not None and note.get("status") == "failed":
        raise InvalidInput(
            f"Pipeline {pipeline_id} has failed and was rolled back; it takes no more rows. Begin another pipeline."
        )


# -- chains ------------------------------------------------------------------------------------


def save_chain(
    engine: Engine,
    pipeline_id: str,
    steps: list[dict[str, Any]],
    model_step_idx: int,
    model_class: str,
    preprocessings: str,
    fold_strategy: str,
    fold_artifacts: Mapping[Any, Any],
    shared_artifacts: Mapping[Any, Any],
    branch_path: Sequence[int] | None,
    source_index: int | None,
    fold_weights: Mapping[str, float] | None,
    wavelengths: Any,
    metadata: Mapping[str, Any] | None,
    artifact_ids: Sequence[str] | None = None,
) -> str:
    """Record a chain; it takes over this session's references to the artifacts it names."""
    # An import names the `artifact_ids`: it has checked the chain, and its metadata stay as they are.
    if artifact_ids is None:
        artifact_ids = chain_artifact_ids(steps, fold_artifacts, shared_artifacts)
        if (of_domain := domain_id(metadata)) is not None and of_domain not in artifact_ids:
            artifact_ids.append(of_domain)
        check_numbers(steps, model_step_idx, source_index)
        check_weights(fold_weights, fold_artifacts, steps, model_step_idx)
        # How the samples were split does not matter to a prediction.
        used = [step for step in steps if step.get("operator_type") != SPLITTER]
        needed = chain_artifact_ids(used, fold_artifacts, shared_artifacts)
        if CODE not in (metadata or {}) and (code := code_of(engine, needed)):
            metadata = {**(metadata or {}), CODE: code}
    require_open_pipeline(engine, pipeline_id)
    chain_id = new_id()
    grid = None if wavelengths is None else _wavelengths(wavelengths)
    about = _as_dict(metadata, "metadata")
    if branch_path is not None:
        branch_path = as_list(branch_path, "branch_path", "branches, outermost first")
    row = target_of(about) | checked(
        "chains",
        {
            "chain_id": chain_id,
            "pipeline_id": pipeline_id,
            "steps": list(steps),
            "model_step_idx": model_step_idx,
            "model_class": model_class,
            "preprocessings": preprocessings,
            "fold_strategy": fold_strategy,
            "fold_artifacts": dict(fold_artifacts or {}),
            "shared_artifacts": dict(shared_artifacts or {}),
            "branch_path": branch_path,
            "source_index": source_index,
            "fold_weights": fold_weights,
            "metadata": about,
            "created_at": now_naive(),
        },
    )
    check_guard(engine, {"metadata": metadata})
    engine.check_writable(closely=False)
    with ExitStack() as claims:
        known = {}
        for artifact_id in artifact_ids:
            known[artifact_id] = claim_artifact(engine, claims, artifact_id)
        with engine.recording() as buffer:
            if grid is not None:
                row["wavelengths"] = buffer.add_array(encode_array(grid, "wavelengths")[0])
            buffer.add("chains", row)
            for artifact_id in artifact_ids:
                add_reference(buffer, artifact_id, known[artifact_id], "chain", chain_id, pipeline_id)
                add_reference_transfer(engine, buffer, artifact_id)
            engine.id_cache.add("chain", chain_id, {"pipeline_id": pipeline_id})
    return chain_id


def set_domain(con: Connection, chain_id: str, artifact_id: str, session_id: str) -> None:
    """Name an artifact as the domain of a chain, which takes it over from the session that saved it."""
    chains = fetch(con, "SELECT metadata, pipeline_id FROM chains WHERE chain_id = ?", [chain_id])
    if not chains:
        raise UnknownId("chain", chain_id)
    known = chains[0]["metadata"] or {}
    Table(con, "chains").update({"metadata": known | {DOMAIN: artifact_id}}, chain_id=chain_id)
    refs, before = Table(con, "artifact_refs"), domain_id(known)
    if before is not None:
        refs.delete(owner_kind="chain", owner_id=chain_id, artifact_id=before)
    refs.delete(owner_kind="session", owner_id=session_id, artifact_id=artifact_id)
    held = {
        "owner_kind": "chain",
        "owner_id": chain_id,
        "pipeline_id": chains[0]["pipeline_id"],
        "created_at": now_naive(),
    }
    refs.insert([{"ref_id": new_id(), "artifact_id": artifact_id, **held}])


def _wavelengths(values: Any) -> np.ndarray:
    try:
        grid = as_floats(as_array(values, "wavelengths"))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"wavelengths: expected numbers only: {error}. Nothing was recorded.") from error
    if grid.ndim != 1 or not grid.size or not np.isfinite(grid).all():
        raise InvalidInput(
            f"wavelengths: expected a one-dimensional list of finite numbers, found shape {grid.shape}. "
            "Nothing was recorded."
        )
    return grid


# -- logs --------------------------------------------------------------------------------------


def log_step(
    engine: Engine,
    pipeline_id: str,
    step_idx: int,
    operator_class: str | None,
    event: str,
    duration_ms: int | None,
    message: str | None,
    details: Any,
    level: str,
) -> None:
    """Record one log line."""
    require(engine, "pipeline", pipeline_id)
    one_of("level", level, _LEVELS, " Nothing was recorded.")
    values = {
        "log_id": new_id(),
        "pipeline_id": pipeline_id,
        "step_idx": step_idx,
        "operator_class": operator_class,
        "event": event,
        "duration_ms": duration_ms,
        "message": message,
        "details": details,
        "level": level,
        "created_at": now_naive(),
    }
    row = checked("logs", values)
    check_guard(engine, {"message": message, "details": details})
    with engine.recording() as buffer:
        buffer.add("logs", row)
