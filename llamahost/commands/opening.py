"""Which model a command means, and that model opened for one person: one slot, a bar, a quiet log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from llamahost.commands.exits import NO_MODEL, USAGE, fail
from llamahost.commands.fetching import path_of
from llamahost.commands.layers import Layers
from llamahost.commands.lora import adapters_of
from llamahost.commands.progress import bar

if TYPE_CHECKING:
    from llamahost.core.machine import Machine
    from llamahost.fleet.replica.card import ModelCard
    from llamahost.fleet.replica.opened import Opened
    from llamahost.fleet.settings.manifest import Manifest, ModelSpec
    from llamahost.given import Options
    from llamahost.sync import Host

MANIFEST = Path("model_manifest.toml")  # read where it lies in the current folder and no other is named

MODEL_HELP = "A GGUF file, a name in the manifest or of `list`, OWNER/NAME[:QUANT] on Hugging Face, or `builtin`."

NCtx = Annotated[int | None, typer.Option("--n-ctx", envvar="LLAMAHOST_N_CTX", help="Tokens of prompt and answer.")]
Threads = Annotated[int | None, typer.Option(envvar="LLAMAHOST_THREADS", help="CPU threads.")]
ChatTemplate = Annotated[
    str | None,
    typer.Option(
        "--template",
        envvar="LLAMAHOST_TEMPLATE",
        help="Chat template: a file, or a name: chatml, or one in the GGUF. [the GGUF's own]",
    ),
]
ManifestPath = Annotated[
    Path | None, typer.Option("--manifest", envvar="LLAMAHOST_MANIFEST", help="[./model_manifest.toml]")
]
Temperature = Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Of the probability mass.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Of the likeliest tokens.")]
Seed = Annotated[int | None, typer.Option(help="The same seed, the same answer.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", "-n", help="Of the answer. [until the context ends]")]
System = Annotated[str | None, typer.Option(help="What the model is told before the conversation.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log to standard error.")]


class Shape(TypedDict):
    """The flags that change a spec; None leaves it as it is."""

    n_ctx: int | None
    n_threads: int | None
    n_gpu_layers: Layers | None
    template: str | None


@dataclass(frozen=True, slots=True)
class Ready:
    """A model that answers. `has_template`: a chat template of its own, or one that the manifest gives."""

    host: Host
    card: ModelCard
    has_template: bool
    load_s: float


def said_at(path: Path | None) -> Manifest:
    """What the named manifest says, or the one that lies here, if there is one. Raises ManifestError."""
    from llamahost.fleet.settings.manifest import Manifest
    from llamahost.fleet.settings.manifest_file import load_manifest

    return Manifest() if path is None and not MANIFEST.is_file() else load_manifest(path or MANIFEST)


def manifest_at(path: Path | None) -> Manifest:
    """The same, with the built-in model if it names none. Raises ManifestError."""
    from llamahost.fleet.settings.builtin import builtin

    found = said_at(path)
    return found if found.models else replace(found, models=(builtin(),))


def spec_of(model: str | ModelSpec, path: Path | None, shape: Shape, *, lora: Sequence[str] | None = None) -> ModelSpec:
    """A GGUF file, a name from the manifest, `builtin`, or a name of the hub's, which is fetched if it has to be; or
    one of the manifest's models itself, whatever else may be called so.

    For one person, so with one slot. Raises ManifestError, PullFailed.
    """
    from llamahost.core.errors import ManifestError
    from llamahost.fleet.machine.located import missing
    from llamahost.fleet.settings.manifest import ModelSpec

    given: dict[str, Any] = {key: value for key, value in shape.items() if value is not None}
    if isinstance(model, str) and Path(model).is_file():
        spec = ModelSpec(name=Path(model).stem or model, path=Path(model))
    else:
        if isinstance(model, ModelSpec):
            spec = model
        else:
            spec = _named(model, path) or ModelSpec(name=model, path=path_of(model) or Path(model))
        if why := missing(spec):
            names = ", ".join(each.name for each in manifest_at(path).models)
            fail(NO_MODEL, why if model not in (spec, spec.name) else f"{why}; the manifest names {names}")
    try:
        adapters = adapters_of(lora) or spec.adapters
        return replace(spec, n_slots=1, n_cells=None, kv_layout="auto", adapters=adapters, **given)
    except ManifestError as error:
        fail(USAGE, str(error))


def _named(model: str, path: Path | None) -> ModelSpec | None:
    from llamahost.fleet.settings.builtin import builtin, is_named

    named = [each for each in manifest_at(path).models if model in (each.name, *each.aliases)]
    if not named and is_named(model):
        return builtin(model=model)
    return named[0] if named else None


@contextmanager
def opened(spec: ModelSpec, *, is_verbose: bool) -> Iterator[Ready]:
    """The model, loaded; closed at the end. What the libraries log is shown only if asked for. Raises LoadFailed."""
    import time

    from llamahost.ops import log
    from llamahost.sync import Host

    log.set_up("info" if is_verbose else "critical")  # a failed load is raised, and told once
    cards: list[ModelCard] = []
    began = time.monotonic()
    with bar(spec.name) as show:

        def load(spec: ModelSpec, machine: Machine, on_progress: Callable[[float], None]) -> Opened:
            from llamahost.fleet.machine.inspect import ensure
            from llamahost.fleet.replica.loader import load as really

            def progress(fraction: float) -> None:
                on_progress(fraction)  # first: it ends the load when nobody waits any more
                show(fraction)

            loaded = really(spec, machine, progress, inspect=ensure)
            cards.append(loaded.card)
            return loaded

        # Here it is wanted now, and once, whatever its manifest says of a server.
        host = Host(replace(spec, load="start", replicas=1), load=load)
    with host:
        has_template = cards[0].has_chat_template or bool(spec.template)
        yield Ready(host, cards[0], has_template, time.monotonic() - began)


def options_of(
    *, max_tokens: int | None, temperature: float | None, top_p: float | None, top_k: int | None, seed: int | None
) -> Options:
    """Those that were given; the model's own defaults stand for the rest."""
    options: Options = {"max_tokens": max_tokens}
    if temperature is not None:
        options["temperature"] = temperature
    if top_p is not None:
        options["top_p"] = top_p
    if top_k is not None:
        options["top_k"] = top_k
    if seed is not None:
        options["seed"] = seed
    return options
