"""OpenAI's bodies into words. What this version cannot serve is refused by name, never left out silently."""

from __future__ import annotations

import base64
import binascii
from array import array
from collections.abc import Sequence
from dataclasses import replace

from llamahost.api.openai_generation import generation_of, limit_of
from llamahost.api.openai_output import output_of
from llamahost.api.openai_types import (
    AudioPart,
    ChatBody,
    CompletionBody,
    ImagePart,
    MessageBody,
    NamedFunction,
    PartBody,
    RefusalPart,
    TextPart,
    ToolChoice,
)
from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import (
    Audio,
    ChatRequest,
    CompletionRequest,
    Continued,
    Generation,
    Image,
    Message,
    Part,
    Text,
    Tool,
    ToolCall,
)

_REASONING_BUDGET = ("reasoning_budget_tokens", "thinking_budget_tokens", "thinking_budget")

_STRIDE = 8192
"""Token ids that are handled at once, in 0.2 ms."""


def parse_chat(body: ChatBody) -> ChatRequest:
    """Raises InvalidRequest with the field's path."""
    if body.web_search_options is not None:
        raise InvalidRequest("`web_search_options` is not served: nothing here searches", param="web_search_options")
    if body.modalities and body.modalities != ["text"]:
        raise InvalidRequest("only the modality `text` can be answered", param="modalities")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("`top_logprobs` needs `logprobs` to be true", param="top_logprobs")
    n_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    if n_logprobs is not None and not 0 <= n_logprobs <= 20:
        raise InvalidRequest(f"`top_logprobs` must be between 0 and 20, not {n_logprobs}", param="top_logprobs")
    options: dict[str, object] = {}
    if body.reasoning_effort and body.reasoning_effort != "none":
        options["reasoning_effort"] = body.reasoning_effort
    messages = _messages(body.messages)
    _, budget = limit_of(body, _REASONING_BUDGET)
    return ChatRequest(
        messages=messages,
        model=body.model or "",
        tools=_tools(body),
        tool_choice=_tool_choice(body),
        n_calls=1 if body.parallel_tool_calls is False or body.is_of_functions else None,
        output=output_of(body),
        thinking=_thinking(body, budget),
        max_reasoning=budget,
        reasoning_end=body.reasoning_budget_message or "",
        tells_reasoning=_tells_reasoning(body.reasoning_format),
        continued=_continued(body, messages),
        template_options={**options, **(body.chat_template_kwargs or {})},
        generation=generation_of(body, n_logprobs),
    )


def parse_completion(body: CompletionBody) -> CompletionRequest:
    """Raises InvalidRequest with the field's path."""
    name, budget = limit_of(body, _REASONING_BUDGET)
    if budget is not None:
        raise InvalidRequest("a budget for reasoning wants a chat: what a completion thinks is not known", param=name)
    return CompletionRequest(
        prompts=_prompts(body.prompt),
        model=body.model or "",
        echo=bool(body.echo),
        n_prompt_logprobs=body.logprobs if body.echo else None,
        suffix=body.suffix or "",
        output=output_of(body),
        generation=_best_of(body, generation_of(body, body.logprobs)),
    )


def _best_of(body: CompletionBody, generation: Generation) -> Generation:
    """As many answers as the best are chosen from, with the logprobs that the choice needs."""
    if body.best_of is None or body.best_of == generation.n:
        return generation
    if not generation.n < body.best_of <= 128:
        raise InvalidRequest(
            f"`best_of` must be between n ({generation.n}) and 128, not {body.best_of}", param="best_of"
        )
    if body.stream:
        raise InvalidRequest("`best_of` above `n` cannot be streamed: the best are known at the end", param="best_of")
    return replace(generation, n=body.best_of, n_logprobs=generation.n_logprobs or 0)


def _continued(body: ChatBody, messages: tuple[Message, ...]) -> Continued:
    """What is said, else as llama-server has it: a last message of the assistant is one to go on with."""
    wanted = body.continue_final_message
    if wanted and body.add_generation_prompt:
        raise InvalidRequest(
            "`continue_final_message` goes on in a message, `add_generation_prompt` begins one; give one of them",
            param="continue_final_message",
        )
    if wanted is False or body.add_generation_prompt or not messages:
        return "no"  # an empty list is refused where it becomes a request
    last = messages[-1]
    if wanted is None and last.role != "assistant":
        if body.add_generation_prompt is False:
            raise InvalidRequest(
                "`add_generation_prompt` may be false only where a message of the assistant is continued",
                param="add_generation_prompt",
            )
        return "no"
    if wanted is None and len(messages) > 1 and messages[-2].role == "assistant":
        raise InvalidRequest(
            "two messages of the assistant at the end: join them, or say `continue_final_message`", param="messages"
        )
    if wanted == "reasoning_content" or (wanted != "content" and last.reasoning and not last.text):
        return "reasoning"
    return "text"


def _messages(bodies: list[MessageBody]) -> tuple[Message, ...]:
    """A result of the old form has no id: it belongs to the call before it."""
    messages: list[Message] = []
    for index, body in enumerate(bodies):
        message = _message(body, index)
        if body.role == "function" and messages and messages[-1].tool_calls:
            message = replace(message, tool_call_id=messages[-1].tool_calls[-1].id)
        messages.append(message)
    return tuple(messages)


