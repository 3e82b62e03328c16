"""What OpenAI's routes answer, as types: for /openapi.json, and for tests that hold the encoder to them."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType


class Answer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Every field is here: one more would be a mistake of ours."""


class Likely(Answer):
    """With `n_probs` also the token's id; with `post_sampling_probs` its probability instead of the logprob."""

    token: str
    bytes: list[int]
    logprob: float | UnsetType = UNSET
    id: int | UnsetType = UNSET
    prob: float | UnsetType = UNSET


class TokenLogprob(Likely):
    top_logprobs: list[Likely] | UnsetType = UNSET
    top_probs: list[Likely] | UnsetType = UNSET


class ChatLogprobs(Answer):
    content: list[TokenLogprob]
    refusal: None


class Function(Answer):
    name: str
    arguments: str


class Call(Answer):
    id: str
    type: Literal["function"]
    function: Function


class ChatMessage(Answer):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[Call] | UnsetType = UNSET
    function_call: Function | UnsetType = UNSET


class ChatChoice(Answer):
    """`function_call` is how calls were answered before there were tools: for requests with `functions`."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"]


class CompletionLogprobs(Answer):
    """Four lists, side by side; of a prompt that is echoed too, whose first token nothing is known of.

    With `n_probs`, llama-server's list instead.
    """

    tokens: list[str] | UnsetType = UNSET
    token_logprobs: list[float | None] | UnsetType = UNSET
    top_logprobs: list[dict[str, float] | None] | UnsetType = UNSET
    text_offset: list[int] | UnsetType = UNSET
    content: list[TokenLogprob] | UnsetType = UNSET


class CompletionChoice(Answer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class PromptDetails(Answer):
    cached_tokens: int


class CompletionDetails(Answer):
    reasoning_tokens: int


class UsageAnswer(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TimingsAnswer(Answer):
    """As llama-server names them; cache_n tokens of the prompt were there already."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class ChatAnswer(Answer):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageAnswer
    timings: TimingsAnswer


class CompletionAnswer(Answer):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: UsageAnswer
    timings: TimingsAnswer


class ModelState(Answer):
    value: Literal["unloaded", "pulling", "loading", "ready", "failed", "draining"]
    progress: float | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    load: Literal["start", "request", "hand"] | UnsetType = UNSET  # of one that is not loaded: what loads it


class ModelMeta(Answer):
    """`n_ctx` is what one request may hold, prompt and answer; `size` is in bytes."""

    n_ctx: int
    n_ctx_train: int
    n_slots: int
    n_vocab: int
    n_embd: int
    n_params: int
    size: int
    architecture: str
    description: str
    pooling: Literal["none", "mean", "cls", "last", "rank"] | UnsetType = UNSET
    n_dim: int | UnsetType = UNSET


class ModelAnswer(Answer):
    """The context and what follows are there once the model is loaded."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    aliases: list[str]
    status: ModelState
    parent: str | UnsetType = UNSET  # of an adapter: the model that it changes
    root: str | UnsetType = UNSET  # and its file's name
    models: list[str] | UnsetType = UNSET  # of a route: those that it stands for
    strategy: str | UnsetType = UNSET  # and who of them answers
    context_length: int | UnsetType = UNSET
    max_model_len: int | UnsetType = UNSET
    capabilities: list[str] | UnsetType = UNSET
    chat_template_caps: dict[str, bool] | UnsetType = UNSET
    meta: ModelMeta | UnsetType = UNSET


class ModelsAnswer(Answer):
    object: Literal["list"]
    data: list[ModelAnswer]


class ErrorDetail(Answer):
    """`param` is the path of the field at fault. The two counts come with exceed_context_size_error."""

    message: str
    type: str
    param: str | None
    code: str | None
    n_prompt_tokens: int | UnsetType = UNSET
    n_ctx: int | UnsetType = UNSET


class ErrorAnswer(Answer):
    error: ErrorDetail


class ProbeAnswer(msgspec.Struct):
    """`ok` or `ready`, or what is the matter; with the models' states beside it."""

    status: str
