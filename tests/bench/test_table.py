"""The report is for people: no figure is cut off, however narrow the terminal."""

import io

import pytest
from rich.console import Console

from llamahost.bench.table import fitting

COLUMNS = ("load", "server", *(f"figure {k}" for k in range(8)))
ROWS = [(f"x{n}", "0: 127.0.0.1:8080", *(f"{n}{k}.5 / 123.4 / 567.8" for k in range(8))) for n in (1, 8)]


@pytest.mark.parametrize("width", [80, 400])
def test_every_figure_is_shown_whole_with_its_name(width: int) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=width)
    console.print(fitting("short", COLUMNS, [ROWS], console))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert all(any(word in line for line in lines) for row in (COLUMNS, *ROWS) for word in row)
    assert len(lines) > len(COLUMNS) if width == 80 else len(lines) < len(COLUMNS)
