"""The library's asynchronous face: words in, events out, on the models of one manifest.

Puts together what answers and what holds models; does neither. Knows no HTTP, no dialect and no thread.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self, Unpack

from llamahost.answering import Answering
from llamahost.core.errors import InvalidRequest, ManifestError
from llamahost.core.events import Event
from llamahost.core.machine import Machine
from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.core.observe import FleetEvent, Observer, RequestRecord
from llamahost.core.vectors import Embeddings, EmbedRequest, Ranking, RerankRequest
from llamahost.fleet.crew.status import ModelStatus, ReplicaStatus, State
from llamahost.fleet.fleet import Fleet
from llamahost.fleet.machine.cache import cache_folder
from llamahost.fleet.machine.devices import Devices, MachineDevices
from llamahost.fleet.machine.footprint import FileFacts
from llamahost.fleet.replica.loading import Load
from llamahost.fleet.replica.opened import Opened
from llamahost.fleet.routing.router import Router
from llamahost.fleet.settings.adapter_spec import AdapterSpec
from llamahost.fleet.settings.builtin import adapter_file
from llamahost.fleet.settings.manifest import Manifest, ModelSpec
from llamahost.fleet.settings.route_spec import RouteSpec
from llamahost.given import (
    ChatOptions,
    CompletionOptions,
    EmbedOptions,
    Prompt,
    RerankOptions,
    SpecOptions,
    Turns,
    chat_request,
    check_names,
    completion_request,
    embed_request,
    manifest_of,
    rerank_request,
)

if TYPE_CHECKING:  # the loader brings llama_cpp, which a process that only starts up need not wait for
    from llamahost.files.download import Step

__all__ = ["AsyncHost", "Health", "ModelStatus", "ReplicaStatus", "SpecOptions", "State"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The whole host: `is_ready` when a request could be answered now, `is_stalled` when a step does not return."""

    is_ready: bool
    is_stalled: bool
    is_draining: bool
    models: tuple[ModelStatus, ...]


class _Observers:
    """All who are told, as one."""

    def __init__(self) -> None:
        self.all: list[Observer] = []

    def finished(self, record: RequestRecord) -> None:
        for each in self.all:
            each.finished(record)


