"""One file a command; :mod:`nirs_store.cli._app` says which."""
