"""What leaves a workspace as a file, and what comes in as a bundle."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from nirs_store.addresses import user_path
from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.blobs.serializers import untrusted_types
from nirs_store.blobs.trusted import configuration_file
from nirs_store.bundle.card import readable
from nirs_store.bundle.container import DEFAULT_LIMITS, Limits, clean
from nirs_store.bundle.contents import Contents, read_contents
from nirs_store.bundle.manifest import stated
from nirs_store.bundle.reader import Bundle, domain_bytes, open_contents
from nirs_store.bundle.writer import target_path
from nirs_store.chains.folds import chain_artifact_ids, chain_model_ids, stack_sources
from nirs_store.db.database import Connection, Database
from nirs_store.db.recorder import IdCache
from nirs_store.db.session import Engine
from nirs_store.domain import DOMAIN_CLASS, domain_id
from nirs_store.errors import InvalidInput, UnknownId, UntrustedBundle
from nirs_store.lazy import polars as pl
from nirs_store.records import artifacts, queries, ranking
from nirs_store.records import predictions as prediction_queries
from nirs_store.records import runs as records
from nirs_store.records.notes import note
from nirs_store.records.ranking import SCORED_ARRAYS, Arrays, chain_scores, count_folds, needed_arrays
from nirs_store.records.runs import versions_only
from nirs_store.scores import SCORE_COLUMNS, default_metric, is_classification, is_figure

# -- Looking up what came into a workspace as a bundle.


@dataclass(frozen=True)
class ImportedBundle:
    """A bundle that is in the workspace.

    Attributes
    ----------
    run_id, pipeline_id, chain_id : str
        Where it is; `WorkspaceStore.replay_chain` takes the chain.
    content_hash : str
        SHA-256 over its objects and its chain.
    added : bool
        False when the same content had been imported before, and nothing was added. Files of its objects that were
        lost or damaged since then are back.
    """

    run_id: str
    pipeline_id: str
    chain_id: str
    content_hash: str
    added: bool

    def __repr__(self) -> str:
        state = "imported" if self.added else "was there already"
        return f"<ImportedBundle: {state}; run_id={self.run_id!r}, chain_id={self.chain_id!r}>"


def find_import(con: Connection, content_hash: str) -> tuple[str, str, str] | None:
    """Return run, pipeline and chain of the oldest import of a content that is still there, or None."""
    found = con.execute(
        "SELECT run_id, pipeline_id, chain_id FROM runs JOIN pipelines USING (run_id) JOIN chains USING (pipeline_id) "
        "WHERE runs.status = 'completed' AND json_extract_string(runs.config, '$.imported.content_hash') = ? "
        "ORDER BY runs.created_at, run_id, chain_id LIMIT 1",
        [content_hash],
    ).fetchone()
    return None if found is None else (str(found[0]), str(found[1]), str(found[2]))


# -- Writing configuration, runs and predictions out as JSON, YAML and Parquet.


def _write(output_path: Path, data: bytes) -> Path:
    target = target_path(output_path, "")
    ensure_dir(target.parent)
    write_file(target, data)
    return target


def export_pipeline_config(engine: Engine, pipeline_id: str, output_path: Path) -> Path:
    """Write a pipeline's expanded configuration, and nothing else, as JSON."""
    row = engine.query(lambda con: queries.get_pipeline(con, pipeline_id, engine.living_sessions()))
    if row is None:
        raise UnknownId("pipeline", pipeline_id, "Nothing was written.")
    config = msgspec.json.encode(row["expanded_config"])
    return _write(output_path, msgspec.json.format(config, indent=2))


