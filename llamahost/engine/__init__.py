"""Continuous batching. Knows tokens and slots; knows no text and no C."""
