"""Calibrations in service: their names and versions, who signed them, and what they measured."""
