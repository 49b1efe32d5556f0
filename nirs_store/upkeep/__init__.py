"""Keeping a workspace clean: gc, vacuum. Plan first, then execute."""
