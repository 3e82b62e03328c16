"""`llamahost check`: whether this machine, or a running server, does what it should. A line a question."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from llamahost import __version__
from llamahost.commands import exits
from llamahost.commands.opening import ChatTemplate, ManifestPath, manifest_at, opened, spec_of
from llamahost.commands.words import counted, gpu_told
from llamahost.core.errors import LlamahostError, LoadFailed
from llamahost.core.sizes import bytes_told

if TYPE_CHECKING:
    from llamahost.commands.opening import Ready
    from llamahost.commands.probe import Finding
    from llamahost.fleet.settings.manifest import ModelSpec
    from llamahost.sync import Host

OLDEST_PYTHON = (3, 11)


def check(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Generate with this GGUF file or model of the manifest. [all of the manifest, and `builtin`]"
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Probe this running server instead, or unix:PATH; MODEL is a name that it knows."),
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="LLAMAHOST_API_KEY", help="For --url.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that an answer of --url may take.")] = 60.0,
    template: ChatTemplate = None,  # of MODEL
    manifest: ManifestPath = None,
) -> None:
    """Tell what is well and what is not: Python, llama.cpp, devices, memory, a real generation.

    With --url: health, ready, models; chat, stream, completion, embeddings and rerank of models that do it; a wrong
    key, an unknown model.
    """
    with exits.told():
        if url is not None:
            from llamahost.commands.probe import probe
            from llamahost.commands.remote import Remote

            with Remote(url, api_key, timeout_s=timeout) as remote:
                n_wrong = _print(probe(remote, model, api_key))
        else:
            n_wrong = _print(_system()) + _print(_generations(model, manifest, template))
    exits.leave(exits.UNEXPECTED if n_wrong else exits.DONE)


def _print(findings: Iterator[Finding]) -> int:
    """As they come; returns how many are not well."""
    n_wrong = 0
    for finding in findings:
        print(f"{'✓' if finding.is_well else '✗'} {finding.what}: {finding.told}", flush=True)
        n_wrong += not finding.is_well
    return n_wrong


def _system() -> Iterator[Finding]:
    from llamahost.commands.probe import Finding
    from llamahost.core.machine import Machine

    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(sys.version_info >= OLDEST_PYTHON, "Python", f"{version}, {sys.executable}")
    yield Finding(True, "llamahost", __version__)
    try:
        from llamahost.fleet.machine.devices import MachineDevices
        from llamahost.native.devices import devices, system_info
        from llamahost.native.library import library

        loaded = library()
    except (LoadFailed, ImportError, AttributeError) as error:  # no binding, one that does not load, or an older one
        yield Finding(False, "llama.cpp", str(error))
    else:
        yield Finding(True, "llama.cpp", f"{loaded.version}, llama-cpp-python {loaded.binding_version}")
        yield Finding(True, "build", system_info())
        for device in devices():
            told = f"{device.description} ({device.kind}, {device.back_end} back end)"
            if device.total_bytes:
                told += f", {bytes_told(device.free_bytes)} of {bytes_told(device.total_bytes)} free"
            yield Finding(True, f"device {device.name}", told)
        places = MachineDevices()
        places.all()
        if places.trouble:
            yield Finding(not places.is_broken, "GPU", places.trouble)
        if loaded.has_broken_amx:
            yield Finding(True, "AMX", "this build's AMX is not safe and is left unused")
    yield from _gpus()
    machine = Machine.read()
    cores = f" on {counted(machine.n_cores, 'core')}" if machine.n_cores else ""
    yield Finding(True, "CPUs", f"{machine.n_cpus}{cores}; {counted(machine.n_threads, 'thread')} to compute")
    yield Finding(
        True, "memory", f"{bytes_told(machine.available_bytes)} of {bytes_told(machine.memory_bytes)} available"
    )


def _gpus() -> Iterator[Finding]:
    """What the driver of NVIDIA's GPUs tells; a machine without one is well."""
    from llamahost.commands.probe import Finding
    from llamahost.ops.gpu import Nvml

    nvml = Nvml()
    nvml.open()
    try:
        told = nvml.sample()
    finally:
        nvml.close()
    if told.trouble:
        yield Finding(True, "GPUs", told.trouble)
        return
    yield Finding(True, "GPUs", f"{len(told.gpus)}, driver {told.driver}, CUDA {told.cuda}")
    for gpu in told.gpus:
        yield Finding(not gpu.trouble, f"GPU {gpu.index}", gpu.trouble or gpu_told(gpu))


