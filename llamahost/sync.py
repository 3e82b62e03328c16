"""The library's plain face: `Host` runs an AsyncHost on a loop thread of its own and folds events into results.

Knows no thread of the engine; may be used from several threads at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, Unpack, cast, overload

from llamahost.core.errors import Unavailable
from llamahost.core.events import Delta, Event
from llamahost.core.messages import (
    ChatRequest,
    CompletionRequest,
    Message,
    Output,
)
from llamahost.core.results import ChatResult, CompletionResult, Fold, chat_result, completion_result
from llamahost.core.vectors import Embeddings, EmbedRequest, InputKind, Ranking, RerankRequest
from llamahost.given import (
    ChatOptions,
    CompletionOptions,
    SpecOptions,
    check_names,
    generation_of,
    message_of,
    prompts_of,
)
from llamahost.host import AsyncHost

if TYPE_CHECKING:
    from llamahost.fleet.replica.loading import Load
    from llamahost.fleet.settings.manifest import Manifest, ModelSpec

Result = TypeVar("Result")


class Stream(Generic[Result]):
    """The Deltas of a request as they come: iterate it, once. Closing it, or leaving its `with`, aborts the request.

    Owned by one thread at a time. `result` is the whole, once the iteration has ended.
    """

    def __init__(self, host: Host, events: Callable[[], AsyncGenerator[Event, None]], fold: Fold[Result]) -> None:
        self._fold = fold
        self._queue: SimpleQueue[Event | BaseException | None] = SimpleQueue()
        self._is_over = False
        self._cancel = host.pump(events, self._queue)

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        while not self._is_over:
            item = self._queue.get()
            if item is None:
                self._is_over = True
            elif isinstance(item, BaseException):
                self._is_over = True
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
        self._is_over = True
        self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:  # `for delta in host.chat(..., stream=True): break` leaves nothing running
        if hasattr(self, "_cancel"):
            self.close()


class Host:
    """A model, opened and answering, for programs that do not use asyncio.

    with Host("model.gguf") as host:
        print(host.chat([{"role": "user", "content": "Hello"}]).text)

    Raises LoadFailed. Options are those of AsyncHost.
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
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llamahost-loop", daemon=True)
        self._thread.start()
        try:
            self._call(self._host.__aenter__())
        except BaseException:
            self._is_closed = True
            self._end()
            raise

    @overload
    def chat(
        self,
        messages: str | Sequence[Message | Mapping[str, object]],
        *,
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> ChatResult: ...

    @overload
    def chat(
        self,
        messages: str | Sequence[Message | Mapping[str, object]],
        *,
        stream: Literal[True],
        **options: Unpack[ChatOptions],
    ) -> Stream[ChatResult]: ...

    @overload
    def chat(
        self, messages: str | Sequence[Message | Mapping[str, object]], *, stream: bool, **options: Unpack[ChatOptions]
    ) -> ChatResult | Stream[ChatResult]: ...

    def chat(
        self,
        messages: str | Sequence[Message | Mapping[str, object]],
        *,
        stream: bool = False,
        **options: Unpack[ChatOptions],
    ) -> ChatResult | Stream[ChatResult]:
        """The conversation's next turn; text alone is a user's first. Raises what AsyncHost.chat raises.

        A dict among the messages is {"role": …, "content": text or [{"type": "text", "text": …}]}; an assistant's may
        have "tool_calls", as a result holds them or as OpenAI writes them, and a tool's has its "tool_call_id".
        """
        check_names(options, ChatOptions.__annotations__, "option")
        given = cast("dict[str, Any]", options)
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        request = ChatRequest(
            messages=tuple(message_of(turn, k) for k, turn in enumerate(turns)),
            model=given.get("model", ""),
            tools=tuple(given.get("tools", ())),
            tool_choice=given.get("tool_choice", "auto"),
            n_calls=given.get("n_calls"),
            tells_reasoning=given.get("tells_reasoning", True),
            output=given.get("output", Output()),
            thinking=given.get("thinking"),
            max_reasoning=given.get("max_reasoning"),
            reasoning_end=given.get("reasoning_end", ""),
            continued=given.get("continued", "no"),
            template_options=given.get("template_options", {}),
            generation=generation_of(given),
        )
        return self._answer(lambda: self._host.chat(request), Fold(chat_result), is_streamed=stream)

    @overload
    def complete(
        self,
        prompt: str | Sequence[int] | Sequence[str],
        *,
        stream: Literal[False] = False,
        **options: Unpack[CompletionOptions],
    ) -> CompletionResult: ...

    @overload
    def complete(
        self,
        prompt: str | Sequence[int] | Sequence[str],
        *,
        stream: Literal[True],
        **options: Unpack[CompletionOptions],
    ) -> Stream[CompletionResult]: ...

    @overload
    def complete(
        self, prompt: str | Sequence[int] | Sequence[str], *, stream: bool, **options: Unpack[CompletionOptions]
    ) -> CompletionResult | Stream[CompletionResult]: ...

    def complete(
        self, prompt: str | Sequence[int] | Sequence[str], *, stream: bool = False, **options: Unpack[CompletionOptions]
    ) -> CompletionResult | Stream[CompletionResult]:
        """A text, or its tokens, continued as it is; or several texts. Raises what AsyncHost.complete raises.

        An echo, and what was asked of the prompt's tokens, is in the result; a stream's Deltas are of the answer alone.
        """
        check_names(options, CompletionOptions.__annotations__, "option")
        given = cast("dict[str, Any]", options)
        request = CompletionRequest(
            prompts=prompts_of(prompt),
            model=given.get("model", ""),
            echo=given.get("echo", False),
            n_prompt_logprobs=given.get("n_prompt_logprobs"),
            suffix=given.get("suffix", ""),
            output=given.get("output", Output()),
            generation=generation_of(given),
        )
        return self._answer(lambda: self._host.complete(request), Fold(completion_result), is_streamed=stream)

    def embed(
        self,
        inputs: str | Sequence[str],
        *,
        model: str = "",
        kind: InputKind = "",
        dimensions: int | None = None,
        is_cut: bool = False,
    ) -> Embeddings:
        """A vector for each text, of length 1 by pooling. Raises what AsyncHost.embed raises."""
        texts = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        request = EmbedRequest(inputs=texts, model=model, kind=kind, dimensions=dimensions, is_cut=is_cut)
        return self._call(self._host.embed(request))

    def rerank(self, query: str, documents: Sequence[str], *, model: str = "", is_cut: bool = False) -> Ranking:
        """The score of each document, in their order. Raises what AsyncHost.rerank raises."""
        request = RerankRequest(query=query, documents=tuple(documents), model=model, is_cut=is_cut)
        return self._call(self._host.rerank(request))

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

    def close(self) -> None:
        """Abort what runs, close the model, end the threads. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._host.aclose(), self._loop).result()
        finally:
            self._end()

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
        if self._is_closed:
            raise Unavailable("the host is closed")
        future = asyncio.run_coroutine_threadsafe(_pump(events, queue), self._loop)

        def cancel() -> None:
            if not future.done():
                future.cancel()

        return cancel

    def _answer(
        self, events: Callable[[], AsyncGenerator[Event, None]], fold: Fold[Result], *, is_streamed: bool
    ) -> Result | Stream[Result]:
        if is_streamed:
            return Stream(self, events, fold)
        return self._call(_whole(events, fold))

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._is_closed:
            work.close()
            raise Unavailable("the host is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # KeyboardInterrupt among them: what nobody waits for is aborted
            future.cancel()
            raise

    def _end(self) -> None:
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _whole(events: Callable[[], AsyncGenerator[Event, None]], fold: Fold[Result]) -> Result:
    async with aclosing(events()) as source:
        async for event in source:
            fold.feed(event)
    return fold.result()


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
