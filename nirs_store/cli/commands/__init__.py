"""One file per command; :mod:`nirs_store.cli._app` says which."""
