"""Metrics, rates, the last requests, GPUs, log. Imports core only."""
