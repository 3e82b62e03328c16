"""Events folded into whole answers, for those who do not stream. Knows no host: only what comes of one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from llamahost.core.events import (
    Delta,
    Echoed,
    Event,
    Finished,
    PromptLogprob,
    Reason,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from llamahost.core.messages import ToolCall

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatResult:
    """An answer, whole. With `n` above 1 the other answers are in `others`, in order."""

    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: Reason = "stop"
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    logprobs: tuple[TokenLogprob, ...] = ()
    model: str = ""
    others: tuple[ChatResult, ...] = ()

    @classmethod
    async def of(cls, events: AsyncGenerator[Event, None]) -> ChatResult:
        """`await ChatResult.of(host.chat("Say hello."))`: what an AsyncHost answers, whole. Cancelling cancels it."""
        return await whole(events, Fold(chat_result))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionResult:
    """A prompt's continuation, whole. Other answers, and those of other prompts, are in `others`, by index.

    `text` begins with the prompt where `echo` was asked for.
    """

    text: str
    finish_reason: Reason = "stop"
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[PromptLogprob, ...] = ()
    model: str = ""
    others: tuple[CompletionResult, ...] = ()

    @classmethod
    async def of(cls, events: AsyncGenerator[Event, None]) -> CompletionResult:
        """`await CompletionResult.of(host.complete("Once upon"))`: as ChatResult's."""
        return await whole(events, Fold(completion_result))


class Fold(Generic[Result]):
    """Feed it every event of a request; then `make` has the answers in the order of their index.

    Owned by one thread at a time.
    """

    def __init__(self, make: Callable[[list[Answer]], Result]) -> None:
        self._make = make
        self._answers: dict[int, Answer] = {}

    def feed(self, event: Event) -> None:
        answer = self._answers.get(event.index)
        if answer is None:
            answer = self._answers[event.index] = Answer()
        match event:
            case Delta():
                answer.deltas.append(event)
            case Echoed():
                answer.echoes.append(event)
            case Finished():
                answer.finished = event
            case Started():
                answer.model = event.model

    @property
    def is_whole(self) -> bool:
        return bool(self._answers) and all(answer.finished for answer in self._answers.values())

    def result(self) -> Result:
        return self._make([answer for _, answer in sorted(self._answers.items())])


async def whole(events: AsyncGenerator[Event, None], fold: Fold[Result]) -> Result:
    """All that comes, folded; who leaves half-way closes it."""
    async with aclosing(events) as source:
        async for event in source:
            fold.feed(event)
    return fold.result()


class Answer:
    """What came of one index so far. Owned by its Fold."""

    def __init__(self) -> None:
        self.model = ""
        self.echoes: list[Echoed] = []
        self.deltas: list[Delta] = []
        self.finished: Finished | None = None

    def text_of(self, channel: Literal["text", "reasoning"]) -> str:
        return "".join(delta.text for delta in self.deltas if delta.channel == channel)

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return tuple(logprob for delta in self.deltas for logprob in delta.logprobs)

    @property
    def echo(self) -> str:
        return "".join(echo.text for echo in self.echoes)

    @property
    def prompt_logprobs(self) -> tuple[PromptLogprob, ...]:
        return tuple(logprob for echo in self.echoes for logprob in echo.logprobs)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The first delta of each call, and it alone, has its id and name."""
        calls: list[tuple[str, str, list[str]]] = []
        for delta in self.deltas:
            if delta.channel == "tool":
                if delta.call_id or not calls:
                    calls.append((delta.call_id, delta.call_name, []))
                calls[-1][2].append(delta.text)
        return tuple(ToolCall(id_, name, "".join(pieces)) for id_, name, pieces in calls)


def chat_result(answers: list[Answer]) -> ChatResult:
    first = answers[0]
    assert first.finished
    return ChatResult(
        text=first.text_of("text"),
        reasoning=first.text_of("reasoning"),
        tool_calls=first.tool_calls,
        finish_reason=first.finished.reason,
        usage=first.finished.usage,
        timings=first.finished.timings,
        logprobs=first.logprobs,
        model=first.model,
        others=tuple(chat_result([other]) for other in answers[1:]),
    )


def completion_result(answers: list[Answer]) -> CompletionResult:
    first = answers[0]
    assert first.finished
    return CompletionResult(
        text=first.echo + first.text_of("text"),
        finish_reason=first.finished.reason,
        usage=first.finished.usage,
        timings=first.finished.timings,
        logprobs=first.logprobs,
        prompt_logprobs=first.prompt_logprobs,
        model=first.model,
        others=tuple(completion_result([other]) for other in answers[1:]),
    )
