"""One measurement from start to end: servers up, lengths calibrated, rounds in alternating order, servers down."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import orjson

from llamahost.bench.client import Outcome, Target, fetch, stream
from llamahost.bench.load import Limits, Run, closed_loop, open_loop
from llamahost.bench.report import Cell, Report, RunFigures, ServerInfo, compare, errors_of, figures_of, summary_of
from llamahost.bench.servers import (
    ALIAS,
    BenchFailed,
    NoAnswer,
    Server,
    cpu_seconds_of,
    machine_cpu_seconds,
    memory_of,
)
from llamahost.bench.wire import WireError
from llamahost.bench.workload import (
    PATHS,
    WORKLOADS,
    Calibration,
    Endpoint,
    Shape,
    Workload,
    arrivals,
    probe,
    script,
)
from llamahost.core.errors import network_told

Say = Callable[[str], None]

WARM_UP = -1
"""The round number of the round that is not counted; its prompts come in no other."""

N_PROBE_WORDS = (16, 96)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure."""

    workloads: tuple[str, ...] = ("short",)
    n_clients: tuple[int, ...] = (1, 8, 32)  # closed loop
    rates: tuple[float, ...] = ()  # open loop: arrivals a second; closed loop where empty
    n_rounds: int = 7
    n_requests: int | None = None  # conversations a run; None: by load and workload
    seconds: float = 20.0  # after which a run begins no further request
    timeout_s: float = 120.0
    start_timeout_s: float = 120.0
    endpoint: Endpoint = "completions"
    model: str | None = None
    temperature: float = 0.0
    seed: int = 1
    ignore_eos: bool = True
    n_prompt: int | None = None
    n_max: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server to be measured. `process` is there when it was started here."""

    name: str
    target: Target
    process: Server | None = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None


@dataclass(frozen=True, slots=True)
class Load:
    """How hard a run pushes: clients in a closed loop, or arrivals a second."""

    n_clients: int | None
    rate: float | None

    @property
    def name(self) -> str:
        return f"{self.rate:g}/s" if self.rate is not None else f"x{self.n_clients}"


async def measure(options: Options, candidates: Sequence[Candidate], say: Say) -> Report:
    """Start what is to be started, measure all cells, and stop it again, whatever happens. Raises BenchFailed."""
    with contextlib.ExitStack() as running:
        shape = _shape(options, await _model_name(options, candidates[0]))
        for candidate in candidates:
            if candidate.process is not None:
                say(f"starting {candidate.name}")
                running.enter_context(candidate.process)
                path, body = PATHS[options.endpoint], _plain(probe(shape, 1))
                await candidate.process.wait_until_ready(path, body, timeout_s=options.start_timeout_s)
        shape = replace(shape, calibration=await _calibrate(options, shape, candidates[0]))
        cells = [
            await _cell(options, shape, WORKLOADS[name], load, candidates, say)
            for name in options.workloads
            for load in _loads(options)
        ]
        servers = [_info(candidate) for candidate in candidates]
    return Report(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=_version(),
        machine=_machine(),
        options=asdict(options),
        servers=servers,
        cells=cells,
    )


def order_of(n: int, round_no: int) -> list[int]:
    """Whose turn it is when: forwards in even rounds, backwards in odd ones, so that drift favours nobody."""
    return list(range(n)) if round_no % 2 == 0 else list(reversed(range(n)))


def n_conversations(options: Options, workload: Workload, load: Load) -> int:
    """How many a run has: enough to fill the load twice, or as many as arrive in the time."""
    if options.n_requests is not None:
        return options.n_requests
    if load.rate is not None:
        return max(1, math.ceil(load.rate * options.seconds))
    assert load.n_clients is not None
    if workload.name == "agent":
        return load.n_clients
    return max(4, 2 * load.n_clients)


async def _cell(
    options: Options, shape: Shape, workload: Workload, load: Load, candidates: Sequence[Candidate], say: Say
) -> Cell:
    for candidate in candidates:
        warm = await _run(options, shape, workload, load, candidate, WARM_UP)
        good = [outcome for outcome in warm.outcomes if not outcome.error]
        if not good:
            raise BenchFailed(
                f"no request of {workload.name} {load.name} went well at {candidate.name}: {_why(warm.outcomes)}"
            )
    runs: list[RunFigures] = []
    outcomes: dict[str, list[Outcome]] = {candidate.name: [] for candidate in candidates}
    for round_no in range(options.n_rounds):
        for place, index in enumerate(order_of(len(candidates), round_no)):
            candidate = candidates[index]
            pid = candidate.pid
            before = cpu_seconds_of(pid) if pid is not None else None
            all_before = machine_cpu_seconds()
            run = await _run(options, shape, workload, load, candidate, round_no)
            after = cpu_seconds_of(pid) if pid is not None else None
            all_after = machine_cpu_seconds()
            figures = figures_of(
                run,
                server=candidate.name,
                round_no=round_no,
                place=place,
                server_cpu_s=after - before if after is not None and before is not None else None,
                machine_cpu_s=all_after - all_before if all_after is not None and all_before is not None else None,
                memory=memory_of(pid) if pid is not None else None,
            )
            runs.append(figures)
            outcomes[candidate.name] += run.outcomes
            failed = f", {figures.n_failed} failed" if figures.n_failed else ""
            say(
                f"{workload.name} {load.name} round {round_no + 1}/{options.n_rounds} {candidate.name}:"
                f" {figures.tokens_per_s:.0f} tokens/s in {figures.wall_s:.1f} s{failed}"
            )
    names = [candidate.name for candidate in candidates]
    return Cell(
        workload=workload.name,
        n_clients=load.n_clients,
        rate=load.rate,
        runs=runs,
        summaries=[summary_of(name, [run for run in runs if run.server == name], outcomes[name]) for name in names],
        comparisons=compare(runs, names),
    )


async def _run(
    options: Options, shape: Shape, workload: Workload, load: Load, candidate: Candidate, round_no: int
) -> Run:
    n = n_conversations(options, workload, load)
    n_clients = load.n_clients or max(1, n)
    if round_no == WARM_UP:
        n = min(n, n_clients if load.rate is None else 8)
    conversations = script(workload, shape, round_no=round_no, n_clients=n_clients, n_conversations=n)
    limits = Limits(options.seconds, options.timeout_s)
    path = PATHS[options.endpoint]
    if load.rate is None:
        return await closed_loop(candidate.target, path, conversations, n_clients, limits, in_waves=workload.in_waves)
    starts = arrivals(load.rate, n, seed=options.seed, round_no=round_no)
    return await open_loop(candidate.target, path, conversations, starts, limits)


def _why(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "none was begun in time"
    detail = next((outcome.detail for outcome in outcomes if outcome.detail), "")
    return ", ".join(errors_of(outcomes)) + (f" ({detail})" if detail else "")


def _loads(options: Options) -> list[Load]:
    if options.rates:
        return [Load(None, rate) for rate in options.rates]
    return [Load(n, None) for n in options.n_clients]


def _shape(options: Options, model: str) -> Shape:
    return Shape(
        model=model,
        endpoint=options.endpoint,
        temperature=options.temperature,
        seed=options.seed,
        ignore_eos=options.ignore_eos,
        n_prompt=options.n_prompt,
        n_max=options.n_max,
    )


async def _model_name(options: Options, base: Candidate) -> str:
    """As told; or the alias of a started server; or the first model that the base lists."""
    if options.model is not None:
        return options.model
    if base.process is not None:
        return ALIAS
    try:
        answer = await fetch(base.target, "GET", "/v1/models")
    except (OSError, WireError, TimeoutError) as error:
        raise NoAnswer(f"{base.target.url} does not answer: {network_told(error)}") from error
    try:
        return str(orjson.loads(answer.body)["data"][0]["id"])
    except (orjson.JSONDecodeError, LookupError, TypeError) as error:
        raise BenchFailed(
            f"{base.target.url} lists no model (status {answer.status}); name one with --model-name"
        ) from error


def _plain(body: bytes) -> bytes:
    """The same request, not streamed: what asks a server whether it is ready."""
    fields = orjson.loads(body)
    del fields["stream"], fields["stream_options"]
    return orjson.dumps(fields)


async def _calibrate(options: Options, shape: Shape, base: Candidate) -> Calibration:
    """Tokens a word and tokens besides, from two prompts of known length. A server without usage gives a guess."""
    counts = []
    for n_words in N_PROBE_WORDS:
        body = probe(shape, n_words)
        outcome = await stream(base.target, PATHS[options.endpoint], body, timeout_s=options.timeout_s)
        if outcome.error:
            raise BenchFailed(f"{base.name} fails at a prompt of {n_words} words: {_why([outcome])}")
        counts.append(outcome.n_prompt)
    return calibration_of(counts)


def calibration_of(counts: Sequence[int]) -> Calibration:
    """From the token counts of prompts with N_PROBE_WORDS words."""
    few, many = N_PROBE_WORDS
    per_word = (counts[1] - counts[0]) / (many - few)
    if per_word <= 0:
        return Calibration(per_word=1.3)
    return Calibration(per_word=per_word, base=max(0.0, counts[0] - few * per_word))


def _info(candidate: Candidate) -> ServerInfo:
    process, pid = candidate.process, candidate.pid
    if process is None or pid is None:
        return ServerInfo(name=candidate.name, url=candidate.target.url)
    return ServerInfo(
        name=candidate.name,
        url=candidate.target.url,
        command=process.command,
        libraries=str(process.libraries) if process.libraries is not None else None,
        health_s=process.health_s,
        ready_s=process.ready_s,
        memory=memory_of(pid),
    )


def _version() -> str:
    try:
        return version("llamahost")
    except PackageNotFoundError:
        return "not installed"


def _machine() -> dict[str, object]:
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_name(),
        "n_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
    }


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, platform.processor())