def _message(body: MessageBody, index: int) -> Message:
    path = f"messages[{index}]"
    if body.content is None and body.role != "assistant":
        raise InvalidRequest(f"`{path}.content` is required for the role `{body.role}`", param=f"{path}.content")
    if isinstance(body.content, str):
        parts: tuple[Part, ...] = (Text(body.content),)
    else:
        parts = tuple(_part(part, f"{path}.content[{k}]") for k, part in enumerate(body.content or ()))
    calls = tuple(
        ToolCall(id=call.id or f"call_{k}", name=call.function.name, arguments=call.function.arguments)
        for k, call in enumerate(body.tool_calls or ())
    )
    if body.function_call is not None:
        calls += (ToolCall(f"call_{index}", body.function_call.name, body.function_call.arguments),)
    return Message(
        role="tool" if body.role == "function" else body.role,
        parts=parts,
        tool_calls=calls,
        tool_call_id=body.tool_call_id or "",
        name=body.name or "",
        reasoning=body.reasoning_content or body.reasoning or "",
    )


def _part(part: PartBody, path: str) -> Part:
    match part:
        case TextPart():
            return Text(part.text)
        case RefusalPart():
            return Text(part.refusal)
        case ImagePart():
            head, comma, data = part.image_url.url.partition(",")
            if not comma or not head.startswith("data:") or not head.endswith(";base64"):
                raise InvalidRequest(
                    "images are not supported by this version",
                    param=f"{path}.image_url.url",
                )
            return Image(_base64(data, f"{path}.image_url.url"))
        case AudioPart():
            return Audio(_base64(part.input_audio.data, f"{path}.input_audio.data"), part.input_audio.format)


def _base64(data: str, path: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"`{path}` is not valid base64", param=path) from None


def _tools(body: ChatBody) -> tuple[Tool, ...]:
    """Those that the request offers, or of these alone the ones that `tool_choice` allows."""
    functions = [tool.function for tool in body.tools] if body.tools else body.functions or []
    choice = body.tool_choice
    if isinstance(choice, ToolChoice) and choice.type == "allowed_tools" and not body.is_of_functions:
        _, allowed = _allowed(choice)
        unknown = next((name for name in allowed if all(name != each.name for each in functions)), None)
        if unknown is not None:
            raise InvalidRequest(f"`tool_choice` allows {unknown!r:.80}, which no tool is", param="tool_choice")
        functions = [each for each in functions if each.name in allowed]
    return tuple(
        Tool(
            name=function.name,
            description=function.description or "",
            parameters=function.parameters or {},
            strict=bool(function.strict),
        )
        for function in functions
    )


def _tool_choice(body: ChatBody) -> str:
    if body.is_of_functions:
        called = body.function_call
        if isinstance(called, NamedFunction):
            return called.name
        if called not in (None, "auto", "none"):
            raise InvalidRequest("`function_call` must be auto, none or name a function", param="function_call")
        return called or "auto"
    choice = body.tool_choice
    if isinstance(choice, ToolChoice):
        if choice.type == "allowed_tools":
            return _allowed(choice)[0]
        if choice.function is None:
            raise InvalidRequest("`tool_choice` names no function", param="tool_choice.function")
        return choice.function.name
    if choice not in (None, "auto", "none", "required"):
        raise InvalidRequest("`tool_choice` must be auto, none, required or name a function", param="tool_choice")
    return choice or "auto"


def _allowed(choice: ToolChoice) -> tuple[str, tuple[str, ...]]:
    """The mode, and the names of the functions that may be called. Raises InvalidRequest."""
    place = "tool_choice" if choice.allowed_tools is None else "tool_choice.allowed_tools"
    given = choice.allowed_tools or choice
    if given.mode is None or not given.tools:
        raise InvalidRequest("`allowed_tools` needs a mode and at least one tool", param=place)
    names = tuple((tool.function.name if tool.function else tool.name) or "" for tool in given.tools)
    return given.mode, names


def _thinking(body: ChatBody, budget: int | None) -> bool | None:
    """What is said of it; else not with a budget of nothing or no effort, and certainly with one."""
    if body.enable_thinking is not None and body.reasoning_effort != "none":
        return body.enable_thinking
    if body.reasoning_effort == "none" or budget == 0:
        return False
    return True if body.reasoning_effort else None


def _tells_reasoning(form: str | None) -> bool:
    if form not in (None, "auto", "deepseek", "none"):
        raise InvalidRequest("`reasoning_format` must be auto, deepseek or none", param="reasoning_format")
    return form != "none"


def _prompts(prompt: str | list[int | str | list[int]]) -> tuple[str | Sequence[int], ...]:
    """One text, several texts, one list of tokens, or several lists of tokens."""
    if isinstance(prompt, str):
        return (prompt,)
    if prompt and isinstance(prompt[0], int):
        return (_tokens(prompt),)
    if any(isinstance(item, int) for item in prompt):
        raise InvalidRequest("`prompt` mixes tokens with texts; give one or the other", param="prompt")
    return tuple(item if isinstance(item, str) else array("i", item) for item in prompt)  # type: ignore[arg-type] # no int is left


def _tokens(prompt: list[int | str | list[int]]) -> Sequence[int]:
    """Takes them out of the list, by strides: C keeps the GIL for all that it is given, and to free it too."""
    tokens = array("i")
    while prompt:
        stride = prompt[:_STRIDE]
        if set(map(type, stride)) != {int}:
            raise InvalidRequest("`prompt` mixes tokens with texts; give one or the other", param="prompt")
        tokens.extend(stride)  # type: ignore[arg-type] # int is all there is
        del prompt[:_STRIDE]
    return tokens