def export_run(engine: Engine, run_id: str, output_path: Path) -> Path:
    """Write a run with its pipelines and chains as YAML."""

    def ask(con: Connection) -> dict[str, Any] | None:
        alive = engine.living_sessions()
        run = queries.get_run(con, run_id, alive)
        if run is None:
            return None
        run["pipelines"] = []
        for pipeline_id in queries.list_pipelines(con, alive, run_id, None)["pipeline_id"].reverse():
            pipeline = queries.get_pipeline(con, pipeline_id, alive) or {}
            ids = queries.chains_for_pipeline(con, pipeline_id)["chain_id"]
            pipeline["chains"] = [queries.get_chain(con, chain_id) for chain_id in ids]
            run["pipelines"].append(pipeline)
        return run

    run = engine.query(ask)
    if run is None:
        raise UnknownId("run", run_id, "Nothing was written.")
    plain = msgspec.json.decode(msgspec.json.encode(run, enc_hook=lambda value: value.tolist()))
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return _write(output_path, text.encode())


def export_predictions_parquet(
    engine: Engine, output_path: Path, *, include_arrays: bool, **filters: Any
) -> Path:
    """Write predictions as Parquet, with their arrays as lists on request."""

    def ask(con: Connection) -> tuple[pl.DataFrame, dict[str, dict[str, Any]]]:
        limit, offset = filters.pop("limit", None), filters.pop("offset", 0)
        table = prediction_queries.query_predictions(con, limit, offset, **filters)
        ids = table["prediction_id"].to_list() if include_arrays else []
        return table, prediction_queries.load_arrays(con, ids)

    table, arrays = engine.query(ask)
    if include_arrays:
        for name in prediction_queries.ARRAY_NAMES:
            values = [arrays.get(key, {}).get(name) for key in table["prediction_id"]]
            table = table.with_columns(_column(name, values))
    sink = io.BytesIO()
    table.write_parquet(sink)
    return _write(output_path, sink.getvalue())


def _column(name: str, values: list[np.ndarray | None]) -> pl.Series:
    """Return the arrays of a table's rows as one column of lists."""
    given = [value for value in values if value is not None]
    # Predictions of one column may be (n,) here and (n, 1) there; a column has one nesting.
    depth = max((value.ndim for value in given), default=1)
    units = {np.datetime_data(value.dtype)[0] for value in given if value.dtype.kind in "mM"}
    kinds = {value.dtype.kind for value in given if value.size}
    fine = "ns" in units and bool(kinds)
    if "c" in kinds or units & {"ps", "fs", "as"} or (fine and kinds not in ({"M"}, {"m"})):
        raise InvalidInput(
            f"{name}: a column of Parquet has no complex numbers, no times finer than nanoseconds, and no mixture "
            f"of these with other types; found arrays of {', '.join(sorted({str(value.dtype) for value in given}))}. "
            "Nothing was written. Export without arrays, or other predictions."
        )
    if fine:
        # Python's own times end at microseconds, so numpy gives whole numbers for these.
        inner = pl.Datetime("ns") if kinds == {"M"} else pl.Duration("ns")
        lists = [None if value is None else _nested(_nanoseconds(value), depth) for value in values]
        return pl.Series(name, lists, _lists(pl.Int64(), depth)).cast(_lists(inner, depth))
    lists = [None if value is None else _nested(value, depth) for value in values]
    # strict=False settles on one type for the whole column, not on that of its first rows.
    return pl.Series(name, lists, strict=False) if any(lists) else pl.Series(name, lists, pl.List(pl.Float64))


def _nested(value: np.ndarray, depth: int) -> list[Any]:
    nested: list[Any] = value.reshape(value.shape + (1,) * (depth - value.ndim)).tolist()
    return nested


def _nanoseconds(value: np.ndarray) -> np.ndarray:
    if not value.size:
        return value
    fine = value.astype(f"{value.dtype.kind}8[ns]")
    numbers = fine.astype(np.int64).astype(object)
    numbers[np.isnat(fine)] = None
    return numbers


def _lists(inner: pl.DataType, depth: int) -> pl.DataType:
    for _ in range(depth):
        inner = pl.List(inner)
    return inner


# -- Bringing a bundle into a workspace.


# A stranger's name for target or data set may be as long as a book.
_TITLE = 200


