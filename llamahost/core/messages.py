"""What is asked, in words: requests as every dialect and the library speak them. Knows no tokens and no JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple, TypedDict

from llamahost.core.errors import InvalidRequest

Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text within a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image (PNG, JPEG …) within a message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Audio:
    """An encoded sound (WAV, MP3 …) within a message."""

    data: bytes
    format: str


Part = Text | Image | Audio


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the assistant made; `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    reasoning: str = ""

    @property
    def text(self) -> str:
        """All text parts joined, as most templates want it."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call; `parameters` is its JSON Schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """The form that the text must take.

    text     any
    json     a JSON object
    schema   JSON that is valid under `value`, the text of a JSON Schema
    regex    a whole match of the pattern `value`, as Rust's regex crate reads it
    choice   one of the strings in `value`, a JSON list
    grammar  what the GBNF grammar `value` derives from `root`
    lark     what llguidance's Lark grammar `value` derives from `start`

    `param` names the field that asks for it, for what is said about it.
    """

    kind: Literal["text", "json", "schema", "regex", "choice", "grammar", "lark"] = "text"
    value: str = ""
    param: str = "output"


class SamplingOptions(TypedDict, total=False):
    """The sampling fields that a request may give; those it leaves out come from the model's defaults."""

    temperature: float
    dynatemp_range: float
    dynatemp_exponent: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: tuple[str, ...]
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    seed: int | None
    samplers: tuple[str, ...]
    min_keep: int


SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
"""Every sampler that a chain may hold, in llama.cpp's default order."""

SAMPLER_NAMES = {
    **{form: name for name in SAMPLERS for form in (name, name.replace("_", "-"), name.replace("_", ""))},
    "temp": "temperature",
    "typ": "typ_p",
    "typical_p": "typ_p",
    "typical-p": "typ_p",
    "nucleus": "top_p",
}
"""How else llama.cpp lets each be written, in requests and in files."""

RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 1e4),
    "dynatemp_range": (0.0, 1e4),
    "dynatemp_exponent": (0.0, 1e4),
    "top_k": (-1, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "top_n_sigma": (-1.0, 1e4),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "mirostat": (0, 2),
    "mirostat_tau": (0.0, 1e4),
    "mirostat_eta": (0.0, 1e4),
    "dry_multiplier": (0.0, 1e4),
    "dry_base": (0.0, 1e4),
    "dry_allowed_length": (0, 2**31 - 1),
    "dry_penalty_last_n": (-1, 2**31 - 1),
    "repeat_last_n": (-1, 2**31 - 1),
    "repeat_penalty": (1e-6, 1e4),
    "presence_penalty": (-1e4, 1e4),
    "frequency_penalty": (-1e4, 1e4),
    "min_keep": (0, 2**31 - 1),
}

MAX_BREAKERS = 32
"""Texts that end DRY's repetitions: for each, C walks the whole vocabulary while every stream waits, 20 ms of 152,000
tokens.
"""

MAX_BIASES = 65536
"""Tokens of a logit_bias, each of which is looked at for every token of the answer."""

_WHOLE = frozenset(name for name, (low, _) in RANGES.items() if isinstance(low, int))


def _is_number(value: object, *, is_whole: bool) -> bool:
    """As C takes it: a fraction for a whole number would fail the step that it is in, and with it other requests."""
    return isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)


