"""What a program gives in plain values, into what the house works with: models, options, requests.

Raises InvalidRequest with the place of what is wrong, TypeError for an unknown option. Knows no host and no thread.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, cast, get_args

from llamahost.core.errors import InvalidRequest, LoadFailed
from llamahost.core.messages import (
    AdapterUse,
    ChatRequest,
    CompletionRequest,
    Continued,
    Generation,
    Message,
    Output,
    Role,
    Text,
    Tool,
    ToolCall,
)
from llamahost.core.sampling import SamplingOptions
from llamahost.core.vectors import EmbedRequest, InputKind, RerankRequest
from llamahost.fleet.settings.adapter_spec import AdapterSpec
from llamahost.fleet.settings.builtin import builtin, is_named
from llamahost.fleet.settings.manifest import Manifest, ModelSpec


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


class Options(SamplingOptions, total=False):
    """What may be said of an answer beside its words; `Generation` and `Sampling` say what each means."""

    model: str
    max_tokens: int | None
    stop: str | Sequence[str]
    stop_ids: Sequence[int]
    n: int
    n_logprobs: int | None
    ignore_eos: bool
    adapters: Mapping[str | int, float | None]
    priority: int
    timeout_s: float | None
    output: Output


class ChatOptions(Options, total=False):
    """And of a chat alone; `ChatRequest` says what each means. A tool may be a dict as OpenAI writes it."""

    tools: Sequence[Tool | Mapping[str, object]]
    tool_choice: str
    n_calls: int | None
    tells_reasoning: bool
    thinking: bool | None
    max_reasoning: int | None
    reasoning_end: str
    continued: Continued
    template_options: Mapping[str, object]


class CompletionOptions(Options, total=False):
    """And of a completion alone; `CompletionRequest` says what each means."""

    echo: bool
    n_prompt_logprobs: int | None
    suffix: str


class EmbedOptions(TypedDict, total=False):
    """What may be said beside texts to embed; `EmbedRequest` says what each means."""

    model: str
    kind: InputKind
    dimensions: int | None
    is_cut: bool
    timeout_s: float | None


class RerankOptions(TypedDict, total=False):
    """And beside a query and its documents; `RerankRequest` says what each means."""

    model: str
    is_cut: bool
    timeout_s: float | None


Turns = str | Sequence[Message | Mapping[str, object]]
"""A conversation in plain values: its messages, or the text of a user's first."""

Prompt = str | Sequence[int] | Sequence[str]
"""A text, its tokens, or several texts."""


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises TypeError that names the nearest known name."""
    known = tuple(known)
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean `{nearest[0]}`?" if nearest else f"; the known ones are {', '.join(known)}"
            raise TypeError(f"unknown {what} `{name}`{hint}")


_KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("model", "tool_choice", "reasoning_end", "suffix"), (str, "text")),
    **dict.fromkeys(("ignore_eos", "tells_reasoning", "thinking", "echo", "is_cut"), (bool, "True or False")),
    "output": (Output, 'an Output, such as Output("json")'),
    "tools": (Iterable, "a list"),
    "stop_ids": (Iterable, "a list of tokens"),
    "adapters": (Mapping, "a dict of scales by name"),
    "template_options": (Mapping, "a dict"),
}
_CHOICES: dict[str, tuple[str, ...]] = {"kind": get_args(InputKind), "continued": get_args(Continued)}
"""Of what is taken apart here, or told by no check of a request's."""


def _given(options: Mapping[str, object], known: Iterable[str]) -> dict[str, Any]:
    """What is given: None is as if it was left out, but for a seed, where it is one that nobody knows.

    Raises InvalidRequest, and TypeError for an option that there is not.
    """
    check_names(options, known, "option")
    given = {name: value for name, value in options.items() if value is not None or name == "seed"}
    for name, value in given.items():
        kind, told = _KINDS.get(name, (object, ""))
        if not isinstance(value, kind):
            raise InvalidRequest(f"{name} must be {told}, not {value!r:.40}", param=name)
        choices = _CHOICES.get(name)
        if choices is not None and value not in choices:
            told = ", ".join(map(repr, choices))
            raise InvalidRequest(f"{name} must be one of {told}, not {value!r:.40}", param=name)
    return given