def import_bundle(
    engine: Engine,
    path: str | Path,
    *,
    allow_pickle: bool = False,
    trusted_types: Iterable[str] = (),
    limits: Limits = DEFAULT_LIMITS,
    name: str | None = None,
) -> ImportedBundle:
    """Import a bundle; see `WorkspaceStore.import_bundle`."""
    engine.check_writable()
    if isinstance(trusted_types, str):
        raise InvalidInput("trusted_types: expected a list of names, found one text. Nothing was imported.")
    trusted = tuple(trusted_types)
    contents = read_contents(user_path(path), limits)
    bundle = open_contents(contents, allow_pickle, trusted)
    if contents.kind == "skops":
        _refuse_forgotten(contents)
    policy = {"allow_pickle": bool(allow_pickle), "trusted_types": sorted(trusted)}
    # Looked up and recorded under one lock, so that two imports of one bundle do not both add it; on several computers
    # each replica has a lock of its own.
    with engine.journal.alone_with(f"bundle {contents.content_hash}"):
        return engine.exclusive(lambda access: _bring_in(engine, access, contents, bundle, policy, name))


def _bring_in(
    engine: Engine,
    access: Database,
    contents: Contents,
    bundle: Bundle,
    policy: Mapping[str, Any],
    name: str | None,
) -> ImportedBundle:
    digest = contents.content_hash
    known = access.transact(lambda con: find_import(con, digest))
    facts = {"file": contents.path.name, "kind": contents.kind, **policy}
    if known is not None:
        # The workspace gets back the bytes that it lost since it imported the bundle, as on saving an object again.
        data = {contents.hashes[member]: value for member, value in contents.payloads.items()}
        rows = access.transact(lambda con: queries.blob_rows(con, list(data)))
        artifacts.put_back(engine, rows, data)
        note(engine, "import_bundle", "bundle", digest, message="was there already", details=facts)
        return ImportedBundle(*known, digest, added=False)
    with engine.recorder.transaction():
        run_id, pipeline_id, chain_id = _record(engine, contents, bundle, policy, name)
        note(
            engine,
            "import_bundle",
            "bundle",
            digest,
            details={**facts, "run_id": run_id, "chain_id": chain_id},
        )
    return ImportedBundle(run_id, pipeline_id, chain_id, digest, added=True)


