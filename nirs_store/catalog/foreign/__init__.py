"""Catalogs of nirs4all: read where they lie, and never written to."""