def manifest_of(model: str | Path | ModelSpec | Manifest | None, options: SpecOptions) -> Manifest:
    if isinstance(model, str | Path):
        if is_named(model):
            if "name" in options:  # in place of all of its own
                options = {"aliases": (), **options}
            return Manifest(models=(replace(builtin(model=model), **options),))
        path = Path(model)
        if isinstance(model, str) and not path.suffix and not _is_there(path):
            from llamahost.files.repo import looks_like_repo

            if looks_like_repo(model):
                raise LoadFailed(
                    f"there is no file {model}; where a repository of Hugging Face is meant, "
                    f'ModelSpec(name="{path.name.lower()}", repo="{model}") fetches it'
                )
        return Manifest(models=(replace(ModelSpec(name=path.stem, path=path), **options),))
    if isinstance(model, ModelSpec):
        return Manifest(models=(replace(model, **options),))
    if not isinstance(model, Manifest | None):
        raise TypeError(f"a model is a path, a ModelSpec or a Manifest, not {type(model).__name__}")
    if options:
        raise TypeError("options are for one model's path; a manifest holds its own")
    return model or Manifest()


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a file's name, as a prompt is
        return False


def chat_request(turns: Turns, options: ChatOptions) -> ChatRequest:
    """Raises InvalidRequest, and TypeError for an option that there is not."""
    given = _given(options, ChatOptions.__annotations__)
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    if isinstance(turns, Mapping | Message) or not isinstance(turns, Iterable):
        raise InvalidRequest("messages must be a list of messages, or text for a user's first", param="messages")
    return ChatRequest(
        messages=tuple(message_of(turn, k) for k, turn in enumerate(turns)),
        model=given.get("model", ""),
        tools=tuple(tool_of(tool, k) for k, tool in enumerate(given.get("tools", ()))),
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


def completion_request(prompt: Prompt, options: CompletionOptions) -> CompletionRequest:
    """Raises InvalidRequest, and TypeError for an option that there is not."""
    given = _given(options, CompletionOptions.__annotations__)
    return CompletionRequest(
        prompts=prompts_of(prompt),
        model=given.get("model", ""),
        echo=given.get("echo", False),
        n_prompt_logprobs=given.get("n_prompt_logprobs"),
        suffix=given.get("suffix", ""),
        output=given.get("output", Output()),
        generation=generation_of(given),
    )


def embed_request(inputs: str | Sequence[str], options: EmbedOptions) -> EmbedRequest:
    """Raises InvalidRequest, and TypeError for an option that there is not."""
    return EmbedRequest(inputs=_texts_of(inputs, "inputs"), **_given(options, EmbedOptions.__annotations__))


def rerank_request(query: str, documents: Sequence[str], options: RerankOptions) -> RerankRequest:
    """Raises InvalidRequest, and TypeError for an option that there is not."""
    if not isinstance(query, str):
        raise InvalidRequest("the query must be text", param="query")
    given = _given(options, RerankOptions.__annotations__)
    return RerankRequest(query=query, documents=_texts_of(documents, "documents"), **given)


def _texts_of(texts: object, param: str) -> tuple[str, ...]:
    found = (texts,) if isinstance(texts, str) else tuple(texts) if isinstance(texts, Iterable) else (texts,)
    if not all(isinstance(text, str) for text in found):
        raise InvalidRequest(f"{param} must be texts", param=param)
    return found


def generation_of(given: Mapping[str, Any]) -> Generation:
    sampling = {name: given[name] for name in SamplingOptions.__annotations__ if name in given}
    stop = given.get("stop", ())
    stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, Iterable) else (stop,)
    if not all(isinstance(each, str) for each in stops):
        raise InvalidRequest("stop must be a text, or a list of texts", param="stop")
    return Generation(
        sampling=cast("SamplingOptions", sampling),
        stop=stops,
        stop_ids=tuple(given.get("stop_ids", ())),
        max_tokens=given.get("max_tokens"),
        n=given.get("n", 1),
        n_logprobs=given.get("n_logprobs"),
        ignore_eos=given.get("ignore_eos", False),
        adapters=tuple(AdapterUse(name, scale) for name, scale in given.get("adapters", {}).items()),
        priority=given.get("priority", 0),
        timeout_s=given.get("timeout_s"),
    )


