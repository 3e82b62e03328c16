"""The library's asynchronous face: words in, events out, on the models of one manifest.

Knows requests, events and leases; knows no HTTP, no dialect and no thread.
"""

from __future__ import annotations

import asyncio
import difflib
import math
import os
import threading
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypedDict, TypeVar, Unpack

from llamahost.account import Account, Measure
from llamahost.core.errors import (
    DeadlineExceeded,
    GenerationFailed,
    InvalidRequest,
    ManifestError,
    ModelNotFound,
    Overloaded,
    Unavailable,
)
from llamahost.core.events import Delta, Event
from llamahost.core.machine import Machine
from llamahost.core.messages import AdapterUse, ChatRequest, CompletionRequest, Generation, SamplingOptions
from llamahost.core.observe import FleetEvent, Kind, Observer, RequestRecord, request_id
from llamahost.core.vectors import Embeddings, EmbedRequest, Ranking, RerankRequest
from llamahost.core.work import NO_ADAPTERS, Adapters, Vector
from llamahost.fleet.adapters import AdapterSpec
from llamahost.fleet.builtin import builtin, is_named
from llamahost.fleet.cache import cache_folder
from llamahost.fleet.devices import Devices, MachineDevices, is_same_card
from llamahost.fleet.fleet import Fleet
from llamahost.fleet.footprint import FileFacts
from llamahost.fleet.loading import Load
from llamahost.fleet.manifest import Manifest, ModelSpec
from llamahost.fleet.opened import Opened
from llamahost.fleet.replica import Replica
from llamahost.fleet.route_spec import RouteSpec
from llamahost.fleet.router import Router
from llamahost.fleet.status import ModelStatus, ReplicaStatus, State

if TYPE_CHECKING:  # the loader brings llama_cpp, which a process that only starts up need not wait for
    from llamahost.fleet.download import Step
    from llamahost.fleet.loader import Prepared

Whole = TypeVar("Whole", Embeddings, Ranking)
Words = TypeVar("Words", bound=ChatRequest | CompletionRequest)

__all__ = ["AsyncHost", "Health", "ModelStatus", "ReplicaStatus", "SpecOptions", "State"]


