"""The database of a workspace: schema, lock, journal, connection, apply, session. No subject is known here."""