def prompts_of(prompt: Prompt) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt, bytes | bytearray | Mapping) or not isinstance(prompt, Iterable):
        raise InvalidRequest("a prompt is text, a list of its tokens, or a list of texts", param="prompt")
    prompt = cast("Sequence[int] | Sequence[str]", tuple(prompt))
    if prompt and all(isinstance(item, str) for item in prompt):
        return cast("tuple[str, ...]", prompt)
    return (cast("tuple[int, ...]", prompt),)


def tool_of(tool: object, k: int) -> Tool:
    """A Tool, or what OpenAI writes for one."""
    if isinstance(tool, Tool):
        return tool
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if isinstance(function, Mapping) and isinstance(function.get("name"), str):
        parameters = function.get("parameters") or {}
        if isinstance(parameters, Mapping):
            return Tool(
                name=function["name"],
                description=str(function.get("description") or ""),
                parameters=parameters,
                strict=bool(function.get("strict")),
            )
    raise InvalidRequest(
        f'tools[{k}] must be a Tool, or {{"type": "function", "function": {{"name": …, "parameters": …}}}}',
        param=f"tools[{k}]",
    )


_ROLES = ("system", "developer", "user", "assistant", "tool")


def message_of(turn: object, k: int) -> Message:
    """A Message, or what OpenAI writes for one."""
    if isinstance(turn, Message):
        return turn
    if not isinstance(turn, Mapping):
        raise InvalidRequest(
            f'messages[{k}] must be a Message, or {{"role": …, "content": …}}, not {type(turn).__name__}',
            param=f"messages[{k}]",
        )
    known = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
    for key in turn:
        if key not in known:
            raise InvalidRequest(f"messages[{k}] has an unknown key `{key}`", param=f"messages[{k}].{key}")
    role = turn.get("role")
    if role not in _ROLES:
        raise InvalidRequest(f"messages[{k}].role must be one of {', '.join(_ROLES)}", param=f"messages[{k}].role")
    return Message(
        role=cast("Role", role),
        parts=_parts_of(turn.get("content"), k),
        tool_calls=_calls_of(turn.get("tool_calls"), k),
        reasoning=str(turn.get("reasoning_content") or ""),
        name=str(turn.get("name") or ""),
        tool_call_id=str(turn.get("tool_call_id") or ""),
    )


def _calls_of(calls: object, k: int) -> tuple[ToolCall, ...]:
    found: list[ToolCall] = []
    for call in calls if isinstance(calls, list | tuple) else [calls] if calls else []:
        given = call if isinstance(call, Mapping) else {}
        function = given.get("function")
        if isinstance(call, ToolCall):
            found.append(call)
        elif isinstance(function, Mapping) and isinstance(function.get("name"), str):
            id_ = str(given.get("id") or f"call_{k}_{len(found)}")
            arguments = function.get("arguments") or "{}"
            if isinstance(arguments, Mapping):  # as Hugging Face's templates have them
                arguments = json.dumps(arguments, ensure_ascii=False)
            found.append(ToolCall(id_, function["name"], str(arguments)))
        else:
            raise InvalidRequest(
                f'messages[{k}].tool_calls holds ToolCall or {{"id": …, "function": {{"name": …, "arguments": …}}}}',
                param=f"messages[{k}].tool_calls",
            )
    return tuple(found)


def _parts_of(content: object, k: int) -> tuple[Text, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    texts: list[Text] = []
    for part in content if isinstance(content, list | tuple) else [None]:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise InvalidRequest(
                f'messages[{k}].content must be text or a list of {{"type": "text", "text": …}}',
                param=f"messages[{k}].content",
            )
        texts.append(Text(text))
    return tuple(texts)
