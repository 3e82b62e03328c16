"""The library's plain face: `Host` runs an AsyncHost on a loop thread of its own and folds events into results.

Knows no thread of the engine; may be used from several threads at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import aclosing
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, Self, TypeVar, Unpack, overload

from llamahost.core.errors import Unavailable
from llamahost.core.events import Delta, Event
from llamahost.core.results import ChatResult, CompletionResult, Fold, chat_result, completion_result, whole
from llamahost.core.vectors import Embeddings, Ranking
from llamahost.given import (
    ChatOptions,
    CompletionOptions,
    EmbedOptions,
    Prompt,
    RerankOptions,
    SpecOptions,
    Turns,
    chat_request,
    completion_request,
    embed_request,
    rerank_request,
)
from llamahost.host import AsyncHost, ModelStatus

if TYPE_CHECKING:
    from llamahost.fleet.replica.loading import Load
    from llamahost.fleet.settings.manifest import Manifest, ModelSpec

Result = TypeVar("Result")

_FORKED = "this Host was made before the process forked; each process makes one of its own"


class Stream(Generic[Result]):
    """The Deltas of a request as they come: iterate it, once. Closing it, or leaving its `with`, aborts the request.

    Owned by one thread at a time. `result` is the whole, once the iteration has ended.
    """

    def __init__(self, host: Host, events: Callable[[], AsyncGenerator[Event, None]], fold: Fold[Result]) -> None:
        self._host: Host | None = host  # which is not gone before its stream has ended
        self._fold = fold
        self._queue: SimpleQueue[Event | BaseException | None] = SimpleQueue()
        self._is_over = False
        self._process = os.getpid()
        self._cancel = host.pump(events, self._queue)

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        while not self._is_over:
            if self._process != os.getpid():  # what is put into its queue is its parent's
                raise Unavailable(_FORKED)
            item = self._queue.get()
            if item is None or isinstance(item, BaseException):
                self._is_over, self._host = True, None
                if item is not None:
                    raise item
            else:
                self._fold.feed(item)
                if isinstance(item, Delta):
                    return item
        raise StopIteration

    @property
    def result(self) -> Result:
        """Everything that came, as a plain call would have returned it. Raises RuntimeError before the end."""
        if not self._fold.is_whole:
            raise RuntimeError("the stream has not come to its end")
        return self._fold.result()

    def close(self) -> None:
        """Stop here: the slot is free within a step. Idempotent."""
        self._is_over, self._host = True, None
        self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Stream is neither copied nor sent to another process; its `result` may be")

    def __del__(self) -> None:  # `for delta in host.chat(..., stream=True): break` leaves nothing running
        if hasattr(self, "_cancel"):
            self.close()


class Host:
    """A model, opened and answering, for programs that do not use asyncio.

    with Host("model.gguf", n_ctx=4096) as host:
        print(host.chat("Why is the sky blue?", temperature=0.2, max_tokens=200).text)
        for delta in host.chat("Say hello.", stream=True):
            print(delta.text, end="")

    Any number of threads may use it at once; what they ask together is computed together. Ctrl-C ends the call that
    waits, and its request. It belongs to the process that made it: a forked child makes one of its own. One that
    nobody holds any more is closed, with a ResourceWarning.

    Raises LoadFailed. Options are the fields of ModelSpec, such as n_ctx, n_slots, n_gpu_layers.
    """

    def __init__(
        self,
        model: str | Path | ModelSpec | Manifest,
        *,
        is_strict: bool = False,
        load: Load | None = None,
        **options: Unpack[SpecOptions],
    ) -> None:
        self._host = AsyncHost(model, is_strict=is_strict, load=load, **options)
        self._is_closed = False
        # Held from the look whether it is closed to the hand-over to the loop. What is handed over was before `close`,
        # then, and so before all that it has the loop do: nothing waits for a loop that has stopped.
        self._handing = threading.Lock()
        self._process = os.getpid()
        self._loop = _new_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="llamahost-loop", daemon=True)
        self._thread.start()
        try:
            self._call(self._host.__aenter__())
        except BaseException:
            self._is_closed = True
            self._end()
            raise

    @overload
    def chat(
        self, messages: Turns, *, stream: Literal[False] = False, **options: Unpack[ChatOptions]
    ) -> ChatResult: ...

    @overload
    def chat(self, messages: Turns, *, stream: Literal[True], **options: Unpack[ChatOptions]) -> Stream[ChatResult]: ...

    @overload
    def chat(
        self, messages: Turns, *, stream: bool, **options: Unpack[ChatOptions]
    ) -> ChatResult | Stream[ChatResult]: ...

    def chat(
        self, messages: Turns, *, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> ChatResult | Stream[ChatResult]:
        """The conversation's next turn; text alone is a user's first. With `stream`, its Deltas as they come.

        host.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}], max_tokens=50)

        Messages, and `tools`, are as OpenAI writes them, or Message and Tool; an assistant's message may hold the
        `tool_calls` of a result, and a tool's has its `tool_call_id`. Options, of which None is none:

        model, tools, tool_choice, n_calls, output, thinking, max_reasoning, tells_reasoning, reasoning_end,
        continued, template_options: see ChatRequest
        max_tokens, stop, stop_ids, n, n_logprobs, ignore_eos, adapters, priority, timeout_s: see Generation
        temperature, top_p, top_k, min_p, seed, … : see SamplingOptions

        Raises what AsyncHost.chat raises; a Stream does when it is read.
        """
        request = chat_request(messages, options)
        return self._answer(partial(self._host.chat, request), Fold(chat_result), is_streamed=stream)

    @overload
    def complete(
        self, prompt: Prompt, *, stream: Literal[False] = False, **options: Unpack[CompletionOptions]
    ) -> CompletionResult: ...

    @overload
    def complete(
        self, prompt: Prompt, *, stream: Literal[True], **options: Unpack[CompletionOptions]
    ) -> Stream[CompletionResult]: ...

    @overload
    def complete(
        self, prompt: Prompt, *, stream: bool, **options: Unpack[CompletionOptions]
    ) -> CompletionResult | Stream[CompletionResult]: ...

    def complete(
        self, prompt: Prompt, *, stream: bool = False, **options: Unpack[CompletionOptions]
    ) -> CompletionResult | Stream[CompletionResult]:
        """A text, or its tokens, continued as it is; or several texts. With `stream`, the Deltas as they come.

        host.complete("Once upon a time", max_tokens=64).text

        Options are those of `chat` that are in Generation and SamplingOptions, with `model` and `output`; and `echo`,
        `n_prompt_logprobs`, `suffix`: see CompletionRequest. An echo, and what was asked of the prompt's tokens, is in
        the result; a stream's Deltas are of the answer alone. Raises what AsyncHost.complete raises.
        """
        request = completion_request(prompt, options)
        return self._answer(partial(self._host.complete, request), Fold(completion_result), is_streamed=stream)

    def embed(self, inputs: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Embeddings:
        """A vector for each text, of length 1 by pooling: `host.embed(["a", "b"]).vectors`.

        Options: model, kind ("query" or "document"), dimensions, is_cut, timeout_s: see EmbedRequest. Raises what
        AsyncHost.embed raises.
        """
        return self._call(self._host.embed(embed_request(inputs, options)))

    def rerank(self, query: str, documents: Sequence[str], **options: Unpack[RerankOptions]) -> Ranking:
        """The score of each document, in their order: `host.rerank("a question", documents).scores`.

        Options: model, is_cut, timeout_s: see RerankRequest. Raises what AsyncHost.rerank raises.
        """
        return self._call(self._host.rerank(rerank_request(query, documents, options)))

    def load_adapter(self, name: str, path: str | Path, *, model: str = "", scale: float = 1.0) -> None:
        """Put a LoRA adapter beside a model: asked for by `model="model:name"`. Raises what AsyncHost's raises."""
        self._call(self._host.load_adapter(name, path, model=model, scale=scale))

    def unload_adapter(self, name: str, *, model: str = "") -> None:
        """Answer nobody new with this adapter."""
        self._call(self._host.unload_adapter(name, model=model))

    def scale_adapters(self, scales: Mapping[int | str, float], *, model: str = "") -> None:
        """How strongly adapters, by name or number, work for requests that name none. Those left out do not."""
        self._call(self._host.scale_adapters(scales, model=model))

    def tokenize(
        self, text: str, *, model: str = "", add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Token ids of `text`."""
        return self._call(self._host.tokenize(text, model=model, add_special=add_special, parse_special=parse_special))

    def detokenize(self, tokens: Sequence[int], *, model: str = "") -> str:
        """Text of `tokens`, control tokens left out. Raises InvalidRequest on an id outside the vocabulary."""
        return self._call(self._host.detokenize(tokens, model=model))

    def models(self) -> tuple[ModelStatus, ...]:
        """Every model as it stands now: its state, and in its `card` what it is and what it holds."""

        async def found() -> tuple[ModelStatus, ...]:
            return self._host.models()

        return self._call(found())

    def close(self) -> None:
        """Abort what runs, close the model, end the threads. Idempotent."""
        if self._process != os.getpid():  # none of its threads is in a forked child, and the model is its parent's
            self._is_closed = True
            return
        with self._handing:
            if self._is_closed:
                return
            self._is_closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._host.aclose(), self._loop).result()
        finally:
            self._end()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Host is neither copied nor sent to another process; make one there")

    def __del__(self) -> None:
        """Closes one that was forgotten, and waits for nothing: this may be any thread, that of the loop too."""
        if getattr(self, "_is_closed", True) or self._process != os.getpid() or sys.is_finalizing():
            return
        self._is_closed = True
        told = "a Host was not closed; use it by `with`, or call `close`"
        warnings.warn(told, ResourceWarning, stacklevel=2, source=self)
        asyncio.run_coroutine_threadsafe(_closed(self._host), self._loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def pump(
        self, events: Callable[[], AsyncGenerator[Event, None]], queue: SimpleQueue[Event | BaseException | None]
    ) -> Callable[[], None]:
        """Put what comes into the queue, None or an error last; returns what cancels it. Called by Stream alone."""
        future = self._hand_over(_pump(events, queue))

        def cancel() -> None:
            if not future.done():
                future.cancel()

        return cancel

    def _answer(
        self, events: Callable[[], AsyncGenerator[Event, None]], fold: Fold[Result], *, is_streamed: bool
    ) -> Result | Stream[Result]:
        if is_streamed:
            return Stream(self, events, fold)
        return self._call(_answered(events, fold))

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        future = self._hand_over(work)
        try:
            return future.result()
        except CancelledError:
            raise Unavailable("the host was closed") from None
        except BaseException:  # KeyboardInterrupt among them: what nobody waits for is aborted
            future.cancel()
            raise

    def _hand_over(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """To the loop, which begins it. Raises Unavailable."""
        try:
            if self._process != os.getpid():  # before the lock, which another thread of the parent's may have held
                raise Unavailable("the host is closed" if self._is_closed else _FORKED)
            with self._handing:
                if self._is_closed:
                    raise Unavailable("the host is closed")
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        except Unavailable:
            work.close()
            raise

    def _end(self) -> None:
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _closed(host: AsyncHost) -> None:
    """And the loop that this runs on, with all that is left there."""
    try:
        await host.aclose()
        await _cancel_others()
    finally:
        asyncio.get_running_loop().stop()


async def _answered(events: Callable[[], AsyncGenerator[Event, None]], fold: Fold[Result]) -> Result:
    return await whole(events(), fold)


async def _pump(
    events: Callable[[], AsyncGenerator[Event, None]], queue: SimpleQueue[Event | BaseException | None]
) -> None:
    try:
        async with aclosing(events()) as source:
            async for event in source:
                queue.put(event)
    except asyncio.CancelledError:
        queue.put(Unavailable("the host was closed"))
        raise
    except Exception as error:
        queue.put(error)
    else:
        queue.put(None)


async def _cancel_others() -> None:
    """What streams were left open end here, so that no task outlives its loop."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
