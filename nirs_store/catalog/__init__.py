"""The catalog: tables, journal, lease, sessions. All SQL of the library is in this room."""
