"""Bytes as people read them, in every message alike. Knows numbers alone."""

from __future__ import annotations


def bytes_told(n: float) -> str:
    """In the unit that keeps it between 1 and 1024."""
    size = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
