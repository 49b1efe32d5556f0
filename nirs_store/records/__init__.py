"""Runs, predictions, chains and artifacts: their rows, and the questions about them."""
