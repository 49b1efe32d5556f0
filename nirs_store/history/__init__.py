"""Lineage, retention and statistics."""
