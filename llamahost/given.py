"""What a program gives in plain values, into what the house works with: models, options, prompts, turns.

Raises InvalidRequest with the place of what is wrong, TypeError for an unknown option. Knows no host and no thread.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import AdapterUse, Continued, Generation, Message, Output, Role, Text, Tool, ToolCall
from llamahost.core.sampling import SamplingOptions
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
    """And of a chat alone."""

    tools: Sequence[Tool]
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


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises TypeError that names the nearest known name."""
    known = tuple(known)
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean `{nearest[0]}`?" if nearest else f"; the known ones are {', '.join(known)}"
            raise TypeError(f"unknown {what} `{name}`{hint}")


def manifest_of(model: str | Path | ModelSpec | Manifest | None, options: SpecOptions) -> Manifest:
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


def generation_of(given: Mapping[str, Any]) -> Generation:
    sampling = {name: given[name] for name in SamplingOptions.__annotations__ if name in given}
    stop = given.get("stop", ())
    return Generation(
        sampling=cast("SamplingOptions", sampling),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_ids=tuple(given.get("stop_ids", ())),
        max_tokens=given.get("max_tokens"),
        n=given.get("n", 1),
        n_logprobs=given.get("n_logprobs"),
        ignore_eos=given.get("ignore_eos", False),
        adapters=tuple(AdapterUse(name, scale) for name, scale in given.get("adapters", {}).items()),
        priority=given.get("priority", 0),
        timeout_s=given.get("timeout_s"),
    )


def prompts_of(prompt: str | Sequence[int] | Sequence[str]) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(prompt, str):
        return (prompt,)
    if prompt and all(isinstance(item, str) for item in prompt):
        return tuple(cast("Sequence[str]", prompt))
    return (tuple(cast("Sequence[int]", prompt)),)


_ROLES = ("system", "developer", "user", "assistant", "tool")


def message_of(turn: Message | Mapping[str, object], k: int) -> Message:
    if isinstance(turn, Message):
        return turn
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