def _generations(model: str | None, manifest: ManifestPath, template: ChatTemplate) -> Iterator[Finding]:
    """A short answer of each model; those of the package are asked what they are known to answer."""
    from llamahost.commands import known
    from llamahost.commands.probe import HELLO, N_TOKENS, Finding
    from llamahost.fleet.machine.located import missing
    from llamahost.fleet.settings.builtin import EMBED_NAME, builtin
    from llamahost.fleet.settings.manifest import BUILTIN_PATH, EMBED_PATH

    meant: list[str | ModelSpec] = [model] if model is not None else []
    for each in manifest_at(manifest).models if model is None else ():
        if why := missing(each):
            yield Finding(False, each.name, why)
        else:
            meant.append(each)
    if model is None:
        names = {each.name for each in meant if not isinstance(each, str)}
        meant += [own for own in (builtin(), builtin(model=EMBED_NAME)) if own.name not in names]
    for one in meant:
        spec = spec_of(
            one,
            manifest,
            {"n_ctx": None, "n_threads": None, "n_gpu_layers": None, "template": template if model else None},
        )
        try:
            with opened(spec, is_verbose=False) as ready:
                if spec.path == BUILTIN_PATH:
                    yield _own(ready, known.answers)
                    continue
                if spec.path == EMBED_PATH:
                    yield _own(ready, known.neighbours)
                    continue
                if not ready.card.generates:
                    yield _vector(ready)
                    continue
                result = (
                    ready.host.chat(HELLO, max_tokens=N_TOKENS, temperature=0.0, ignore_eos=True)
                    if ready.has_template
                    else ready.host.complete("Hello", max_tokens=N_TOKENS, temperature=0.0, ignore_eos=True)
                )
        except LlamahostError as error:
            yield Finding(False, spec.name, str(error))
            continue
        kind = "chat" if ready.has_template else "completion"
        made = counted(result.usage.n_generated, "token")
        rate = (N_TOKENS - 1) / result.timings.generation_s if result.timings.generation_s else 0.0
        yield Finding(
            result.usage.n_generated == N_TOKENS,
            spec.name,
            f"{ready.card.description}; loaded in {ready.load_s:.1f} s, a {kind} of {made} "
            f"at {rate:.0f} tokens/s: {' '.join(result.text.split())[:40]!r}",
        )


def _own(ready: Ready, ask: Callable[[Host], tuple[bool, str]]) -> Finding:
    """Whether a model of the package says, word for word, what it says on every other machine."""
    from llamahost.commands.probe import Finding

    is_well, told = ask(ready.host)
    loaded = f"{ready.card.description}; loaded in {ready.load_s:.1f} s, " if is_well else ""
    return Finding(is_well, ready.card.name, loaded + told)


def _vector(ready: Ready) -> Finding:
    """A vector or a score of a model that generates nothing."""
    from llamahost.commands.probe import Finding

    card = ready.card
    if card.pooling == "rank":
        (score,) = ready.host.rerank("Hello", ["Hello"]).scores
        told = f"a score: {score:.3f}"
    else:
        (vector,) = ready.host.embed(["Hello"]).vectors
        told = f"a vector of {len(vector)} numbers"
    return Finding(True, card.name, f"{card.description}; loaded in {ready.load_s:.1f} s, {told}")