class AsyncHost:
    """Models, opened and answering. Owned by the event loop that starts it.

    async with AsyncHost("model.gguf", n_ctx=4096) as host:
        print((await ChatResult.of(host.chat("Why is the sky blue?", max_tokens=200))).text)
        async with aclosing(host.chat("Say hello.")) as events:
            async for event in events:
                if isinstance(event, Delta):
                    print(event.text, end="")

    Entering waits until the models are loaded and raises LoadFailed when one is not. `model` is a GGUF's path with
    options, which are the fields of ModelSpec; a ModelSpec, a whole Manifest, or None for a host that answers
    Unavailable. One model answers to any name unless `is_strict`. `load` opens a model and `hardware` is where it may
    be put; both are there for tests. It wants asyncio: with trio, use a Host in threads.
    """

    def __init__(
        self,
        model: str | Path | ModelSpec | Manifest | None,
        *,
        observer: Observer | None = None,
        is_strict: bool = False,
        load: Load | None = None,
        hardware: Devices | None = None,
        **options: Unpack[SpecOptions],
    ) -> None:
        check_names(options, SpecOptions.__annotations__, "option")
        manifest = manifest_of(model, options)
        if load is None and hardware is None:
            hardware = MachineDevices(manifest.server.host_bytes)
        self._fleet = Fleet(
            manifest.models,
            load or _load,
            is_strict=is_strict,
            reader_stall_s=manifest.server.stall_s,
            settings=manifest.server,
            devices=hardware,
            facts=_facts if load is None else None,
            fetch=_fetch if load is None else None,
            memories=cache_folder(os.environ) if load is None else None,
        )
        self._router = Router(self._fleet, manifest, is_strict=is_strict)
        self._observers = _Observers()
        if observer is not None:
            self.observe(observer)
        self._answering = Answering(self._fleet, self._router, self._observers)

    async def start(self) -> None:
        """Begin to load and return at once; `health` tells how it goes. Needed only where `async with` is not used.

        Raises Unavailable after `aclose`, RuntimeError without asyncio's loop.
        """
        self._fleet.start()

    async def wait_ready(self) -> None:
        """Wait until every model is loaded. Raises LoadFailed."""
        await self._fleet.wait_ready()

    def drain(self) -> None:
        """Refuse whatever is new with Unavailable, from now on; what runs goes on. Idempotent, returns at once."""
        self._fleet.drain()

    async def aclose(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, let the running ones finish for `drain_s`, abort the rest, close the models. Idempotent.

        What is aborted here ends with Unavailable.
        """
        await self._fleet.close(drain_s)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AsyncHost is neither copied nor sent to another process; make one there")

    async def __aenter__(self) -> Self:
        await self.start()
        try:
            await self.wait_ready()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def chat(self, request: ChatRequest | Turns, **options: Unpack[ChatOptions]) -> AsyncGenerator[Event, None]:
        """The conversation's next turn. Closing the generator cancels; the slot is free within a step.

        A ChatRequest, or what Host.chat takes: text or messages, with the same options. `await ChatResult.of(…)` is
        the whole answer. Who leaves a loop over the events half-way closes them, as `aclosing` does: what is only
        dropped goes on until Python collects it.

        For each of `generation.n` answers: Started, its Deltas, Finished; answers interleave, told apart by `index`.
        Raises before the first event: ModelNotFound, Unavailable, Overloaded, InvalidRequest. Also later:
        DeadlineExceeded, GenerationFailed, Unavailable (shutting down).
        """
        if not isinstance(request, ChatRequest):
            request = chat_request(request, options)
        elif options:
            raise TypeError("options are for plain messages; a ChatRequest holds its own")
        return self._answering.events(request, "chat", request.generation.n)

    def complete(
        self, request: CompletionRequest | Prompt, **options: Unpack[CompletionOptions]
    ) -> AsyncGenerator[Event, None]:
        """Each prompt continued `generation.n` times: index = number of the prompt * n + number of the answer.

        A CompletionRequest, or what Host.complete takes. Otherwise as `chat`.
        """
        if not isinstance(request, CompletionRequest):
            request = completion_request(request, options)
        elif options:
            raise TypeError("options are for a plain prompt; a CompletionRequest holds its own")
        return self._answering.events(request, "completion", request.generation.n * len(request.prompts))

    async def embed(self, request: EmbedRequest | str | Sequence[str], **options: Unpack[EmbedOptions]) -> Embeddings:
        """A vector for each input, of length 1 by pooling. Cancelling the call frees the device within a step.

        An EmbedRequest, or texts with the options of Host.embed. Raises ModelNotFound, Unavailable, Overloaded,
        InvalidRequest, DeadlineExceeded, GenerationFailed.
        """
        if not isinstance(request, EmbedRequest):
            request = embed_request(request, options)
        elif options:
            raise TypeError("options are for plain texts; an EmbedRequest holds its own")
        return await self._answering.embed(request)

    async def rerank(
        self, request: RerankRequest | str, documents: Sequence[str] = (), **options: Unpack[RerankOptions]
    ) -> Ranking:
        """How well each document answers the query, by the model's own head. Otherwise as `embed`."""
        if not isinstance(request, RerankRequest):
            request = rerank_request(request, documents, options)
        elif documents or options:
            raise TypeError("documents and options are for a plain query; a RerankRequest holds its own")
        return await self._answering.rank(request)

    async def load_adapter(self, name: str, path: str | Path, *, model: str = "", scale: float = 1.0) -> None:
        """Put a LoRA adapter beside a model: asked for by `model:name`. It works with `scale` where no other is given.

        Raises ModelNotFound, Unavailable, InvalidRequest with what is wrong with the file.
        """
        try:
            spec = AdapterSpec(name=name, path=adapter_file(path), scale=scale)
        except ManifestError as error:
            raise InvalidRequest(str(error), param=error.key) from error
        await self._fleet.load_adapter(model, spec)

    async def unload_adapter(self, name: str, *, model: str = "") -> None:
        """Answer nobody new with this adapter; its memory is free when the last answer with it is over."""
        await self._fleet.unload_adapter(model, name)

    async def scale_adapters(self, scales: Mapping[int | str, float], *, model: str = "") -> None:
        """How strongly adapters, by name or number, work for requests that name none. Those left out do not."""
        await self._fleet.scale_adapters(model, scales)

    async def tokenize(
        self, text: str, *, model: str = "", add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Token ids of `text`. Never Overloaded. Raises ModelNotFound, Unavailable."""
        async with self._fleet.lease(self._router.named(model), n_jobs=0) as replica:
            encode = replica.vocabulary.encode
            tokens = await replica.run(
                lambda: encode(text, add_special=add_special, parse_special=parse_special), len(text)
            )
            return tokens.tolist()

    async def detokenize(self, tokens: Sequence[int], *, model: str = "") -> str:
        """Text of `tokens`, control tokens left out. Raises InvalidRequest on an id outside the vocabulary."""
        try:
            ids = array("i", tokens)
        except OverflowError as error:
            raise InvalidRequest("a token id is out of range", param="tokens") from error
        async with self._fleet.lease(self._router.named(model), n_jobs=0) as replica:
            decode = replica.vocabulary.decode
            return (await replica.run(lambda: decode(ids), len(ids))).decode("utf-8", "replace")

    def models(self) -> tuple[ModelStatus, ...]:
        """Every model of the manifest as it stands now. Cheap: for /v1/models, /ready and /metrics."""
        return self._fleet.statuses()

    def routes(self) -> tuple[RouteSpec, ...]:
        """The names that stand for several models."""
        return self._router.routes

    def health(self) -> Health:
        """All of it in one. Cheap, and never waits for a step."""
        models = self._fleet.statuses()
        is_draining = self._fleet.is_draining
        return Health(
            is_ready=not is_draining and any(model.can_answer for model in models),
            is_stalled=any(model.is_stalled for model in models),
            is_draining=is_draining,
            models=models,
        )

    async def load(self, name: str, overrides: Mapping[str, object] | None = None) -> None:
        """Load a model, with other settings than its spec's where any are given, and wait until it is ready.

        Raises ModelNotFound, ManifestError on a bad setting, Unavailable with the reason, TypeError on an unknown one.
        """
        check_names(overrides or (), (each.name for each in fields(ModelSpec)), "setting")
        await self._fleet.load(name, overrides)

    async def unload(self, name: str) -> None:
        """Take a model out of memory when nobody uses it any more, and wait for that. Idempotent."""
        await self._fleet.unload(name)

    async def adopt(self, manifest: Manifest) -> tuple[str, ...]:
        """Serve another manifest: only what changed is touched. How the server listens stays as it was; the settings
        that differ and wait for a restart are returned.
        """
        waiting = await self._fleet.adopt(manifest)
        self._router.adopt(manifest)
        return waiting

    def observe(self, observer: Observer) -> None:
        """Have it told too of each request that ends from now on."""
        self._observers.all.append(observer)

    def listen(self, callback: Callable[[FleetEvent], None]) -> Callable[[], None]:
        """Have it told on the loop when a model changes, and how its load goes; returns what ends that."""
        return self._fleet.listen(callback)

    def quarantine(self, pci_id: str, reason: str) -> None:
        """A card is broken: nothing is put there any more, and what was there goes elsewhere if it can.

        For as long as the process lives: its driver's context is lost with the card.
        """
        self._fleet.lose(pci_id, reason)


def _load(spec: ModelSpec, machine: Machine, on_progress: Callable[[float], None]) -> Opened:
    """In a load thread, where importing llama_cpp keeps nobody waiting."""
    from llamahost.fleet.machine.inspect import ensure
    from llamahost.fleet.replica.loader import load

    return load(spec, machine, on_progress, inspect=ensure)


def _facts(spec: ModelSpec) -> FileFacts:
    from llamahost.fleet.machine.facts import facts_of

    return facts_of(spec)


def _fetch(spec: ModelSpec, on_step: Callable[[Step], None], cancelled: threading.Event) -> ModelSpec:
    from llamahost.fleet.machine.bring import brought

    return brought(spec, on_step, cancelled)
