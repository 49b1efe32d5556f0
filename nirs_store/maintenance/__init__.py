"""Keeping a workspace clean: gc, check, repair, vacuum. Plan first, then execute."""