def _record(
    engine: Engine, contents: Contents, bundle: Bundle, policy: Mapping[str, Any], name: str | None
) -> tuple[str, str, str]:
    chain, facts, units, scores = bundle.chain, bundle.facts, bundle.units, bundle.scores
    model = str(chain.get("model_class") or "model").rpartition(".")[2]
    target = str(units.get("target") or "")
    title = name or (f"{model} for {target}" if target else contents.path.stem)[:_TITLE]
    dataset = str(facts.get("dataset_name") or units.get("dataset_name") or "")[:_TITLE]
    origin: Any = {"chain_id": str(contents.manifest.get("chain_id") or ""), "writer": "another program"}
    if contents.record is not None:
        origin = msgspec.to_builtins(contents.record.origin)
    config = clean(
        {
            "imported": {
                "content_hash": contents.content_hash,
                "file": contents.path.name,
                "kind": contents.kind,
                "format_version": contents.manifest.format_version,
                "origin": origin,
                "environment": stated(contents.record, "environment") or None,
                "policy": dict(policy),
            },
            "facts": facts,
            "scores": scores,
            "units": units,
            "card": None if contents.card is None else readable(contents.card),
        }
    )
    run_id = records.begin_run(engine, title, config, [{"name": dataset}] if dataset else [])
    known_hash, steps = str(facts.get("dataset_hash") or ""), {"steps": clean(chain["steps"])}
    pipeline_id = records.begin_pipeline(engine, run_id, title, steps, [], dataset, known_hash)
    ids = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
    models = chain_model_ids(chain)
    fed_by = [source for step in chain["steps"] for source in stack_sources(step, "steps")]
    # What feeds a stack are models; what they feed is its meta-model.
    stacked = models - set().union(*map(chain_model_ids, fed_by)) if fed_by else set()
    data = {contents.hashes[member]: value for member, value in contents.payloads.items()}
    for artifact_id in ids:
        cls = type(bundle.object_of(artifact_id))
        role = "model" if artifact_id in models else "transformer"
        artifacts.save_bytes(
            engine,
            data[artifact_id],
            contents.kind,
            f"{cls.__module__}.{cls.__qualname__}",
            "meta_model" if artifact_id in stacked else role,
            contents.kind,
            pipeline_id,
        )
    of_domain = domain_bytes(contents)
    if of_domain is not None:
        ids.append(
            artifacts.save_bytes(engine, of_domain, "bin", DOMAIN_CLASS, "domain", "bytes", pipeline_id)
        )
    others = ("branch_path", "source_index", "fold_weights", "wavelengths", "metadata")
    rest: dict[str, Any] = {key: chain.get(key) for key in others}
    rest |= {key: str(chain.get(key) or "") for key in ("model_class", "preprocessings", "fold_strategy")}
    chain_id = records.save_chain(
        engine,
        pipeline_id,
        steps=chain["steps"],
        model_step_idx=chain["model_step_idx"],
        fold_artifacts=chain["fold_artifacts"],
        shared_artifacts=chain["shared_artifacts"],
        artifact_ids=ids,
        **rest,
    )
    value = next((scores[key] for key in ("rmsecv", "RMSECV") if is_figure(scores.get(key))), None)
    metric = None if value is None else "rmse"
    records.complete_pipeline(engine, pipeline_id, value, None, metric, None)
    summary = {"pipelines": 1, "best_pipeline_id": pipeline_id, "metric": metric, "best_val": value}
    records.complete_run(engine, run_id, summary)
    return run_id, pipeline_id, chain_id


def _refuse_forgotten(contents: Contents) -> None:
    """Refuse types that may be trusted for this call, and that the workspace could not load again tomorrow."""
    forgotten = sorted({name for data in contents.payloads.values() for name in untrusted_types(data)})
    if forgotten:
        raise UntrustedBundle(
            f"{contents.path} holds types that this workspace could not load again later: {', '.join(forgotten)}. "
            f"Nothing was imported. If you trust them for good, write them into {configuration_file()}, one a line; "
            "for once, use load_bundle(path, trusted_types=[...])."
        )


# -- Looking up what an export of a chain needs.


@dataclass(frozen=True)
class _Found:
    """What the catalog says about one chain, now."""

    chain: dict[str, Any]
    origin: dict[str, Any] | None
    artifacts: dict[str, dict[str, Any]]
    predictions: list[dict[str, Any]]
    merits: dict[str, Any] | None


