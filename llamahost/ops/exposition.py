"""Figures with labels, and their text as Prometheus reads it (0.0.4). Owned by the event loop; knows no request.

What costs is the text: a line takes a microsecond, and a thousand models have a hundred thousand. So it is told in
lines, of which whoever sends them makes as many at once as others can wait for; a figure is as it stands at its line.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Literal, TypeVar

Kind = Literal["counter", "gauge", "histogram"]
Row = tuple[Sequence[object], float]
"""The values of the labels, and the figure."""


def family(kind: Kind, name: str, told: str, labels: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    """The lines of figures that somebody else keeps."""
    yield _head(kind, name, told)
    for values, figure in rows:
        yield f"{name}{_labelled(labels, values)} {float(figure)}\n"


class Count:
    """What is added up."""

    __slots__ = ("n",)

    kind: Kind = "counter"

    def __init__(self) -> None:
        self.n = 0.0

    def add(self, n: float = 1) -> None:
        self.n += n

    def lines(self, name: str, labelled: str) -> Iterator[str]:
        yield f"{name}{labelled} {self.n}\n"


class Spread:
    """How often what was seen lay within each of some bounds, themselves included, and what all of it comes to."""

    __slots__ = ("_bounds", "_n_in", "_sum")

    kind: Kind = "histogram"

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._n_in = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def see(self, value: float) -> None:
        self._n_in[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labelled: str) -> Iterator[str]:
        begin, n = f"{name}_bucket{labelled[:-1]}" + ("," if labelled else "{"), 0.0
        for bound, n_in in zip((*self._bounds, "+Inf"), self._n_in, strict=True):
            n += n_in
            yield f'{begin}le="{bound}"}} {n}\n'
        yield f"{name}_count{labelled} {n}\n{name}_sum{labelled} {self._sum}\n"


Figure = TypeVar("Figure", Count, Spread)


class Family(Generic[Figure]):
    """Figures by the values of their labels: one is made when it is first asked for, and stays."""

    def __init__(self, name: str, told: str, labels: Sequence[str], new: Callable[[], Figure]) -> None:
        self._name, self._told, self._labels = name, told, labels
        self._new: Callable[[], Figure] = new
        self._figures: dict[tuple[object, ...], Figure] = {}

    def of(self, *values: object) -> Figure:
        figure = self._figures.get(values)
        if figure is None:
            figure = self._figures[values] = self._new()
        return figure

    def lines(self) -> Iterator[str]:
        yield _head(self._new().kind, self._name, self._told)
        for values, figure in tuple(self._figures.items()):  # others may come, between two lines
            yield from figure.lines(self._name, _labelled(self._labels, values))


def _head(kind: Kind, name: str, told: str) -> str:
    return f"# HELP {name} {told}\n# TYPE {name} {kind}\n"


def _labelled(labels: Sequence[str], values: Sequence[object]) -> str:
    if not labels:
        return ""
    told = [f'{label}="{_escaped(str(value))}"' for label, value in zip(labels, values, strict=True)]
    return f"{{{','.join(told)}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
