"""Figures and rows as people read them. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def bytes_told(n: int) -> str:
    """In the unit that keeps it between 1 and 1024."""
    size = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what they hold, two spaces between; the last one ragged."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(widths[k]) for k, cell in enumerate(row)).rstrip() for row in rows)
