"""Bringing a bundle into a workspace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nirs_store.blobs.trusted import configuration_file
from nirs_store.bundle.card import readable
from nirs_store.bundle.contents import Contents, read_contents
from nirs_store.bundle.limits import DEFAULT_LIMITS, Limits
from nirs_store.bundle.reader import Bundle, open_contents
from nirs_store.bundle.strict_json import clean
from nirs_store.catalog import artifacts, imported, queries, records
from nirs_store.catalog.access import CatalogAccess
from nirs_store.catalog.audit_notes import note
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.imported import ImportedBundle
from nirs_store.chains.folds import chain_artifact_ids, chain_model_ids, stack_sources
from nirs_store.errors import InvalidInput, UntrustedBundle
from nirs_store.scores import is_figure

__all__ = ["ImportedBundle", "import_bundle"]

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
    contents = read_contents(Path(path), limits)
    bundle = open_contents(contents, allow_pickle, trusted)
    if contents.kind == "skops":
        _refuse_forgotten(contents)
    policy = {"allow_pickle": bool(allow_pickle), "trusted_types": sorted(trusted)}
    # Looked up and recorded under one lease, so that two imports of one bundle do not both add it.
    return engine.exclusive(lambda access: _bring_in(engine, access, contents, bundle, policy, name))


def _bring_in(
    engine: Engine,
    access: CatalogAccess,
    contents: Contents,
    bundle: Bundle,
    policy: Mapping[str, Any],
    name: str | None,
) -> ImportedBundle:
    digest = contents.content_hash
    known = access.transact(lambda con: imported.find_import(con, digest))
    facts = {"file": contents.path.name, "kind": contents.kind, **policy}
    if known is not None:
        run_id, pipeline_id, chain_id = known
        _heal(engine, access, contents)
        note(engine, "import_bundle", "bundle", digest, message="was there already", details=facts)
        return ImportedBundle(run_id, pipeline_id, chain_id, digest, added=False)
    with engine.recorder.transaction():
        run_id, pipeline_id, chain_id = _record(engine, contents, bundle, policy, name)
        facts |= {"run_id": run_id, "chain_id": chain_id}
        note(engine, "import_bundle", "bundle", digest, details=facts)
    return ImportedBundle(run_id, pipeline_id, chain_id, digest, added=True)


def _heal(engine: Engine, access: CatalogAccess, contents: Contents) -> None:
    """Give the workspace the bytes that it lost since it imported the same bundle, as saving an object again does."""
    data = {contents.hashes[member]: value for member, value in contents.payloads.items()}
    rows = access.transact(lambda con: queries.blob_rows(con, list(data)))
    artifacts.put_back(engine, rows, data)


def _record(
    engine: Engine, contents: Contents, bundle: Bundle, policy: Mapping[str, Any], name: str | None
) -> tuple[str, str, str]:
    chain, facts = bundle.chain, dict(contents.record.facts) if contents.record else {}
    units, scores = bundle.units, bundle.scores
    model = str(chain.get("model_class") or "model").rpartition(".")[2]
    target = str(units.get("target") or "")
    title = name or (f"{model} for {target}" if target else contents.path.stem)[:_TITLE]
    dataset = str(facts.get("dataset_name") or units.get("dataset_name") or "")[:_TITLE]
    config = clean(
        {
            "imported": {
                "content_hash": contents.content_hash,
                "file": contents.path.name,
                "kind": contents.kind,
                "format_version": contents.manifest.format_version,
                "origin": _origin(contents),
                "environment": dict(contents.record.environment) if contents.record else None,
                "policy": dict(policy),
            },
            "facts": facts,
            "scores": scores,
            "units": units,
            "card": None if contents.card is None else readable(contents.card),
        }
    )
    run_id = records.begin_run(engine, title, config, [{"name": dataset}] if dataset else [])
    pipeline_id = records.begin_pipeline(
        engine,
        run_id,
        title,
        {"steps": clean(chain["steps"])},
        [],
        dataset,
        str(facts.get("dataset_hash") or ""),
    )
    ids = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
    models = chain_model_ids(chain)
    fed_by = [source for step in chain["steps"] for source in stack_sources(step, "steps")]
    # What feeds a stack are models; what they feed is its meta-model.
    stacked = models - set().union(*map(chain_model_ids, fed_by)) if fed_by else set()
    data = {contents.hashes[member]: value for member, value in contents.payloads.items()}
    for artifact_id in ids:
        value = bundle.object_of(artifact_id)
        artifacts.save_bytes(
            engine,
            data[artifact_id],
            contents.kind,
            f"{type(value).__module__}.{type(value).__qualname__}",
            _artifact_type(artifact_id, models, stacked),
            contents.kind,
            pipeline_id,
        )
    chain_id = records.save_chain(
        engine,
        pipeline_id,
        steps=chain["steps"],
        model_step_idx=chain["model_step_idx"],
        model_class=str(chain.get("model_class") or ""),
        preprocessings=str(chain.get("preprocessings") or ""),
        fold_strategy=str(chain.get("fold_strategy") or ""),
        fold_artifacts=chain["fold_artifacts"],
        shared_artifacts=chain["shared_artifacts"],
        branch_path=chain.get("branch_path"),
        source_index=chain.get("source_index"),
        fold_weights=chain.get("fold_weights"),
        wavelengths=chain.get("wavelengths"),
        metadata=chain.get("metadata"),
        artifact_ids=ids,
    )
    value = next((scores[key] for key in ("rmsecv", "RMSECV") if is_figure(scores.get(key))), None)
    metric = None if value is None else "rmse"
    records.complete_pipeline(engine, pipeline_id, value, None, metric, None)
    summary = {"pipelines": 1, "best_pipeline_id": pipeline_id, "metric": metric, "best_val": value}
    records.complete_run(engine, run_id, summary)
    return run_id, pipeline_id, chain_id


def _artifact_type(artifact_id: str, models: set[str], stacked: set[str]) -> str:
    if artifact_id in stacked:
        return "meta_model"
    return "model" if artifact_id in models else "transformer"


def _refuse_forgotten(contents: Contents) -> None:
    """Refuse types that may be trusted for this call, and that the workspace could not load again tomorrow."""
    from nirs_store.blobs.skops_format import untrusted_types

    forgotten = sorted({name for data in contents.payloads.values() for name in untrusted_types(data)})
    if forgotten:
        raise UntrustedBundle(
            f"{contents.path} holds types that this workspace could not load again later: {', '.join(forgotten)}. "
            f"Nothing was imported. If you trust them for good, write them into {configuration_file()}, one a line; "
            "for once, use load_bundle(path, trusted_types=[...])."
        )


def _origin(contents: Contents) -> dict[str, Any]:
    origin = contents.record.origin if contents.record else None
    if origin is None:
        return {"chain_id": str(contents.manifest.get("chain_id") or ""), "writer": "another program"}
    return {
        "chain_id": origin.chain_id,
        "pipeline_id": origin.pipeline_id,
        "model_class": origin.model_class,
        "created_at": origin.created_at,
    }