class SpecOptions(TypedDict, total=False):
    """The fields of ModelSpec that may be given beside a path; ModelSpec says what each means."""

    name: str
    aliases: tuple[str, ...]
    n_ctx: int | None
    n_slots: int | None
    kv_layout: Literal["auto", "split", "unified"]
    n_cells: int | None
    kv_type_k: str
    kv_type_v: str
    n_batch: int
    n_ubatch: int
    n_gpu_layers: int | Literal["auto"]
    flash_attention: Literal["auto", "on", "off"]
    n_threads: int | None
    swa_full: bool
    template: str
    sampling: SamplingOptions
    adapters: tuple[AdapterSpec, ...]
    embeddings: bool
    pooling: Literal["auto", "none", "mean", "cls", "last", "rank"]
    query_prefix: str
    document_prefix: str
    max_queue: int
    timeout_s: float | None
    target_step_s: float
    devices: Literal["auto"] | tuple[str, ...]
    split_mode: Literal["none", "layer", "row", "tensor"]
    tensor_split: tuple[float, ...]
    main_device: int
    n_cpu_moe: int
    override_tensor: tuple[str, ...]
    mmap: bool
    mlock: bool
    rope_freq_base: float | None
    rope_freq_scale: float | None
    rope_scaling: Literal["auto", "none", "linear", "yarn", "longrope"]
    yarn_orig_ctx: int | None
    yarn_ext_factor: float | None
    yarn_attn_factor: float | None
    yarn_beta_fast: float | None
    yarn_beta_slow: float | None
    replicas: int | Literal["per-gpu"]
    task: Literal["auto", "chat", "completion", "embedding", "rerank"]
    max_sampling: Mapping[str, float]


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
    options, a ModelSpec, a whole Manifest, or None for a host that answers Unavailable. One model answers to any name
    unless `is_strict`. `load` opens a model and `hardware` is where it may be put; both are there for tests.
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
        manifest = _manifest_of(model, options)
        self._observer = observer
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

    async def start(self) -> None:
        """Begin to load and return at once; `health` tells how it goes. Needed only where `async with` is not used."""
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

    def chat(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """The conversation's next turn. Closing the generator cancels; the slot is free within a step.

        For each of `generation.n` answers: Started, its Deltas, Finished; answers interleave, told apart by `index`.
        Raises before the first event: ModelNotFound, Unavailable, Overloaded, InvalidRequest. Also later:
        DeadlineExceeded, GenerationFailed, Unavailable (shutting down).
        """
        return self._answer(request, "chat", request.generation.n)

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Event, None]:
        """Each prompt continued `generation.n` times: index = number of the prompt * n + number of the answer.

        Otherwise as `chat`.
        """
        return self._answer(request, "completion", request.generation.n * len(request.prompts))

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """A vector for each input, of length 1 by pooling. Cancelling the call frees the device within a step.

        Raises ModelNotFound, Unavailable, Overloaded, InvalidRequest, DeadlineExceeded, GenerationFailed.
        """

        async def embed(replica: Replica, record: Measure) -> Embeddings:
            prepared, vectors = await replica.embed(request)
            record.n_prompt = prepared.n_tokens
            if request.dimensions is not None and request.dimensions != replica.n_dim:
                n, whole = request.dimensions, vectors
                vectors = await replica.run(lambda: tuple(_first(vector, n) for vector in whole), n * len(whole))
            return Embeddings(
                vectors=vectors,
                model=replica.spec.name,
                n_tokens=prepared.n_tokens,
                cut=prepared.cut,
                n_token_dim=replica.n_token_dim,
                replica=record.replica,
                n_tries=record.n_tries,
            )

        return await self._whole(request, "embedding", embed)

    async def rerank(self, request: RerankRequest) -> Ranking:
        """How well each document answers the query, by the model's own head. Otherwise as `embed`."""

        async def rank(replica: Replica, record: Measure) -> Ranking:
            prepared, vectors = await replica.rank(request)
            record.n_prompt = prepared.n_tokens
            return Ranking(
                scores=tuple(vector[0] for vector in vectors),
                model=replica.spec.name,
                n_tokens=prepared.n_tokens,
                is_probability=replica.has_probabilities,
                cut=prepared.cut,
                replica=record.replica,
                n_tries=record.n_tries,
            )

        return await self._whole(request, "rerank", rank)

    async def load_adapter(self, name: str, path: str | Path, *, model: str = "", scale: float = 1.0) -> None:
        """Put a LoRA adapter beside a model: asked for by `model:name`. It works with `scale` where no other is given.

        Raises ModelNotFound, Unavailable, InvalidRequest with what is wrong with the file.
        """
        try:
            spec = AdapterSpec(name=name, path=Path(path), scale=scale)
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

        Raises ModelNotFound, ManifestError on a bad setting, Unavailable with the reason.
        """
        await self._fleet.load(name, overrides)

    async def unload(self, name: str) -> None:
        """Take a model out of memory when nobody uses it any more, and wait for that. Idempotent."""
        await self._fleet.unload(name)

    async def adopt(self, manifest: Manifest) -> None:
        """Serve another manifest: only what changed is touched. How the server listens stays as it was."""
        await self._fleet.adopt(manifest)
        self._router.adopt(manifest)

    def listen(self, callback: Callable[[FleetEvent], None]) -> Callable[[], None]:
        """Have it told on the loop when a model changes, and how its load goes; returns what ends that."""
        return self._fleet.listen(callback)

    def quarantine(self, pci_id: str, reason: str) -> None:
        """A card is broken: nothing is put there any more, and what was there goes elsewhere if it can.

        For as long as the process lives: its driver's context is lost with the card.
        """
        for device in self._fleet.devices():
            if is_same_card(device.pci_id, pci_id):
                self._fleet.quarantine(device.id, reason)

    async def _whole(
        self,
        request: EmbedRequest | RerankRequest,
        kind: Kind,
        work: Callable[[Replica, Measure], Awaitable[Whole]],
    ) -> Whole:
        """One request that is answered whole: within its deadline, and told of when it is over."""
        clock = asyncio.get_running_loop().time
        arrived = clock()
        measure = Measure(request.model)
        try:
            if self._fleet.named(request.model)[1]:
                raise InvalidRequest(
                    f"`{request.model}` is an adapter, which answers and does not embed", param="model"
                )
            tries = self._router.tries(request, kind, 1)
            measure.route, measure.model = tries.route, tries.model
            while True:
                async with tries.lease() as replica:
                    measure.model, measure.replica, measure.n_tries = tries.model, tries.replica, tries.n_tries
                    try:
                        async with asyncio.timeout_at(tries.deadline(tries.model)):
                            found = await work(replica, measure)
                    except TimeoutError as error:
                        raise DeadlineExceeded(tries.timeout_s(tries.model) or 0.0) from error
                    measure.outcome = "stop"
                    return found
        except (InvalidRequest, ModelNotFound, Overloaded, Unavailable) as error:
            measure.outcome, measure.error = "error" if measure.n_prompt else "rejected", type(error).__name__
            raise
        except (DeadlineExceeded, GenerationFailed) as error:
            measure.outcome, measure.error = "error", type(error).__name__
            raise
        finally:
            if self._observer is not None:
                self._observer.finished(
                    RequestRecord(
                        model=measure.model,
                        kind=kind,
                        id=request_id.get(),
                        error=measure.error,
                        n_prompt=measure.n_prompt,
                        total_s=clock() - arrived,
                        outcome=measure.outcome,
                        route=measure.route,
                        replica=measure.replica,
                        n_tries=measure.n_tries,
                    )
                )

    def _adapted(self, request: Words) -> tuple[str, Words]:
        """The adapter that its model's name has, if any, and the request, which then asks for that of the model."""
        model, adapter = self._fleet.named(request.model)
        if not adapter:
            return "", request
        if request.generation.adapters:
            raise InvalidRequest(
                f"adapters are given by `lora` and by the model's name, `{request.model}`; give one", param="lora"
            )
        generation = replace(request.generation, adapters=(AdapterUse(adapter),))
        return adapter, replace(request, model=model, generation=generation)

    @asynccontextmanager
    async def _held(self, replica: Replica, generation: Generation) -> AsyncIterator[Adapters]:
        """What a request is computed with, which is kept in memory meanwhile. Raises InvalidRequest."""
        uses = self._fleet.uses(replica.spec.name, generation.adapters) if generation.adapters else ()
        adapters = replica.adapters.of(uses)
        with replica.adapters.held(adapters):
            yield adapters

    async def _answer(
        self, request: ChatRequest | CompletionRequest, kind: Kind, n_jobs: int
    ) -> AsyncGenerator[Event, None]:
        account = Account(request, kind)
        try:
            adapter, request = self._adapted(request)
            asked: ChatRequest | CompletionRequest | None = request
            tries = account.tries = self._router.tries(request, kind, n_jobs)
            account.model = tries.model  # a client that leaves now is counted by no name of its own
            generation = request.generation
            del request
            while True:
                async with tries.lease() as replica, self._held(replica, generation) as adapters:
                    account.model = tries.model
                    timeout_s, deadline = tries.timeout_s(tries.model), tries.deadline(tries.model)
                    assert asked is not None, "who has begun is not tried again"
                    prepared = await _prepare(replica, asked, deadline, timeout_s)
                    if adapters != NO_ADAPTERS:
                        prepared = prepared.with_adapters(adapters, adapter)
                    account.begin(prepared)
                    jobs = prepared.jobs
                    if tries.is_aside:
                        jobs = tuple(replace(job, is_aside=True) for job in jobs)
                    replies = {job.id: reply for job, reply in zip(jobs, prepared.replies, strict=True)}
                    with replica.stream(jobs) as stream:
                        if deadline is not None and timeout_s is not None:
                            stream.expire_at(deadline, timeout_s)
                        async for emission in stream:
                            account.times = emission.times
                            reply = replies[emission.job_id]
                            events = reply.feed(emission)
                            if reply.is_finished:
                                stream.drop(emission.job_id)  # a stop string: no slot is kept while events are sent
                            for event in events:
                                if type(event) is not Delta or not account.first_s:
                                    tries.has_begun = True
                                    asked = None  # half a megabyte of text need not stay while the answer is made
                                    event = account.see(event)
                                yield event
                    tries.learn(account.answered())
                    return
        except BaseException as error:
            account.failed(error)
            raise
        finally:
            if self._observer is not None:
                self._observer.finished(account.record())


