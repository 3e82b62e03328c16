"""Metrics, log, machine. Imports core only."""
