"""The tables that schema version 4 added, as they were then: what the migration makes never changes."""

from __future__ import annotations

__all__ = ["STATEMENTS"]

STATEMENTS = (
    "CREATE TABLE file_versions (version_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, test_name VARCHAR, "
    "version INTEGER NOT NULL, is_latest BOOLEAN NOT NULL, type VARCHAR NOT NULL, kind VARCHAR NOT NULL, status "
    "VARCHAR NOT NULL, mode VARCHAR NOT NULL, coverage VARCHAR, model_id VARCHAR, evaluation_id VARCHAR, suite "
    "VARCHAR, group_name VARCHAR, episode VARCHAR, module VARCHAR, module_version VARCHAR, run_id VARCHAR, "
    "processing_id VARCHAR, artifact_id VARCHAR, content_hash VARCHAR, size_bytes BIGINT NOT NULL, stored_bytes "
    "BIGINT NOT NULL, compression VARCHAR NOT NULL, compression_note VARCHAR, members JSON, tags JSON, metadata "
    "JSON, message VARCHAR, session_id VARCHAR, created_at TIMESTAMP NOT NULL, updated_at TIMESTAMP NOT NULL)",
    "CREATE TABLE file_aliases (alias_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, test_name VARCHAR, alias "
    "VARCHAR NOT NULL, version_id VARCHAR NOT NULL, made_at TIMESTAMP NOT NULL)",
    "CREATE TABLE file_retired (series VARCHAR PRIMARY KEY, version INTEGER NOT NULL)",
    "CREATE TABLE file_types (type VARCHAR PRIMARY KEY, description VARCHAR NOT NULL, metadata_schema JSON, "
    "made_at TIMESTAMP NOT NULL)",
    "CREATE TABLE processing_runs (processing_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, status VARCHAR NOT "
    "NULL, module VARCHAR, module_version VARCHAR, parameters JSON, message VARCHAR, session_id VARCHAR, "
    "started_at TIMESTAMP NOT NULL, ended_at TIMESTAMP)",
    "CREATE TABLE lineage_links (link_id VARCHAR PRIMARY KEY, source_kind VARCHAR NOT NULL, source_id VARCHAR "
    "NOT NULL, target_kind VARCHAR NOT NULL, target_id VARCHAR NOT NULL, link_type VARCHAR NOT NULL, metadata "
    "JSON, created_at TIMESTAMP NOT NULL)",
    "CREATE TABLE audit_entries (number BIGINT NOT NULL, made_at TIMESTAMP NOT NULL, user_name VARCHAR NOT "
    "NULL, host VARCHAR NOT NULL, pid INTEGER NOT NULL, operation VARCHAR NOT NULL, object_kind VARCHAR, "
    "object_id VARCHAR, success BOOLEAN NOT NULL, message VARCHAR, details JSON, previous_hash VARCHAR NOT "
    "NULL, entry_hash VARCHAR NOT NULL)",
    "CREATE TABLE settings (key VARCHAR PRIMARY KEY, value JSON, changed_at TIMESTAMP NOT NULL)",
    "CREATE TABLE pins (pin_id VARCHAR PRIMARY KEY, object_kind VARCHAR NOT NULL, object_id VARCHAR NOT NULL, "
    "reason VARCHAR, made_at TIMESTAMP NOT NULL)",
    "CREATE TABLE evaluations (evaluation_id VARCHAR PRIMARY KEY, model_id VARCHAR NOT NULL, suite VARCHAR NOT "
    "NULL, chain_id VARCHAR, run_id VARCHAR, status VARCHAR NOT NULL, metric VARCHAR NOT NULL, better VARCHAR "
    "NOT NULL, scores JSON NOT NULL, success_rate DOUBLE, n_episodes INTEGER, n_samples INTEGER, episodes_id "
    "VARCHAR, samples_id VARCHAR, files JSON, tags JSON, metadata JSON, environment JSON, message VARCHAR, "
    "created_at TIMESTAMP NOT NULL)",
    "CREATE TABLE champions (champion_id VARCHAR PRIMARY KEY, suite VARCHAR NOT NULL, metric VARCHAR NOT NULL, "
    "model_id VARCHAR NOT NULL, evaluation_id VARCHAR NOT NULL, rank INTEGER NOT NULL, value DOUBLE, "
    "previous_id VARCHAR, improvements JSON, chosen_by VARCHAR NOT NULL, note VARCHAR, made_at TIMESTAMP NOT "
    "NULL)",
    "CREATE TABLE backups (backup_id VARCHAR PRIMARY KEY, path VARCHAR NOT NULL, parent_id VARCHAR, size_bytes "
    "BIGINT NOT NULL, n_blobs INTEGER NOT NULL, catalog_hash VARCHAR NOT NULL, status VARCHAR NOT NULL, details "
    "JSON, created_at TIMESTAMP NOT NULL)",
)
