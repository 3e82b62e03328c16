"""`llamahost bench`: read the command line, measure, show. The process that measures serves nothing itself."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console

from llamahost.bench.client import Target
from llamahost.bench.report import Report
from llamahost.bench.servers import (
    BenchFailed,
    KvLayout,
    NoAnswer,
    Server,
    Settings,
    free_port,
    llama_server_command,
    llamahost_command,
    llamahost_manifest,
    other_command,
    shared_libraries,
    to_its_end,
)
from llamahost.bench.session import Candidate, Options, measure
from llamahost.bench.table import show
from llamahost.bench.workload import WORKLOADS, Endpoint
from llamahost.commands.exits import INTERRUPTED, NO_ADDRESS, UNEXPECTED

N_ROUNDS_ALONE = 3
N_ROUNDS_COMPARED = 7

_Number = TypeVar("_Number", int, float)


def bench(
    url: Annotated[str | None, typer.Argument(help="A running server, such as http://127.0.0.1:8080.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Start llamahost on this GGUF instead.", exists=True, dir_okay=False)
    ] = None,
    versus: Annotated[list[str] | None, typer.Option(help="Compare with this running server. Repeatable.")] = None,
    llama_server: Annotated[
        Path | None, typer.Option(help="Compare with this llama-server, started on the same model with equal settings.")
    ] = None,
    llama_server_kv: Annotated[
        Literal["unified", "split", "best"], typer.Option(help="Its KV layout; best: measure both, mark the better.")
    ] = "best",
    llama_server_libraries: Annotated[
        Literal["auto", "own"],
        typer.Option(help="auto: those that llamahost uses, where the versions are equal; own: those of its build."),
    ] = "auto",
    llama_server_args: Annotated[str, typer.Option(help="More flags for llama-server.")] = "",
    versus_command: Annotated[
        str | None,
        typer.Option(help="Compare with this command; {port} {model} {slots} {n_ctx} {threads} {alias} are filled in."),
    ] = None,
    llamahost_args: Annotated[str, typer.Option(help="More flags for `llamahost serve`.")] = "",
    workload: Annotated[str, typer.Option(help=f"One or more of {', '.join(WORKLOADS)}; or all.")] = "short",
    concurrency: Annotated[str, typer.Option(help="Closed loop: clients at once, one or more.")] = "1,8,32",
    rate: Annotated[str | None, typer.Option(help="Open loop instead: arrivals a second, one or more.")] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help=f"Default: {N_ROUNDS_COMPARED} when comparing, else {N_ROUNDS_ALONE}.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Conversations a run. Default: twice the load.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="A run begins no request after this time.")] = 20.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which a request has failed.")] = 120.0,
    endpoint: Annotated[Endpoint, typer.Option(help="Which API.")] = "completions",
    prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Instead of the workload's own length.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Instead of the workload's own length.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    ignore_eos: Annotated[bool, typer.Option(help="Ask for answers of full length (not an OpenAI field).")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of prompts, arrivals and sampling.")] = 1,
    model_name: Annotated[str | None, typer.Option(help="Default: the first that the server lists.")] = None,
    api_key: Annotated[
        str, typer.Option(envvar="LLAMAHOST_BENCH_API_KEY", help="For the servers given as URLs.", show_default=False)
    ] = "",
    slots: Annotated[int | None, typer.Option(min=1, help="Of started servers. Default: the highest load.")] = None,
    n_ctx: Annotated[int, typer.Option(min=64, help="Tokens a slot, of started servers.")] = 2048,
    threads: Annotated[int | None, typer.Option(min=1, help="Of started servers. Default: all CPUs allowed.")] = None,
    gpu_layers: Annotated[int, typer.Option(min=-1, help="Of started servers; -1: all.")] = -1,
    batch: Annotated[int, typer.Option(min=1, help="Logical batch of started servers.")] = 2048,
    ubatch: Annotated[int, typer.Option(min=1, help="Physical batch of started servers.")] = 512,
    flash_attention: Annotated[Literal["auto", "on", "off"], typer.Option(help="Of started servers.")] = "auto",
    kv: Annotated[KvLayout, typer.Option(help="KV layout of llamahost.")] = "auto",
    json: Annotated[Path | None, typer.Option(help="Write all figures to this file.", dir_okay=False)] = None,
) -> None:
    """Measure a server, or compare several in alternating rounds."""
    out, progress = Console(), Console(stderr=True)
    if (url is None) == (model is None):
        raise typer.BadParameter("give either the URL of a running server or --model FILE.gguf to start one")
    if model is None and (llama_server or versus_command):
        raise typer.BadParameter("servers are started on a model; give --model FILE.gguf")
    is_compared = bool(versus or llama_server or versus_command)
    options = Options(
        workloads=_workloads(workload),
        n_clients=_numbers(concurrency, int, "--concurrency"),
        rates=_numbers(rate, float, "--rate") if rate is not None else (),
        n_rounds=rounds or (N_ROUNDS_COMPARED if is_compared else N_ROUNDS_ALONE),
        n_requests=requests,
        seconds=seconds,
        timeout_s=timeout,
        endpoint=endpoint,
        model=model_name,
        temperature=temperature,
        seed=seed,
        ignore_eos=ignore_eos,
        n_prompt=prompt_tokens,
        n_max=max_tokens,
    )
    with tempfile.TemporaryDirectory(prefix="llamahost-bench-") as name:
        folder = Path(name)
        candidates: list[Candidate] = []
        try:
            if model is not None:
                settings = Settings(
                    model=model.resolve(),
                    n_ctx=n_ctx,
                    n_slots=slots or (max(options.n_clients) if not options.rates else 8),
                    n_threads=threads or _n_cpus(),
                    n_gpu_layers=gpu_layers,
                    n_batch=batch,
                    n_ubatch=min(ubatch, batch),
                    flash_attention=flash_attention,
                )
                manifest = folder / "manifest.toml"
                manifest.write_text(llamahost_manifest(settings, kv_layout=kv), encoding="utf-8")
                _start(candidates, "llamahost", folder, lambda port: llamahost_command(manifest, port, llamahost_args))
                if llama_server is not None:
                    binary = llama_server.resolve()
                    libraries = shared_libraries(binary) if llama_server_libraries == "auto" else None
                    if libraries is None:
                        progress.print(
                            "llama-server runs on libraries of its own; a different build may be what is compared",
                            style="yellow",
                        )
                    commands = llama_server_commands(binary, settings, llama_server_kv, llama_server_args)
                    for label, command in commands.items():
                        _start(candidates, label, folder, command, libraries=libraries)
                if versus_command is not None:
                    pattern = versus_command
                    _start(candidates, "other", folder, lambda port: other_command(pattern, settings, port))
            for number, address in enumerate([url, *(versus or [])] if url is not None else (versus or [])):
                candidates.append(_running(address, api_key, number))
            report = _run(lambda: measure(options, candidates, lambda line: progress.print(line, highlight=False)))
        except BenchFailed as error:
            progress.print(f"llamahost: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(NO_ADDRESS if isinstance(error, NoAnswer) else UNEXPECTED) from error
        except (KeyboardInterrupt, asyncio.CancelledError):
            progress.print("stopped; nothing is reported", style="yellow")
            raise typer.Exit(INTERRUPTED) from None
    show(report, out)
    if json is not None:
        json.write_bytes(report.to_json())
        progress.print(f"written to {json}", markup=False, highlight=False)


def _start(
    candidates: list[Candidate],
    name: str,
    folder: Path,
    command: Callable[[int], list[str]],
    *,
    libraries: Path | None = None,
) -> None:
    port = free_port()
    log = folder / f"{name.replace(' ', '-')}.log"
    server = Server(name, command(port), port, log, libraries=libraries)
    candidates.append(Candidate(name, server.target, server))


def llama_server_commands(
    binary: Path, settings: Settings, kv: str, extra: str
) -> dict[str, Callable[[int], list[str]]]:
    """How to start it on a port, by name: one layout, or both for `best`."""
    if not os.access(binary, os.X_OK):
        raise BenchFailed(f"{binary} is not a program")
    layouts: tuple[Literal["unified", "split"], ...] = ("unified", "split")
    return {
        f"llama-server {layout}": partial(llama_server_command, binary, settings, kv_layout=layout, extra=extra)
        for layout in layouts
        if kv in (layout, "best")
    }


def _running(address: str, api_key: str, number: int) -> Candidate:
    try:
        target = Target.parse(address, api_key=api_key)
    except ValueError as error:
        raise BenchFailed(str(error)) from error
    return Candidate(f"{number}: {target.authority}{target.path}", target)


def _run(work: Callable[[], Coroutine[Any, Any, Report]]) -> Report:
    """On a loop of its own."""
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(to_its_end(work()))


def _workloads(text: str) -> tuple[str, ...]:
    names = tuple(WORKLOADS) if text == "all" else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in WORKLOADS:
            raise typer.BadParameter(f"no workload `{name}`; there are {', '.join(WORKLOADS)}")
    return names


def _numbers(text: str, kind: Callable[[str], _Number], option: str) -> tuple[_Number, ...]:
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} takes numbers, such as 1,8,32; not {text}") from None
    if not all(0 < number <= 4096 for number in numbers):
        raise typer.BadParameter(f"{option} takes numbers above 0 and up to 4096; not {text}")
    return numbers


def _n_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
