"""How much work a request is before it is computed, in characters: by that it is prepared here or in a lane. Pure."""

from __future__ import annotations

from collections.abc import Sized

from llamahost.core.messages import ChatRequest, CompletionRequest, Generation, Output, Text
from llamahost.fleet.request.lanes import N_LARGE

N_SMALL = 1024
"""Characters of text that are prepared on the loop itself: 0.1 to 1 ms of work, where a hop to a lane and back
costs 0.05 to 0.1 ms more. Above that the loop's other streams would feel it."""

N_ANSWER, N_MESSAGE = 64, 16
"""Characters that take as long as making an answer's job and reply, and as a message beside its text."""


def n_chars_of_chat(request: ChatRequest) -> int:
    """Characters of text, or what takes as long; not counted further once it is large, nor within JSON."""
    n = N_ANSWER * request.generation.n + _n_named(request.generation) + _n_chars_of_form(request.output)
    if request.tools:
        n += N_SMALL + 1
    for option in request.template_options.values():
        n += len(option) if isinstance(option, str) else 0 if option is None or isinstance(option, int) else N_SMALL + 1
    for message in request.messages:
        n += N_MESSAGE + len(message.reasoning)
        for part in message.parts:
            n += len(part.text) if isinstance(part, Text) else N_SMALL + 1
        for call in message.tool_calls:
            n += len(call.arguments)
        if n > N_LARGE:
            break
    return n


def n_chars_of_completion(request: CompletionRequest) -> int:
    """Characters or tokens of the prompts, or what takes as long."""
    n_each = len(request.suffix) + N_ANSWER * request.generation.n
    n = sum(map(len, request.prompts)) + n_each * len(request.prompts)
    n += sum(len(each.text) + N_MESSAGE for each in request.snippets or ())
    return n + _n_named(request.generation) + _n_chars_of_form(request.output)


def _n_named(generation: Generation) -> int:
    """Tokens that are named, each of which is looked at for itself: as long as a character takes."""
    biases = generation.sampling.get("logit_bias", ())
    return (len(biases) if isinstance(biases, Sized) else 0) + len(generation.stop_ids)


def _n_chars_of_form(output: Output) -> int:
    """A grammar is compiled in the pool, whatever its length: the first one of a model takes its tokenizer with it."""
    return 0 if output.kind == "text" else N_SMALL + 1