class ExportSource:
    """One stored chain, as an export looks things up in it (a `nirs_store.bundle.pack.ChainSource`)."""

    def __init__(self, engine: Engine, chain_id: str) -> None:
        self._engine = engine
        self._chain_id = chain_id
        # The entry that the last export left in the audit trail need not be in the catalog for this one.
        self._found = engine.query(lambda con: _ask(con, chain_id, engine.id_cache), notes=False)
        for artifact_id, row in (self._found.artifacts if self._found else {}).items():
            engine.id_cache.add("artifact", artifact_id, {name: row[name] for name in queries.BLOB_NOTE})

    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        """Return the chain."""
        return self._found.chain if self._found and chain_id == self._chain_id else None

    def get_artifact(self, artifact_id: str) -> dict[str, Any] | None:
        """Return the row of one of its artifacts."""
        return self._found.artifacts.get(artifact_id) if self._found else None

    def read_artifact(self, artifact_id: str) -> bytes:
        """Return the stored bytes of an artifact, checked against their hash."""
        return artifacts.read_artifact(self._engine, artifact_id)

    def described(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of an export with what the workspace knows about the model; what was given wins."""
        found = self._found
        if found is None or found.origin is None:
            return dict(options)  # the export says what is missing
        tests = [one for one in found.predictions if one["partition"] == "test"]
        newest = max(tests, key=lambda one: (one["created_at"], one["prediction_id"]), default=None)
        n_test = None if newest is None else newest["n_samples"]
        config = found.origin["config"] if isinstance(found.origin.get("config"), dict) else {}
        scores = {**known_scores(found.merits, config), **(options.get("scores") or {})}
        facts = known_facts(found.origin, found.merits, n_test)
        return {**options, "scores": scores, "facts": {**facts, **(options.get("facts") or {})}}


def _ask(con: Connection, chain_id: str, known: IdCache) -> _Found | None:
    chain = queries.get_chain(con, chain_id)
    if chain is None:
        return None
    origin = queries.origin_of_chain(con, chain["pipeline_id"])
    ids = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
    if (of_domain := domain_id(chain["metadata"])) is not None:
        ids.append(of_domain)
    notes = {artifact_id: known.get("artifact", artifact_id) for artifact_id in ids}
    missing = [ident for ident, note in notes.items() if not artifacts.is_settled(ident, note)]
    if missing:
        notes |= queries.blob_rows(con, missing)
    rows = ranking.predictions_of_chain(con, chain_id)
    needed, arrays = needed_arrays(rows), {}
    if needed:
        arrays = prediction_queries.load_arrays(con, needed, SCORED_ARRAYS, pipeline_id=chain["pipeline_id"])
    merits = _merits(chain, rows, arrays) if rows else None
    return _Found(chain, origin, {key: note for key, note in notes.items() if note}, rows, merits)


def _merits(chain: Mapping[str, Any], predictions: list[dict[str, Any]], arrays: Arrays) -> dict[str, Any]:
    """Return the scores of a chain, as its row of the leaderboard has them, and what they were computed from."""
    classifies = is_classification(predictions[0]["task_type"])
    task = "classification" if classifies else "regression"
    about = chain["metadata"]
    known = {
        "classes": about.get("classes"),
        "fold_weights": chain["fold_weights"],
        "repeats": about.get("repeats"),
        "n_data": about.get("n_samples"),
        "pooled": None,
        "fold_sd": None,
    }
    scores = chain_scores(known, predictions, arrays, task, default_metric(task))
    return scores | count_folds(known, predictions)


def known_scores(row: Mapping[str, Any] | None, config: Mapping[str, Any]) -> dict[str, float]:
    """Collect the figures of merit of a chain: its row of the leaderboard, else what it was imported with."""
    stated = config.get("scores") if config.get("imported") else None
    found = dict(stated) if isinstance(stated, Mapping) else {}
    for name in (*SCORE_COLUMNS["regression"], *SCORE_COLUMNS["classification"]):
        if row is not None and is_figure(row.get(name)):
            found[name] = row[name]
    return found


def known_facts(
    origin: Mapping[str, Any], row: Mapping[str, Any] | None, n_test: int | None
) -> dict[str, Any]:
    """Collect what the card of a chain says besides scores and units, from its pipeline, run and scores."""
    config = origin.get("config") or {}
    if isinstance(config, Mapping) and config.get("imported"):
        facts, before = config.get("facts"), config["imported"].get("origin") or {}
        source = f"from {config['imported'].get('file')}, chain {before.get('chain_id') or 'unknown'}"
        return {**(facts if isinstance(facts, Mapping) else {}), "imported_from": source}
    environment = versions_only(origin.get("environment"))
    return {
        **{name: origin.get(name) for name in ("dataset_name", "dataset_hash", "run_name", "pipeline_name")},
        "created_at": clean(origin.get("created_at")),
        "git_commit": environment.pop("git-commit", None),
        "environment": environment,
        "n_samples": None if row is None else row.get("n_samples"),
        "n_folds": None if row is None else row.get("n_folds"),
        "n_test_samples": n_test,
    }
