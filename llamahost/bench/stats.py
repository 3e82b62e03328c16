"""Turn samples into figures. Knows numbers; knows no server, unit or clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantiles:
    """How `n` samples are spread."""

    n: int
    mean: float
    low: float
    p50: float
    p90: float
    p99: float
    high: float


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of a few rounds, with the quartiles and the ends beside it."""

    n: int
    low: float
    q1: float
    median: float
    q3: float
    high: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` (0 .. 1) of the ascending samples lie, interpolated between neighbours."""
    if not ordered:
        raise ValueError("no samples have no percentile")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"a share lies between 0 and 1, not {share}")
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    if ordered[below] == ordered[above]:
        return ordered[below]  # exact: interpolating equals can miss them by a rounding
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def quantiles(samples: Sequence[float]) -> Quantiles | None:
    """The spread of the samples, or None where there are none."""
    if not samples:
        return None
    ordered = sorted(samples)
    return Quantiles(
        n=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        low=ordered[0],
        p50=percentile(ordered, 0.50),
        p90=percentile(ordered, 0.90),
        p99=percentile(ordered, 0.99),
        high=ordered[-1],
    )


def spread(samples: Sequence[float]) -> Spread | None:
    """Median, quartiles and ends of the samples, or None where there are none."""
    if not samples:
        return None
    ordered = sorted(samples)
    return Spread(
        n=len(ordered),
        low=ordered[0],
        q1=percentile(ordered, 0.25),
        median=percentile(ordered, 0.50),
        q3=percentile(ordered, 0.75),
        high=ordered[-1],
    )


def paired_ratios(base: Sequence[float | None], rival: Sequence[float | None], *, more_is_better: bool) -> list[float]:
    """How many times better the base was, one ratio a round: above 1 always favours the base.

    Sample i of both is of round i. A round in which either has no figure, or a zero, gives no ratio.
    """
    if len(base) != len(rival):
        raise ValueError(f"rounds are paired, so {len(base)} and {len(rival)} of them do not fit")
    ratios = []
    for ours, theirs in zip(base, rival, strict=True):
        if not ours or not theirs or ours < 0 or theirs < 0:
            continue
        ratios.append(ours / theirs if more_is_better else theirs / ours)
    return ratios