def _first(vector: Vector, n: int) -> Vector:
    """The first n dimensions, of length 1 again."""
    head = vector[:n]
    length = math.sqrt(math.fsum(value * value for value in head))
    return array("f", (value / length for value in head)) if length > 0 else head


async def _prepare(
    replica: Replica, request: ChatRequest | CompletionRequest, deadline: float | None, timeout_s: float | None
) -> Prepared:
    if deadline is None or timeout_s is None:
        return await replica.prepare(request)
    try:
        async with asyncio.timeout_at(deadline):
            return await replica.prepare(request)
    except TimeoutError as error:
        raise DeadlineExceeded(timeout_s) from error


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises TypeError that names the nearest known name."""
    known = tuple(known)
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean `{nearest[0]}`?" if nearest else f"; the known ones are {', '.join(known)}"
            raise TypeError(f"unknown {what} `{name}`{hint}")


def _manifest_of(model: str | Path | ModelSpec | Manifest | None, options: SpecOptions) -> Manifest:
    if isinstance(model, str | Path):
        if is_named(model):
            return Manifest(models=(builtin(model=model, **options),))
        path = Path(model)
        return Manifest(models=(replace(ModelSpec(name=path.stem, path=path), **options),))
    if isinstance(model, ModelSpec):
        return Manifest(models=(replace(model, **options),))
    if options:
        raise TypeError("options are for one model's path; a manifest holds its own")
    return model or Manifest()


def _load(spec: ModelSpec, machine: Machine, on_progress: Callable[[float], None]) -> Opened:
    """In a load thread, where importing llama_cpp keeps nobody waiting."""
    from llamahost.fleet.inspect import ensure
    from llamahost.fleet.loader import load

    return load(spec, machine, on_progress, inspect=ensure)


def _facts(spec: ModelSpec) -> FileFacts:
    from llamahost.fleet.facts import facts_of

    return facts_of(spec)


def _fetch(spec: ModelSpec, on_step: Callable[[Step], None], cancelled: threading.Event) -> ModelSpec:
    from llamahost.fleet.bring import brought

    return brought(spec, on_step, cancelled)
