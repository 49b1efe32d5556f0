"""Benchmarks: the same work on nirs_store, on its floor, and on what a user would pick instead."""
