"""Bodies of OpenAI's routes as clients send them, with llama.cpp's extra fields. A null field is an absent one.

Knows JSON types only: ranges are checked where the core types are made. Unknown fields are ignored by design.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from llamahost.api.pieces import InPieces

Int: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # beyond it ctypes would cut silently
Token: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]  # checked while decoding: prompts are long
Prompt: TypeAlias = Token | str | list[Token]
Bias: TypeAlias = float | bool  # false bans the token
Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=1024)]  # a search for the nearest known one takes its time


class Body(msgspec.Struct, kw_only=True):
    """Fields that chat and completion share: OpenAI's, then llama.cpp's."""

    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Int | None = None
    max_tokens: Int | None = None
    max_completion_tokens: Int | None = None
    n_predict: Int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, Bias] | list[tuple[Int | str, Bias]] | None = None
    seed: Int | None = None
    user: str | None = None
    safety_identifier: str | None = None  # of a user, as `user` is called now
    prompt_cache_key: str | None = None
    session_id: str | None = None
    priority: Int | Literal["interactive", "batch"] | None = None  # as a number: vLLM's, the lower the sooner
    service_tier: str | None = None  # `flex` may wait
    response_format: ResponseFormat | None = None

    top_k: Int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    mirostat: Int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: Int | None = None
    dry_penalty_last_n: Int | None = None
    dry_sequence_breakers: list[str] | None = None
    repeat_last_n: Int | None = None
    repeat_penalty: float | None = None
    min_keep: Int | None = None
    samplers: str | list[str] | None = None
    ignore_eos: bool | None = None
    grammar: str | None = None
    grammar_lazy: bool | None = None
    json_schema: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None  # vLLM's names, of before and of now
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    timeout: float | None = None

    lora: list[LoraScale] | None = None
    n_probs: Int | None = None
    post_sampling_probs: bool | None = None
    t_max_predict_ms: Int | None = None
    n_indent: Int | None = None
    reasoning_budget_tokens: Int | None = None
    thinking_budget_tokens: Int | None = None
    thinking_budget: Int | None = None  # the same, as others name it
    timings_per_token: bool | None = None
    return_progress: bool | None = None

    @property
    def has_probs(self) -> bool:
        """Are probabilities asked for in llama-server's form?"""
        return self.n_probs is not None and self.n_probs > 0

    @property
    def n_kept(self) -> int:
        """Answers that each prompt is to have in the end."""
        return 1 if self.n is None else self.n


class LoraScale(msgspec.Struct, kw_only=True):
    """How strongly an adapter works, which is named by its number, as llama-server does, or by its name."""

    id: Int | None = None
    name: Name | None = None
    scale: float


class StreamOptions(msgspec.Struct, kw_only=True):
    include_usage: bool | None = None


class JsonSchema(msgspec.Struct, kw_only=True):
    schema: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, kw_only=True):
    type: str
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None  # llama-server's place for it


class StructuredOutputs(msgspec.Struct, kw_only=True):
    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    lark: str | None = None  # the same, without a look at what it is
    json_object: bool | None = None
    structural_tag: Any = None


class TextPart(msgspec.Struct, tag="text", tag_field="type"):
    text: str


class RefusalPart(msgspec.Struct, tag="refusal", tag_field="type"):
    refusal: str


class ImageUrl(msgspec.Struct):
    url: str


class ImagePart(msgspec.Struct, tag="image_url", tag_field="type"):
    image_url: ImageUrl


class InputAudio(msgspec.Struct):
    data: str
    format: str


class AudioPart(msgspec.Struct, tag="input_audio", tag_field="type"):
    input_audio: InputAudio


PartBody: TypeAlias = TextPart | RefusalPart | ImagePart | AudioPart


class FunctionCall(msgspec.Struct):
    name: str
    arguments: str


class CallBody(msgspec.Struct, kw_only=True):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class MessageBody(msgspec.Struct, kw_only=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[PartBody] | None = None
    name: str | None = None
    tool_calls: list[CallBody] | None = None
    function_call: FunctionCall | None = None  # the old form of one call
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # the same, as other servers name it


class FunctionBody(msgspec.Struct, kw_only=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(msgspec.Struct, kw_only=True):
    type: Literal["function"]
    function: FunctionBody


class NamedFunction(msgspec.Struct):
    name: str


class AllowedTool(msgspec.Struct, kw_only=True):
    type: Literal["function"] = "function"
    function: NamedFunction | None = None
    name: str | None = None


class AllowedTools(msgspec.Struct, kw_only=True):
    mode: Literal["auto", "required"]
    tools: list[AllowedTool]


class ToolChoice(msgspec.Struct, kw_only=True):
    """Of a named function, or of those that may be called."""

    type: Literal["function", "allowed_tools"] = "function"
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None
    mode: Literal["auto", "required"] | None = None  # as the Responses API has it
    tools: list[AllowedTool] | None = None


class ChatBody(Body, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[MessageBody]
    tools: list[ToolBody] | None = None
    tool_choice: str | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionBody] | None = None  # the old form of tools
    function_call: str | NamedFunction | None = None  # and of tool_choice
    logprobs: bool | None = None
    top_logprobs: Int | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    reasoning_format: str | None = None
    enable_thinking: bool | None = None
    reasoning_budget_message: str | None = None
    continue_final_message: bool | Literal["content", "reasoning_content"] | None = None
    add_generation_prompt: bool | None = None
    modalities: list[str] | None = None
    web_search_options: dict[str, Any] | None = None

    @property
    def has_logprobs(self) -> bool:
        return bool(self.logprobs)

    @property
    def is_of_functions(self) -> bool:
        """Asked in the old form, and to be answered in it."""
        return bool(self.functions) and not self.tools


class CompletionBody(Body, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[Prompt]
    logprobs: Int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: Int | None = None

    @property
    def has_logprobs(self) -> bool:
        return self.logprobs is not None


CHAT = InPieces(ChatBody, "messages", MessageBody, '{"role":"user","content":"%s"}')
COMPLETION = InPieces(CompletionBody, "prompt", Prompt)