def _is_bias(pair: object) -> bool:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        return False
    return _is_number(pair[0], is_whole=True) and _is_number(pair[1], is_whole=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the defaults and the ranges are llama.cpp's.

    `temperature` 0 is greedy, and so is one below 1e-6. Off are `top_k` below 1, `top_p` 1, `min_p` 0, `typical_p` 1
    and `top_n_sigma` below 0.
    `repeat_last_n` and `dry_penalty_last_n` of -1 mean the whole context. `seed` None draws one. A bias of -inf bans.
    Raises InvalidRequest, with the field as `param`, on a value out of range.
    """

    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    samplers: tuple[str, ...] = SAMPLERS
    min_keep: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not _is_number(value, is_whole=name in _WHOLE):
                kind = "a whole number" if name in _WHOLE else "a number"
                raise InvalidRequest(f"{name} must be {kind}, not {value!r:.40}", param=name)
            if not low <= value <= high:  # NaN compares false, so it is refused too
                raise InvalidRequest(f"{name} must be between {low:g} and {high:g}, not {value}", param=name)
        if 0.0 < self.temperature < 1e-6:
            # Greedy is what it means; logits of 32 bits divided by it would be infinite, and the choice noise.
            object.__setattr__(self, "temperature", 0.0)
        if self.seed is not None and not (_is_number(self.seed, is_whole=True) and 0 <= self.seed < 2**32):
            raise InvalidRequest(f"seed must be between 0 and 4294967295, not {self.seed}", param="seed")
        for sampler in self.samplers:
            if sampler not in SAMPLERS:
                known = ", ".join(SAMPLERS)
                raise InvalidRequest(f"unknown sampler `{sampler}`; the known ones are {known}", param="samplers")
        if len(self.dry_sequence_breakers) > MAX_BREAKERS:
            raise InvalidRequest(f"at most {MAX_BREAKERS} dry_sequence_breakers", param="dry_sequence_breakers")
        for breaker in self.dry_sequence_breakers:
            if not isinstance(breaker, str):
                raise InvalidRequest("dry_sequence_breakers must be texts", param="dry_sequence_breakers")
        if len(self.logit_bias) > MAX_BIASES:
            raise InvalidRequest(f"at most {MAX_BIASES} tokens in logit_bias", param="logit_bias")
        for pair in self.logit_bias:
            if not _is_bias(pair):
                raise InvalidRequest(
                    f"logit_bias holds pairs of a token and a bias, not {pair!r:.40}", param="logit_bias"
                )
            token, bias = pair
            if token < 0 or token >= 2**31:
                raise InvalidRequest(f"logit_bias names the impossible token {token}", param="logit_bias")
            if not bias <= 1e6:  # NaN too; what is too large for 32 bits would be infinite, and then not a number
                raise InvalidRequest(f"logit_bias of token {token} must be at most 1e6, not {bias}", param="logit_bias")

    def with_options(self, options: SamplingOptions) -> Sampling:
        """These values, with those that `options` gives in their place."""
        if not options:
            return self
        merged = {name: getattr(self, name) for name in _SAMPLING_FIELDS}
        merged.update(options)
        return Sampling(**merged)

    def with_seed(self, seed: int) -> Sampling:
        """These values but for the seed, in [0, 2**32); checked once for all answers, which share a long bias."""
        made = object.__new__(Sampling)  # `copy` takes more than twice as long, and each answer has one
        for name in _SAMPLING_FIELDS:
            object.__setattr__(made, name, getattr(self, name))
        object.__setattr__(made, "seed", seed)
        return made


_SAMPLING_FIELDS = tuple(field.name for field in fields(Sampling))


class AdapterUse(NamedTuple):
    """A LoRA adapter by its name or its number; with its own scale where none is given."""

    adapter: str | int
    scale: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How an answer is made, for chat and completion alike."""

    sampling: SamplingOptions = field(default_factory=lambda: SamplingOptions())
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    max_tokens: int | None = None  # None: until the context ends; 0: the prompt alone is computed
    n: int = 1
    n_logprobs: int | None = None  # None: no logprobs; 0: of the chosen token alone; k: and of the k likeliest
    is_post_sampling: bool = False  # logprobs are of what the samplers left to draw from, not of the raw logits
    line_limit_s: float | None = None  # end with a line, as soon as generating has taken longer
    tells_progress: bool = False  # while the prompt is computed
    tells_timings: bool = False  # with each Delta
    ignore_eos: bool = False
    adapters: tuple[AdapterUse, ...] = ()  # in place of what the model does by itself; scale 0 of one alone: none
    session_id: str = ""  # of a conversation: it is kept where its cache is
    user: str = ""  # whose requests they are, where that is all that is known
    priority: int = 0  # higher goes first
    waits: bool | None = None  # for a model that is not loaded yet; None: as its manifest says
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_tokens", "n", "n_logprobs", "priority", "timeout_s", "line_limit_s"):
            value = getattr(self, name)
            if value is not None and not _is_number(value, is_whole=not name.endswith("_s")):
                raise InvalidRequest(f"{name} must be a number, not {value!r:.40}", param=name)
        if self.max_tokens is not None and not 0 <= self.max_tokens < 2**31:
            raise InvalidRequest(f"max_tokens must be at least 0, not {self.max_tokens}", param="max_tokens")
        if not 1 <= self.n <= 128:
            raise InvalidRequest(f"n must be between 1 and 128, not {self.n}", param="n")
        if self.n_logprobs is not None and not 0 <= self.n_logprobs <= 20:
            raise InvalidRequest(f"at most 20 logprobs a token, not {self.n_logprobs}", param="logprobs")
        if self.line_limit_s is not None and not 0 < self.line_limit_s < 1e9:
            raise InvalidRequest(
                f"a limit in time must be a positive number, not {self.line_limit_s}", param="t_max_predict_ms"
            )
        if any(not stop for stop in self.stop):
            raise InvalidRequest("a stop string must not be empty", param="stop")
        if len(self.stop) > 64 or any(len(stop) > 1024 for stop in self.stop):
            raise InvalidRequest("at most 64 stop strings of at most 1024 characters", param="stop")
        if self.timeout_s is not None and not 0 < self.timeout_s < 1e9:
            raise InvalidRequest(f"timeout must be a positive number of seconds, not {self.timeout_s}", param="timeout")


Continued = Literal["no", "text", "reasoning"]
"""What of a last message is left open, for the model to go on in it."""


MAX_REASONING_END = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A conversation to be continued by the model named `model` (empty: the only one).

    With `continued`, the last message is the assistant's and has no end: the answer is what follows in it.
    """

    messages: tuple[Message, ...]
    model: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"  # auto, none, required, or a tool's name
    n_calls: int | None = None  # at most so many calls in an answer; None: as many as the model makes
    output: Output = field(default_factory=Output)
    thinking: bool | None = None  # None: as the template likes
    max_reasoning: int | None = None  # tokens of thoughts, after which they are closed; None: as many as come
    reasoning_end: str = ""  # what is then put at the end of the thoughts
    tells_reasoning: bool = True  # thoughts go on a channel of their own; else they stay in the text, marks and all
    continued: Continued = "no"
    template_options: Mapping[str, object] = field(default_factory=dict)
    generation: Generation = field(default_factory=Generation)

    def __post_init__(self) -> None:
        if not self.messages:
            raise InvalidRequest("messages must hold at least one message", param="messages")
        self._check_tools()
        budget = self.max_reasoning
        if budget is not None and not (_is_number(budget, is_whole=True) and 0 <= budget < 2**31):
            raise InvalidRequest(
                f"a budget for reasoning must be a whole number from 0 on, not {budget!r:.40}",
                param="reasoning_budget_tokens",
            )
        if len(self.reasoning_end) > MAX_REASONING_END:
            raise InvalidRequest(
                f"at most {MAX_REASONING_END} characters at the end of thoughts", param="reasoning_budget_message"
            )
        if self.continued != "no":
            last = self.messages[-1]
            path = f"messages[{len(self.messages) - 1}]"
            if last.role != "assistant":
                raise InvalidRequest(
                    f"only a last message of the assistant can be continued, not the {last.role}'s",
                    param=f"{path}.role",
                )
            if last.tool_calls:
                raise InvalidRequest("a message that calls tools cannot be continued", param=f"{path}.tool_calls")
            if self.continued == "reasoning" and last.text:
                raise InvalidRequest("reasoning that text follows cannot be continued", param=f"{path}.content")

    def _check_tools(self) -> None:
        names: set[str] = set()
        for k, tool in enumerate(self.tools):
            name = tool.name
            if not 0 < len(name) <= 256 or not name.isprintable():
                raise InvalidRequest(
                    "a tool's name has 1 to 256 printable characters", param=f"tools[{k}].function.name"
                )
            if name in names:
                raise InvalidRequest(f"two tools are named `{name}`", param=f"tools[{k}].function.name")
            names.add(name)
        if self.tool_choice in ("auto", "none"):
            return
        if not names:
            raise InvalidRequest(f"tool_choice `{self.tool_choice}` needs tools", param="tool_choice")
        if self.tool_choice != "required" and self.tool_choice not in names:
            raise InvalidRequest(f"tool_choice names `{self.tool_choice}`, which no tool is", param="tool_choice")


class Snippet(NamedTuple):
    """Of another file than the one in which is filled in."""

    text: str
    filename: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """Prompts to be continued as they are: text, or the tokens themselves; each is answered `generation.n` times.

    With `echo`, each answer begins with its prompt's text, which counts no tokens. With `n_prompt_logprobs`, each token
    of the prompt but the first is told with its logprob and so many of the likeliest in its place: all of the prompt is
    then computed anew, for each answer. With `suffix`, the answer is what stands between the prompt and that; with
    `snippets` too, which may be empty and so may it: then texts of other files stand before, and what is too long is
    cut.
    """

    prompts: tuple[str | Sequence[int], ...]
    model: str = ""
    echo: bool = False
    n_prompt_logprobs: int | None = None
    suffix: str = ""
    snippets: tuple[Snippet, ...] | None = None
    output: Output = field(default_factory=Output)
    generation: Generation = field(default_factory=Generation)

    def __post_init__(self) -> None:
        if self.n_prompt_logprobs is not None and not 0 <= self.n_prompt_logprobs <= 20:
            raise InvalidRequest(f"at most 20 logprobs a token, not {self.n_prompt_logprobs}", param="logprobs")
        if not self.prompts:
            raise InvalidRequest("prompt must hold at least one prompt", param="prompt")
        if self.suffix and self.n_prompt_logprobs is not None:
            raise InvalidRequest("the logprobs of a prompt cannot be told where it has a suffix", param="suffix")
