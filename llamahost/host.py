"""The library's asynchronous face: words in, events out, on the models of one manifest.

Knows requests, events and leases; knows no HTTP, no dialect and no thread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypedDict, Unpack

from llamahost.core.events import Event
from llamahost.core.messages import ChatRequest, CompletionRequest, SamplingOptions
from llamahost.core.observe import Observer

if TYPE_CHECKING:  # these bring llama_cpp, which a process that only starts up need not wait for
    from llamahost.engine.engine import EngineStats
    from llamahost.fleet.loader import ModelCard
    from llamahost.fleet.manifest import Manifest, ModelSpec


class SpecOptions(TypedDict, total=False):
    """The fields of ModelSpec that may be given beside a path; ModelSpec says what each means."""

    name: str
    aliases: tuple[str, ...]
    n_ctx: int
    n_slots: int
    kv_layout: Literal["auto", "split", "unified"]
    n_cells: int
    kv_type_k: str
    kv_type_v: str
    n_batch: int
    n_ubatch: int
    n_gpu_layers: int
    flash_attention: Literal["auto", "on", "off"]
    n_threads: int
    swa_full: bool
    template: str
    sampling: SamplingOptions
    max_queue: int
    timeout_s: float
    target_step_s: float


State = Literal["unloaded", "loading", "ready", "failed", "draining"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A model as it stands now. `progress` in [0, 1] while loading; `reason` says why it failed.

    `card` and `stats` are there once it has been loaded; `n_in_flight` counts answers that are being made or waited for.
    """

    name: str
    aliases: tuple[str, ...] = ()
    state: State = "unloaded"
    progress: float = 0.0
    reason: str = ""
    n_slots: int = 0
    n_in_flight: int = 0
    card: ModelCard | None = None
    stats: EngineStats | None = None
    is_stalled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The whole host: `is_ready` when a request could be answered now, `is_stalled` when a step does not return."""

    is_ready: bool
    is_stalled: bool
    is_draining: bool
    models: tuple[ModelStatus, ...]


class AsyncHost:
    """Models, opened and answering. Owned by the event loop that starts it.

    async with AsyncHost("model.gguf") as host:
        async with aclosing(host.chat(request)) as events:
            async for event in events: ...

    Entering waits until the models are loaded and raises LoadFailed when one is not. `model` is a GGUF's path with
    options, a ModelSpec, a whole Manifest, or None for a host that answers Unavailable.
    """

    def __init__(
        self,
        model: str | Path | ModelSpec | Manifest | None,
        *,
        observer: Observer | None = None,
        is_strict: bool = False,
        stall_s: float = 30.0,
        load: Callable[..., object] | None = None,
        **options: Unpack[SpecOptions],
    ) -> None: ...

    async def start(self) -> None:
        """Begin to load and return at once; `health` tells how it goes. Needed only where `async with` is not used."""
        raise NotImplementedError

    async def wait_ready(self) -> None:
        """Wait until every model is loaded. Raises LoadFailed."""
        raise NotImplementedError

    def drain(self) -> None:
        """Refuse whatever is new with Unavailable, from now on; what runs goes on. Idempotent, returns at once."""
        raise NotImplementedError

    async def aclose(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, let the running ones finish for `drain_s`, abort the rest, close the models. Idempotent.

        What is aborted here ends with Unavailable.
        """
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    def chat(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """The conversation's next turn. Closing the generator cancels; the slot is free within a step.

        For each of `generation.n` answers: Started, its Deltas, Finished; answers interleave, told apart by `index`.
        Raises before the first event: ModelNotFound, Unavailable, Overloaded, InvalidRequest. Also later:
        DeadlineExceeded, GenerationFailed, Unavailable (shutting down).
        """
        raise NotImplementedError

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Event, None]:
        """Each prompt continued `generation.n` times: index = number of the prompt * n + number of the answer.

        Otherwise as `chat`.
        """
        raise NotImplementedError

    async def tokenize(
        self, text: str, *, model: str = "", add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Token ids of `text`. Never refused for load. Raises ModelNotFound, Unavailable."""
        raise NotImplementedError

    async def detokenize(self, tokens: list[int], *, model: str = "") -> str:
        """Text of `tokens`, control tokens left out. Raises InvalidRequest on an id outside the vocabulary."""
        raise NotImplementedError

    def models(self) -> tuple[ModelStatus, ...]:
        """Every model of the manifest as it stands now. Cheap: for /v1/models, /ready and /metrics."""
        raise NotImplementedError

    def health(self) -> Health:
        """All of it in one. Cheap, and never waits for a step."""
        raise NotImplementedError
