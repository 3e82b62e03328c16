"""One loaded model that answers: words to jobs in a lane, jobs to emissions through its worker.

Knows no name, queue or state; the fleet does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from llamahost.core.backend import Vocabulary
from llamahost.core.errors import (
    InvalidRequest,
    LoadFailed,
    ManifestError,
    NotAble,
    Unavailable,
)
from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.core.threads import in_thread
from llamahost.core.vectors import EmbedRequest, RerankRequest
from llamahost.core.work import Job, KeptSlot, Vector
from llamahost.engine.engine import Engine, EngineStats
from llamahost.engine.outbox import Outbox
from llamahost.engine.worker import Worker
from llamahost.fleet.replica.adapters import AdapterTable
from llamahost.fleet.replica.opened import Opened
from llamahost.fleet.replica.stream import MayGo, Stream, never
from llamahost.fleet.replica.vectors import Vectors
from llamahost.fleet.request.amounts import N_MESSAGE, N_SMALL, n_chars_of_chat, n_chars_of_completion
from llamahost.fleet.request.inputs import PreparedInputs
from llamahost.fleet.request.lanes import Lanes
from llamahost.fleet.request.prepared import Prepared
from llamahost.fleet.settings.adapter_spec import AdapterSpec, check_together
from llamahost.fleet.settings.builtin import verify
from llamahost.fleet.settings.manifest import ModelSpec
from llamahost.text.remembered import Heard

MAX_NUMBERS = 2**26
"""Of an answer with a vector for each token: as many as the longest vectors of the most inputs have otherwise."""

Result = TypeVar("Result")


class Replica:
    """Owned by the loop."""

    def __init__(
        self,
        opened: Opened,
        engine: Engine | None,
        vectors: Vectors | None,
        worker: Worker,
        outbox: Outbox,
        lanes: Lanes,
    ) -> None:
        self.spec = opened.spec
        self.card = opened.card
        self.outbox = outbox
        self._inputs = opened.inputs
        self._vectors = vectors
        embedder = opened.embedder
        self._pooling = embedder.pooling if embedder is not None else None
        self.n_dim = embedder.n_dim if embedder is not None else 0
        self.has_probabilities = embedder is not None and embedder.has_probabilities
        self._model = opened.model
        self._forsaken = asyncio.Event()
        self.measured = opened.measured
        self._preparer = opened.preparer
        self._engine = engine
        self._worker = worker
        self._lanes = lanes
        self._in_lanes: set[Future[Any]] = set()
        self._streams: dict[Stream, None] = {}  # the oldest first
        self._is_looking = False  # at who waits
        self._refusal: Exception | None = None
        self.adapters = AdapterTable(opened.spec.name, self._free_adapter)
        self._backend = opened.backend
        self._opening_adapter = asyncio.Lock()
        for spec, id_ in zip(opened.spec.adapters, opened.adapter_ids, strict=True):
            self.adapters.add(spec, id_)
        if engine is not None:
            worker.attach(engine)

    @property
    def stats(self) -> EngineStats:
        """Of what generates, with what embeds beside it; of what embeds, where nothing generates."""
        embedding = self._vectors.stats if self._vectors is not None else EngineStats()
        return embedding if self._engine is None else self._engine.stats.and_of(embedding)

    @property
    def heard(self) -> Heard:
        """What the memory of prompts was good for."""
        return self._preparer.heard

    @property
    def n_token_dim(self) -> int:
        """Numbers of a token's vector, where an input has one for each; else 0."""
        return self.n_dim if self._pooling == "none" else 0

    @property
    def vocabulary(self) -> Vocabulary:
        return self._model.vocab

    def adopt(self, spec: ModelSpec) -> None:
        """Go by what of this spec takes no other load. Raises InvalidRequest where that does not go with the file's."""
        if (spec.sampling, spec.max_sampling) != (self.spec.sampling, self.spec.max_sampling):
            self._preparer = self._preparer.with_sampling(spec.sampling, spec.max_sampling)
        self.spec = replace(self.spec, sampling=spec.sampling, max_sampling=spec.max_sampling, max_queue=spec.max_queue)

    async def prepare(self, request: ChatRequest | CompletionRequest) -> Prepared:
        """The jobs of this request and the replies that read them. Raises InvalidRequest."""
        if self._engine is None:
            does = "scores documents; use /v1/rerank" if self._pooling == "rank" else "embeds; use /v1/embeddings"
            raise NotAble(f"`{self.spec.name}` generates no text, it {does}", param="model")
        if isinstance(request, ChatRequest):
            chat = request
            return await self.run(lambda: self._preparer.chat(chat), n_chars_of_chat(chat))
        complete = request
        return await self.run(lambda: self._preparer.complete(complete), n_chars_of_completion(complete))

    async def embed(self, request: EmbedRequest, may_go: MayGo = never) -> tuple[PreparedInputs, tuple[Vector, ...]]:
        """The tokens of each input, and its vector. Raises InvalidRequest, GenerationFailed."""
        name = self.spec.name
        if self._vectors is None:
            raise NotAble(
                f"`{name}` does not embed as it is served: serve it with --embeddings, or `embeddings = true`; a "
                "manifest can name a model that embeds beside it, such as builtin-embed",
                param="model",
            )
        if self._pooling == "rank":
            raise NotAble(f"`{name}` scores documents, it has no embeddings; use /v1/rerank", param="model")
        if request.dimensions is not None:
            self._check_dimensions(request.dimensions)
        n_chars = sum(map(len, request.inputs)) + N_MESSAGE * len(request.inputs)
        prepared = await self.run(lambda: self._inputs.embed(request), n_chars)
        if self._pooling == "none" and prepared.n_tokens * self.n_dim > MAX_NUMBERS:
            raise InvalidRequest(
                f"{prepared.n_tokens} tokens have {prepared.n_tokens * self.n_dim} numbers, of which one answer holds "
                f"at most {MAX_NUMBERS}; send fewer inputs",
                param="input",
            )
        return prepared, await self._vectors.of(prepared.job, may_go)

    async def rank(self, request: RerankRequest, may_go: MayGo = never) -> tuple[PreparedInputs, tuple[Vector, ...]]:
        """The tokens of each pair, and its scores. Raises as `embed`."""
        if self._vectors is None or self._pooling != "rank":
            raise NotAble(f"`{self.spec.name}` is no reranker: it has no head for scores", param="model")
        n_chars = sum(map(len, request.documents)) + (N_MESSAGE + len(request.query)) * len(request.documents)
        prepared = await self.run(lambda: self._inputs.rank(request), n_chars)
        return prepared, await self._vectors.of(prepared.job, may_go)

    async def load_adapter(self, spec: AdapterSpec) -> None:
        """Put an adapter beside the model. Raises InvalidRequest, also where its file cannot be used."""
        if self._engine is None:
            raise InvalidRequest(f"`{self.spec.name}` generates no text, which adapters are for", param="model")
        async with self._opening_adapter:
            if spec.name in self.adapters:
                raise InvalidRequest(f"`{self.spec.name}` has an adapter `{spec.name}` already", param="lora_name")
            self.adapters.add(spec, await self._opened_adapter(spec, self.adapters.specs))

    async def _opened_adapter(self, spec: AdapterSpec, others: Sequence[AdapterSpec]) -> int:
        """Raises InvalidRequest."""
        try:
            check_together((*others, spec))
            await in_thread(f"verify-{spec.name}", lambda: verify(spec.path))
            return await in_thread(f"load-{spec.name}", lambda: self._model.adapters.open(spec.path))
        except (ManifestError, LoadFailed) as error:
            raise InvalidRequest(str(error), param="lora_path") from error

    async def _renew_adapters(self) -> InvalidRequest | None:
        """Those whose files are others by now. One that cannot be loaded so stays as it is; why the last one did."""
        opened, known = self._model.adapters, self.adapters.ids()
        failure: InvalidRequest | None = None

        def changed() -> list[AdapterSpec]:
            return [spec for spec, id_ in known if not opened.is_as_opened(id_, spec.path)]

        for spec in await in_thread(f"look-{self.spec.name}", changed) if known else ():
            async with self._opening_adapter:
                try:
                    id_ = await self._opened_adapter(spec, ())
                except InvalidRequest as error:
                    failure = error
                    continue
                self.adapters.remove(spec.name)
                self.adapters.add(spec, id_)
        return failure

    async def adapt(self, specs: Sequence[AdapterSpec]) -> None:
        """Have these adapters and no others, as their files are now. Raises InvalidRequest where one cannot be loaded;
        the others are.
        """
        if self._engine is None:
            return
        wanted = {spec.name: spec for spec in specs}
        for known in self.adapters.specs:
            if known.name not in wanted or known.path != wanted[known.name].path:
                self.adapters.remove(known.name)
        failure = await self._renew_adapters()
        for spec in specs:
            try:
                if spec.name not in self.adapters:
                    await self.load_adapter(spec)
            except InvalidRequest as error:
                failure = error
        self.adapters.rescale(specs)
        if failure is not None:
            raise failure

    def _free_adapter(self, id_: int) -> None:
        backend = self._backend
        assert backend is not None, "an adapter was used without one"
        self._worker.call(lambda: backend.free_adapter(id_))

    def _check_dimensions(self, n: int) -> None:
        if n > self.n_dim:
            raise InvalidRequest(
                f"dimensions must be at most {self.n_dim}, the model's own, not {n}", param="dimensions"
            )
        if self._pooling == "none" and n < self.n_dim:
            raise InvalidRequest("a vector for each token is told with all its dimensions", param="dimensions")

    async def run(self, work: Callable[[], Result], n_chars: int) -> Result:
        """Do work on `n_chars` of text that touches the vocabulary and no context: here if small, else in a lane."""
        if self._refusal is not None:
            raise self._refusal
        if n_chars <= N_SMALL:
            return work()
        future = self._lanes.submit(work, n_chars)
        # A cancelled caller does not stop a thread that tokenises: the model must outlive it, so `close` waits.
        self._in_lanes.add(future)
        future.add_done_callback(self._in_lanes.discard)
        return await asyncio.wrap_future(future)

    def stream(self, jobs: Sequence[Job], may_go: MayGo = never) -> Stream:
        """These jobs, submitted on entering and aborted on leaving."""
        return Stream(self, jobs, may_go)

    def enter(self, stream: Stream) -> Exception | None:
        """Called by Stream alone; returns why it is refused, if it is."""
        self._streams[stream] = None
        return self._refusal

    def submit(self, job: Job) -> None:
        """Called by Stream alone."""
        assert self._engine is not None, "nothing is prepared without one"
        self._worker.submit(self._engine, job)

    def leave(self, stream: Stream) -> None:
        """Called by Stream alone."""
        self._streams.pop(stream, None)

    def abort(self, job_id: int) -> None:
        """End a job before the next plan. Idempotent, returns at once."""
        assert self._engine is not None, "nothing is submitted without one"
        self._worker.abort(self._engine, job_id)

    async def keep(self, n_bytes: int) -> tuple[KeptSlot, ...]:
        """What its slots hold, within so many bytes; nothing runs on it any more."""
        engine = self._engine
        if engine is None:
            return ()
        kept: Future[tuple[KeptSlot, ...]] = Future()

        def keep() -> None:
            try:
                kept.set_result(engine.keep(n_bytes))
            except Exception as error:  # told where it is waited for: the unload goes on
                kept.set_exception(error)

        self._worker.call(keep)
        return await self._worker_does(kept) or ()

    def restore(self, kept: Sequence[KeptSlot]) -> None:
        """Have that in its slots before any request comes."""
        engine = self._engine
        if engine is not None and kept:
            self._worker.call(lambda: engine.restore(kept))

    def refuse(self, error: Exception) -> None:
        """End every stream with this error, and whatever is asked for later too."""
        self._refusal = error
        for stream in tuple(self._streams):
            stream.fail(error)
        if self._vectors is not None:
            self._vectors.refuse(error)

    def let_go(self) -> None:
        """A step of its device does not return: who waits for it, and has no part in it, may go elsewhere."""
        why = f"a step does not return where `{self.spec.name}` runs"
        doing = self._engine.doing if self._engine is not None else None
        for stream in tuple(self._streams):
            stream.let_go(doing.job_ids if doing is not None else (), why)
        if self._vectors is not None:
            self._vectors.let_go(why)

    def spare(self, how_many: Callable[[], int]) -> None:
        """Let so many answers go to another replica that wait here for a slot, those that wait the longest first.

        It is asked how many when it is known who waits, which is after the step that runs.
        """
        engine, loop = self._engine, asyncio.get_running_loop()
        if engine is None or self._is_looking:
            return
        self._is_looking = True

        def look() -> None:
            waiting = engine.waiting()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._spare, waiting, how_many)

        self._worker.call(look)

    def _spare(self, waiting: frozenset[int], how_many: Callable[[], int]) -> None:
        self._is_looking = False
        n = how_many()
        for stream in tuple(self._streams):
            if n > 0:
                n -= stream.spare(waiting)

    def forsake(self) -> None:
        """Its device is broken: what is there stays there, untouched, also when this is closed."""
        self._model.forsake()
        self._forsaken.set()

    async def close(self) -> None:
        """Take the engine off its worker and free the model, when nothing touches the vocabulary any more.

        Safe also while somebody still holds on to this replica: all that he gets is a refusal.
        """
        if self._refusal is None:
            self.refuse(Unavailable(f"`{self.spec.name}` was unloaded"))
        while self._in_lanes:
            waits = [asyncio.wrap_future(future) for future in tuple(self._in_lanes)]
            await asyncio.gather(*waits, return_exceptions=True)
        detached = [self._vectors.detach()] if self._vectors is not None else []
        if self._engine is not None:
            detached.append(self._worker.detach(self._engine))
        # Only then: a context that could not be freed, or still computes, keeps its model.
        for each in detached:
            await self._worker_does(each)
        if not self._forsaken.is_set():
            await in_thread(f"load-{self.spec.name}", self._model.close)

    async def _worker_does(self, work: Future[Result]) -> Result | None:
        """What came of it. Once this is forsaken nothing is waited for: the worker may wait for a driver that answers
        no more.
        """
        done, forsaken = asyncio.wrap_future(work), asyncio.ensure_future(self._forsaken.wait())
        try:
            await asyncio.wait((done, forsaken), return_when=asyncio.FIRST_COMPLETED)
        finally:
            forsaken.cancel()
        return None if self._forsaken.is_set() else done.result()
