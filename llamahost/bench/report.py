"""The figures: of a run, of a cell (one workload at one load), and of the whole. Pure; JSON is their fields.

Throughput counts requests that went well over the wall time of the run. Latencies of a cell are of all its rounds
together; ratios are of each round's pair.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from llamahost.bench.client import Outcome
from llamahost.bench.load import Run
from llamahost.bench.servers import Memory
from llamahost.bench.stats import Quantiles, Spread, paired_ratios, quantiles, spread

SCHEMA = 1
"""Raised when a field of the JSON report changes its meaning or goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """One server in one round. `place` is its turn in the round; rates are a second."""

    server: str
    round_no: int
    place: int
    n_requests: int
    n_failed: int
    n_skipped: int
    errors: Mapping[str, int]
    wall_s: float
    tokens_per_s: float
    prompt_tokens_per_s: float
    requests_per_s: float
    n_prompt: int
    n_cached: int
    n_generated: int
    is_metered: bool  # False: the server sent no usage, so events stand for tokens
    first_s: Quantiles | None
    gap_s: Quantiles | None  # between events that bring text
    total_s: Quantiles | None
    client_cpu_share: float  # of one CPU
    server_cpu_s: float | None
    machine_cpu_s: float | None  # of all processes; what neither server nor client used disturbed the run
    memory: Memory | None

    @property
    def other_cpu_s(self) -> float | None:
        if self.machine_cpu_s is None or self.server_cpu_s is None:
            return None
        return max(0.0, self.machine_cpu_s - self.server_cpu_s - self.client_cpu_share * self.wall_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One server in one cell, over all rounds."""

    server: str
    n_requests: int
    n_failed: int
    n_skipped: int
    errors: Mapping[str, int]
    details: Sequence[str]  # a few messages of what failed
    tokens_per_s: Spread | None
    prompt_tokens_per_s: Spread | None
    requests_per_s: Spread | None
    n_prompt: int
    n_cached: int
    n_generated: int
    is_metered: bool
    first_s: Quantiles | None
    gap_s: Quantiles | None
    total_s: Quantiles | None
    client_cpu_share: float
    server_cpu_s: float | None
    other_cpu_share: float | None  # of one CPU, used by neither the server nor the client
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times better the base was than the rival: above 1 favours the base, for rates and latencies alike."""

    spread: Spread
    rounds: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Base against rival in one cell. `is_best_rival`: no rival had a higher median of tokens/s here."""

    base: str
    rival: str
    is_best_rival: bool
    ratios: Mapping[str, Ratio]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One workload at one load: `n_clients` in a closed loop, or `rate` arrivals a second in an open one."""

    workload: str
    n_clients: int | None
    rate: float | None
    runs: Sequence[RunFigures]
    summaries: Sequence[Summary]
    comparisons: Sequence[Comparison]

    @property
    def load(self) -> str:
        return f"{self.rate:g}/s" if self.rate is not None else f"x{self.n_clients}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """A server as it was measured; one that was not started here has no command, times or memory."""

    name: str
    url: str
    command: Sequence[str] = ()
    libraries: str | None = None  # the folder whose libraries it ran on, where that is not its own
    health_s: float | None = None
    ready_s: float | None = None
    memory: Memory | None = None  # at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All of one `llamahost bench`."""

    schema: int = SCHEMA
    created_at: str
    version: str
    machine: Mapping[str, object]
    options: Mapping[str, object]
    servers: Sequence[ServerInfo]
    cells: Sequence[Cell] = field(default_factory=tuple)

    def to_json(self) -> bytes:
        return orjson.dumps(self, option=orjson.OPT_INDENT_2)


def figures_of(
    run: Run,
    *,
    server: str,
    round_no: int,
    place: int,
    server_cpu_s: float | None = None,
    machine_cpu_s: float | None = None,
    memory: Memory | None = None,
) -> RunFigures:
    good = [outcome for outcome in run.outcomes if not outcome.error]
    n_generated = sum(outcome.n_generated for outcome in good)
    n_prompt = sum(outcome.n_prompt for outcome in good)
    wall_s = max(run.wall_s, 1e-9)
    return RunFigures(
        server=server,
        round_no=round_no,
        place=place,
        n_requests=len(run.outcomes),
        n_failed=len(run.outcomes) - len(good),
        n_skipped=run.n_skipped,
        errors=errors_of(run.outcomes),
        wall_s=run.wall_s,
        tokens_per_s=n_generated / wall_s,
        prompt_tokens_per_s=n_prompt / wall_s,
        requests_per_s=len(good) / wall_s,
        n_prompt=n_prompt,
        n_cached=sum(outcome.n_cached for outcome in good),
        n_generated=n_generated,
        is_metered=all(outcome.is_metered for outcome in good),
        **_latencies(good),
        client_cpu_share=run.client_cpu_s / wall_s,
        server_cpu_s=server_cpu_s,
        machine_cpu_s=machine_cpu_s,
        memory=memory,
    )


def errors_of(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many requests failed, by kind, most first."""
    return dict(Counter(outcome.error for outcome in outcomes if outcome.error).most_common())


def _latencies(good: Sequence[Outcome]) -> dict[str, Quantiles | None]:
    return {
        "first_s": quantiles([outcome.first_s for outcome in good if outcome.first_s is not None]),
        "gap_s": quantiles([gap for outcome in good for gap in outcome.gaps_s]),
        "total_s": quantiles([outcome.total_s for outcome in good]),
    }


def summary_of(server: str, runs: Sequence[RunFigures], outcomes: Sequence[Outcome]) -> Summary:
    """`runs` and `outcomes` are of this server, of all rounds."""
    good = [outcome for outcome in outcomes if not outcome.error]
    n_failed = len(outcomes) - len(good)
    wall_s = math.fsum(run.wall_s for run in runs)
    cpu = [run.server_cpu_s for run in runs if run.server_cpu_s is not None]
    others = [run.other_cpu_s for run in runs if run.other_cpu_s is not None]
    peaks = [run.memory.peak_bytes for run in runs if run.memory is not None]
    return Summary(
        server=server,
        n_requests=len(outcomes),
        n_failed=n_failed,
        n_skipped=sum(run.n_skipped for run in runs),
        errors=errors_of(outcomes),
        details=list(dict.fromkeys(outcome.detail[:200] for outcome in outcomes if outcome.detail))[:3],
        tokens_per_s=spread([run.tokens_per_s for run in runs]),
        prompt_tokens_per_s=spread([run.prompt_tokens_per_s for run in runs]),
        requests_per_s=spread([run.requests_per_s for run in runs]),
        n_prompt=sum(run.n_prompt for run in runs),
        n_cached=sum(run.n_cached for run in runs),
        n_generated=sum(run.n_generated for run in runs),
        is_metered=all(run.is_metered for run in runs),
        **_latencies(good),
        client_cpu_share=math.fsum(run.client_cpu_share * run.wall_s for run in runs) / max(wall_s, 1e-9),
        server_cpu_s=math.fsum(cpu) if cpu else None,
        other_cpu_share=math.fsum(others) / max(wall_s, 1e-9) if others else None,
        peak_bytes=max(peaks) if peaks else None,
    )


@dataclass(frozen=True, slots=True)
class _Measure:
    """A figure of a run that is worth a ratio."""

    value: Callable[[RunFigures], float | None]
    more_is_better: bool


_MEASURES = {
    "tokens_per_s": _Measure(lambda run: run.tokens_per_s, more_is_better=True),
    "requests_per_s": _Measure(lambda run: run.requests_per_s, more_is_better=True),
    "first_p50": _Measure(lambda run: run.first_s.p50 if run.first_s else None, more_is_better=False),
    "first_p99": _Measure(lambda run: run.first_s.p99 if run.first_s else None, more_is_better=False),
    "gap_p50": _Measure(lambda run: run.gap_s.p50 if run.gap_s else None, more_is_better=False),
    "gap_p99": _Measure(lambda run: run.gap_s.p99 if run.gap_s else None, more_is_better=False),
    "total_p50": _Measure(lambda run: run.total_s.p50 if run.total_s else None, more_is_better=False),
}


def compare(runs: Sequence[RunFigures], servers: Sequence[str]) -> list[Comparison]:
    """The first server against each other one, round by round."""
    base, *rivals = servers
    by_server = {name: {run.round_no: run for run in runs if run.server == name} for name in servers}
    medians = {
        name: median.median for name in rivals if (median := spread([r.tokens_per_s for r in by_server[name].values()]))
    }
    best = max(medians, key=lambda name: medians[name], default="")
    comparisons = []
    for rival in rivals:
        rounds = sorted(by_server[base].keys() & by_server[rival].keys())
        ratios = {}
        for key, measure in _MEASURES.items():
            pairs = paired_ratios(
                [measure.value(by_server[base][n]) for n in rounds],
                [measure.value(by_server[rival][n]) for n in rounds],
                more_is_better=measure.more_is_better,
            )
            between = spread(pairs)
            if between is not None:
                ratios[key] = Ratio(between, pairs)
        comparisons.append(Comparison(base=base, rival=rival, is_best_rival=rival == best, ratios=ratios))
    return comparisons
