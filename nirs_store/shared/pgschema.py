"""The tables and functions in PostgreSQL: the log of each workspace, its living sessions, and the keys of blobs.

Everything is in the schema ``nirs_store``. Writers call functions; only an administrator may update or delete a row.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from nirs_store.errors import InvalidInput

VERSION = 1

# Errors that the functions raise, in a class of SQLSTATE of their own.
NO_WORKSPACE, SCHEMA_DIFFERS, SESSION_ENDED = "NS001", "NS002", "NS003"

_DDL = """
CREATE TABLE nirs_store.meta (version int NOT NULL);
CREATE TABLE nirs_store.workspaces (
    ws uuid PRIMARY KEY, name text NOT NULL UNIQUE, schema_version int NOT NULL, head bigint NOT NULL DEFAULT 0,
    floor bigint NOT NULL DEFAULT 0, rejections bigint NOT NULL DEFAULT 0, settings_n bigint NOT NULL DEFAULT 0,
    snapshot_n bigint, snapshot_key text,
    snapshot_sha256 text, blobs_url text NOT NULL, made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- One row per commit, numbered under the lock of the workspace's row: the order of numbers is the order of commits.
-- A row outlives its body: a commit that is sent again after months is still known.
CREATE TABLE nirs_store.log (
    ws uuid NOT NULL, n bigint NOT NULL, txid text NOT NULL, kind text NOT NULL, session text NOT NULL,
    holder text NOT NULL, library text NOT NULL, made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    bytes bigint NOT NULL, body bytea, key text, sha256 text NOT NULL,
    -- What the others say of themselves, a hostile writer may forge; not this.
    db_user text NOT NULL DEFAULT session_user, PRIMARY KEY (ws, n), UNIQUE (ws, txid)
);
ALTER TABLE nirs_store.log ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE TABLE nirs_store.holders (
    ws uuid NOT NULL, holder text NOT NULL, lock_key bigint NOT NULL, host text NOT NULL, pid int NOT NULL,
    db_user text NOT NULL DEFAULT session_user, began timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended timestamptz, PRIMARY KEY (ws, holder)
);
CREATE TABLE nirs_store.claims (
    ws uuid NOT NULL, holder text NOT NULL, token text NOT NULL, PRIMARY KEY (ws, holder, token)
);
CREATE INDEX claims_by_token ON nirs_store.claims (ws, token);
-- Keys of objects that a gc has given up. They are never used again, so a deletion that arrives late hits nothing:
-- who saves the same bytes later uses the next generation, and a name of the user's own is not registered again.
CREATE TABLE nirs_store.keys (
    ws uuid NOT NULL, token text NOT NULL, generation int NOT NULL, key text NOT NULL,
    state text NOT NULL CHECK (state IN ('condemned', 'gone')), PRIMARY KEY (ws, token, generation)
);
CREATE INDEX condemned_keys ON nirs_store.keys (ws, key) WHERE state = 'condemned';
CREATE TABLE nirs_store.rejected (
    ws uuid NOT NULL, n bigint NOT NULL, txid text NOT NULL, holder text NOT NULL, reason text NOT NULL,
    rejected_by text NOT NULL, made_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (ws, n)
);
CREATE TABLE nirs_store.replicas (
    ws uuid NOT NULL, machine text NOT NULL, n bigint NOT NULL, seen_at timestamptz NOT NULL, library text NOT NULL,
    digest_n bigint, digest text, PRIMARY KEY (ws, machine)
);
"""

# Inside a function of PL/pgSQL each statement has a snapshot of its own, so what is read after the lock is current.
_FUNCTIONS = """
CREATE OR REPLACE FUNCTION nirs_store.append(
    p_ws uuid, p_txid text, p_kind text, p_session text, p_holder text, p_schema int, p_library text,
    p_bytes bigint, p_body bytea, p_key text, p_sha256 text, p_settings boolean, OUT n bigint, OUT rejections bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
DECLARE w workspaces%ROWTYPE;
BEGIN
    -- A commit that cannot be what it says would keep every replica from applying those after it.
    IF coalesce(
        p_kind NOT IN ('rows', 'delta', 'migrate') OR p_txid !~ '^[0-9a-f-]{36}$' OR p_sha256 !~ '^[0-9a-f]{64}$'
        OR (p_kind = 'migrate' AND NOT has_table_privilege(session_user, 'nirs_store.workspaces', 'INSERT'))
        OR p_bytes < 28 OR length(p_session) + length(p_holder) + length(p_library) > 1000
        OR CASE WHEN p_body IS NULL
            THEN p_key IS DISTINCT FROM format('commits/%s/%s.seg', left(p_sha256, 2), p_sha256)
            ELSE p_key IS NOT NULL OR octet_length(p_body) <> p_bytes OR p_bytes > 1048576
                OR encode(sha256(p_body), 'hex') <> p_sha256
            END,
        true
    ) THEN RAISE EXCEPTION 'it is not a commit of nirs_store' USING ERRCODE = 'NS004'; END IF;
    SELECT * INTO w FROM workspaces WHERE ws = p_ws FOR UPDATE;
    IF NOT FOUND THEN RAISE EXCEPTION 'no such workspace' USING ERRCODE = 'NS001'; END IF;
    rejections := w.rejections;
    SELECT l.n INTO n FROM log l WHERE l.ws = p_ws AND l.txid = p_txid;
    IF FOUND THEN RETURN; END IF;
    IF w.schema_version <> p_schema THEN
        RAISE EXCEPTION '%', w.schema_version USING ERRCODE = 'NS002';
    END IF;
    IF p_holder <> '' AND EXISTS (
        SELECT 1 FROM holders h WHERE h.ws = p_ws AND h.holder = p_holder AND h.ended IS NOT NULL
    ) THEN RAISE EXCEPTION 'ended' USING ERRCODE = 'NS003'; END IF;
    n := w.head + 1;
    UPDATE workspaces SET head = w.head + 1,
        settings_n = CASE WHEN p_settings THEN w.head + 1 ELSE settings_n END WHERE ws = p_ws;
    INSERT INTO log (ws, n, txid, kind, session, holder, library, bytes, body, key, sha256)
        VALUES (p_ws, append.n, p_txid, p_kind, p_session, p_holder, p_library, p_bytes, p_body, p_key, p_sha256);
END $$;

CREATE OR REPLACE FUNCTION nirs_store.lock_head(
    p_ws uuid, p_holders text[], OUT head bigint, OUT schema_version int
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
BEGIN
    SELECT w.head, w.schema_version INTO head, schema_version FROM workspaces w WHERE w.ws = p_ws FOR UPDATE;
    IF NOT FOUND THEN RAISE EXCEPTION 'no such workspace' USING ERRCODE = 'NS001'; END IF;
    -- Keys are given up under this lock only, so what was claimed until now is good until the change is made.
    IF EXISTS (
        SELECT 1 FROM holders h WHERE h.ws = p_ws AND h.holder = ANY (p_holders) AND h.ended IS NOT NULL
    ) THEN RAISE EXCEPTION 'ended' USING ERRCODE = 'NS003'; END IF;
END $$;

-- The only way to a commit of kind `migrate`, and not a writer's.
CREATE OR REPLACE FUNCTION nirs_store.migrate(
    p_ws uuid, p_from int, p_to int, p_txid text, p_library text, p_body bytea, OUT n bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
BEGIN
    UPDATE workspaces SET schema_version = p_to, head = head + 1 WHERE ws = p_ws AND schema_version = p_from
        RETURNING head INTO n;
    IF NOT FOUND THEN RAISE EXCEPTION '%', p_from USING ERRCODE = 'NS002'; END IF;
    INSERT INTO log (ws, n, txid, kind, session, holder, library, bytes, body, sha256) VALUES (
        p_ws, migrate.n, p_txid, 'migrate', '', '', p_library, octet_length(p_body), p_body,
        encode(sha256(p_body), 'hex')
    );
END $$;

CREATE OR REPLACE FUNCTION nirs_store.reject(
    p_ws uuid, p_n bigint, p_txid text, p_holder text, p_reason text, p_by text
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
BEGIN
    INSERT INTO rejected (ws, n, txid, holder, reason, rejected_by)
        VALUES (p_ws, p_n, p_txid, p_holder, p_reason, p_by) ON CONFLICT DO NOTHING;
    IF FOUND THEN UPDATE workspaces SET rejections = rejections + 1 WHERE ws = p_ws; END IF;
END $$;

CREATE OR REPLACE FUNCTION nirs_store.begin_holder(
    p_ws uuid, p_holder text, p_lock bigint, p_host text, p_pid int
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
DECLARE was timestamptz;
BEGIN
    INSERT INTO holders (ws, holder, lock_key, host, pid) VALUES (p_ws, p_holder, p_lock, p_host, p_pid)
        ON CONFLICT DO NOTHING;
    SELECT ended INTO was FROM holders h WHERE h.ws = p_ws AND h.holder = p_holder FOR SHARE;
    RETURN was IS NULL;
END $$;

CREATE OR REPLACE FUNCTION nirs_store.end_holder(p_ws uuid, p_holder text)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
BEGIN
    -- No role ends a session of another one that is alive.
    IF EXISTS (
        SELECT 1 FROM holders h, pg_locks l WHERE h.ws = p_ws AND h.holder = p_holder AND h.db_user <> session_user
            AND l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (l.classid::bigint << 32 | l.objid::bigint) = h.lock_key
    ) THEN RETURN; END IF;
    UPDATE holders h SET ended = clock_timestamp() WHERE h.ws = p_ws AND h.holder = p_holder AND ended IS NULL;
    DELETE FROM claims c WHERE c.ws = p_ws AND c.holder = p_holder;
END $$;

-- The claim and the look at the key are one transaction; a gc locks the table of claims while it decides.
CREATE OR REPLACE FUNCTION nirs_store.claim(p_ws uuid, p_holder text, p_token text, OUT generation int)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
BEGIN
    INSERT INTO claims (ws, holder, token) VALUES (p_ws, p_holder, p_token) ON CONFLICT DO NOTHING;
    -- Looked at after it has waited for a gc, which may have ended this one.
    IF EXISTS (SELECT 1 FROM holders h WHERE h.ws = p_ws AND h.holder = p_holder AND h.ended IS NOT NULL) THEN
        RAISE EXCEPTION 'ended' USING ERRCODE = 'NS003';
    END IF;
    SELECT coalesce(max(k.generation) + 1, 0) INTO generation FROM keys k WHERE k.ws = p_ws AND k.token = p_token;
END $$;

CREATE OR REPLACE FUNCTION nirs_store.condemn(p_ws uuid, p_token text, p_key text)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
    INSERT INTO keys (ws, token, generation, key, state)
        SELECT p_ws, p_token, coalesce(max(k.generation) + 1, 0), p_key, 'condemned'
        FROM keys k WHERE k.ws = p_ws AND k.token = p_token
$$;

CREATE OR REPLACE FUNCTION nirs_store.lock_claims()
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
BEGIN
    LOCK TABLE claims IN SHARE ROW EXCLUSIVE MODE;
END $$;

CREATE OR REPLACE FUNCTION nirs_store.publish(p_ws uuid, p_n bigint, p_txid text, p_key text, p_sha256 text)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
    UPDATE workspaces SET snapshot_n = p_n, snapshot_key = p_key, snapshot_sha256 = p_sha256
    WHERE ws = p_ws AND coalesce(snapshot_n, -1) < p_n
        AND (p_n = 0 OR EXISTS (SELECT 1 FROM log l WHERE l.ws = p_ws AND l.n = p_n AND l.txid = p_txid))
$$;

-- Rows stay, so that a commit that is sent again is known however late; only what they brought goes.
CREATE OR REPLACE FUNCTION nirs_store.truncate(p_ws uuid, p_days double precision)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
DECLARE last bigint; was bigint;
BEGIN
    SELECT floor INTO was FROM workspaces WHERE ws = p_ws FOR UPDATE;
    SELECT max(l.n) INTO last FROM log l JOIN workspaces w ON w.ws = l.ws
        WHERE l.ws = p_ws AND l.n <= w.snapshot_n
            AND l.made_at < clock_timestamp() - make_interval(secs => p_days * 86400);
    IF last IS NULL OR last <= was THEN RETURN 0; END IF;
    UPDATE workspaces SET floor = last WHERE ws = p_ws;
    UPDATE log SET body = NULL WHERE ws = p_ws AND n > was AND n <= last;
    RETURN last - was;
END $$;

CREATE OR REPLACE FUNCTION nirs_store.seen(p_ws uuid, p_machine text, p_n bigint, p_library text)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
    INSERT INTO replicas (ws, machine, n, seen_at, library)
        VALUES (p_ws, left(p_machine, 1000), p_n, clock_timestamp(), left(p_library, 100))
        ON CONFLICT (ws, machine) DO UPDATE SET n = excluded.n, seen_at = excluded.seen_at, library = excluded.library
$$;

CREATE OR REPLACE FUNCTION nirs_store.compared(p_ws uuid, p_machine text, p_n bigint, p_digest text)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
    UPDATE replicas SET digest_n = p_n, digest = p_digest WHERE ws = p_ws AND machine = p_machine
$$;

CREATE OR REPLACE FUNCTION nirs_store.key_gone(p_ws uuid, p_token text, p_generation int)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
    UPDATE keys SET state = 'gone' WHERE ws = p_ws AND token = p_token AND generation = p_generation
$$;

CREATE OR REPLACE FUNCTION nirs_store.unclaim(p_ws uuid, p_holder text, p_keep text[])
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = nirs_store, pg_temp AS $$
    DELETE FROM claims WHERE ws = p_ws AND holder = p_holder AND NOT (token = ANY (p_keep)) AND EXISTS (
        SELECT 1 FROM holders h WHERE h.ws = p_ws AND h.holder = p_holder AND h.db_user = session_user
    )
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA nirs_store FROM PUBLIC;
"""
# What each role may call; a writer may do what a reader may, and an administrator what a writer may.
_READER = ("seen", "compared")
_WRITER = ("append", "lock_head", "reject", "begin_holder", "end_holder", "claim", "unclaim")
# A snapshot takes the place of the log for new computers, so it is not a writer's to publish.
_ADMIN = ("lock_claims", "condemn", "key_gone", "publish", "truncate", "migrate")
RIGHTS = {"reader": _READER, "writer": (*_READER, *_WRITER), "admin": (*_READER, *_WRITER, *_ADMIN)}
_LOCK = 0x6E697273  # "nirs"


def ensure(con: psycopg.Connection[Any]) -> None:
    """Make the tables and functions when they are missing; two at once is safe."""
    with con.transaction():
        con.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        if version(con) is None:
            row = con.execute(
                "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'nirs_store' "
                "AND pg_get_userbyid(nspowner) <> current_user"
            ).fetchone()
            if row is not None:
                # Who owns it could put functions into it, which everybody calls.
                raise InvalidInput(
                    f"The database has an empty schema nirs_store that belongs to {row[0]!r}. Nothing was made. Open "
                    "the workspace first as that role, or drop the schema."
                )
            con.execute("CREATE SCHEMA IF NOT EXISTS nirs_store")
            con.execute(_DDL)
            con.execute("INSERT INTO nirs_store.meta VALUES (%s)", [VERSION])
            con.execute(_FUNCTIONS)


def grant(con: psycopg.Connection[Any], role: str, right: str) -> None:
    """Grant a role the rights of a reader, a writer or an administrator, and revoke all others."""
    if con.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
        raise InvalidInput(
            f"role: the server has no role {role!r}. Nothing was changed. Make it first: CREATE ROLE ... LOGIN."
        )
    name = sql.Identifier(role)
    schema = sql.SQL("nirs_store")
    with con.transaction():
        con.execute(sql.SQL("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {} FROM {}").format(schema, name))
        con.execute(sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA {} FROM {}").format(schema, name))
        con.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, name))
        con.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}").format(schema, name))
        for function in RIGHTS[right]:
            found = sql.SQL("GRANT EXECUTE ON FUNCTION {}.{} TO {}").format(
                schema, sql.Identifier(function), name
            )
            con.execute(found)
        if right == "admin":
            # To make a workspace, and to share a folder: its log is begun again, and it is named at the end.
            for what in ("INSERT, DELETE, UPDATE (name) ON {}.workspaces", "DELETE ON {}.log"):
                con.execute(sql.SQL("GRANT " + what + " TO {}").format(schema, name))


def version(con: psycopg.Connection[Any]) -> int | None:
    """Return the version of the tables; None where there are none."""
    found = con.execute("SELECT to_regclass('nirs_store.meta') IS NOT NULL").fetchone()
    if not found or not found[0]:
        return None
    row = con.execute("SELECT version FROM nirs_store.meta").fetchone()
    return None if row is None else int(row[0])
