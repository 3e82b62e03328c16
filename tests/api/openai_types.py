"""Answers as OpenAI's own types read them; they take a second to import, so that is done when the first is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openai.types import Completion
    from openai.types.chat import ChatCompletion, ChatCompletionChunk


def chat_of(data: object) -> ChatCompletion:
    from openai.types.chat import ChatCompletion

    return ChatCompletion.model_validate(data, strict=True)


def chat_chunk_of(data: object) -> ChatCompletionChunk:
    from openai.types.chat import ChatCompletionChunk

    return ChatCompletionChunk.model_validate(data, strict=True)


def completion_of(data: object) -> Completion:
    from openai.types import Completion

    return Completion.model_validate(data, strict=True)


def completion_chunk_of(data: dict[str, Any]) -> Completion:
    """As the SDK reads a stream, which validates nothing."""
    from openai.types import Completion

    return Completion.construct(**data)
