"""Requests, said shortly."""

from __future__ import annotations

from llamahost.core.messages import ChatRequest, CompletionRequest, Generation, Message, Text


def complete(*prompts: str | tuple[int, ...], **generation: object) -> CompletionRequest:
    return CompletionRequest(prompts=prompts, generation=Generation(**generation))  # type: ignore[arg-type]  # fields by name, for brevity


def chat(text: str = "Hi", **rest: object) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", parts=(Text(text),)),), **rest)  # type: ignore[arg-type]  # the same
