"""What is asked, in words: requests as every dialect and the library speak them. Knows no tokens and no JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from llamahost.core.errors import InvalidRequest
from llamahost.core.sampling import SamplingOptions, is_number

MOST = 2**31 - 1
"""Of what is counted: C does so in 32 bits."""

MOST_S = 1e9
"""Seconds of a time limit, and less than that: thirty years; None is no limit."""

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
        return "".join([part.text for part in self.parts if isinstance(part, Text)])


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


class AdapterUse(NamedTuple):
    """A LoRA adapter by its name or its number; with its own scale where none is given."""

    adapter: str | int
    scale: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How an answer is made, for chat and completion alike.

    sampling           what is given of SamplingOptions; the model's own defaults are for the rest
    stop               texts before which the answer ends
    stop_ids           tokens at which it does
    max_tokens         None: until the context ends; 0: the prompt alone is computed, for the next request to find
    n                  answers to the same prompt
    n_logprobs         None: no logprobs; 0: of the chosen token alone; k: and of the k likeliest
    is_post_sampling   logprobs are of what the samplers left to draw from, not of the raw logits
    line_limit_s       end with a line, as soon as generating has taken longer
    least_indent       end where a line but the first begins with fewer spaces and tabs
    tells_progress     while the prompt is computed
    tells_timings      with each Delta
    ignore_eos         go on where the model would end
    adapters           in place of what the model does by itself; scale 0 of one alone: none
    session_id         of a conversation: it is kept where its cache is
    user               whose requests they are, where that is all that is known
    priority           higher goes first
    waits              for a model that is not loaded yet; None: as its manifest says
    timeout_s          after which it fails with DeadlineExceeded; None: as its manifest says
    """

    sampling: SamplingOptions = field(default_factory=lambda: SamplingOptions())
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    max_tokens: int | None = None
    n: int = 1
    n_logprobs: int | None = None
    is_post_sampling: bool = False
    line_limit_s: float | None = None
    least_indent: int = 0
    tells_progress: bool = False
    tells_timings: bool = False
    ignore_eos: bool = False
    adapters: tuple[AdapterUse, ...] = ()
    session_id: str = ""
    user: str = ""
    priority: int = 0
    waits: bool | None = None
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_tokens", "n", "n_logprobs", "priority", "timeout_s", "line_limit_s", "least_indent"):
            value = getattr(self, name)
            if value is None or type(value) is int:
                continue
            if not is_number(value, is_whole=not name.endswith("_s")):
                raise InvalidRequest(f"{name} must be a number, not {value!r:.40}", param=name)
        if self.max_tokens is not None and not 0 <= self.max_tokens <= MOST:
            raise InvalidRequest(f"max_tokens must be between 0 and {MOST}, not {self.max_tokens}", param="max_tokens")
        if not 1 <= self.n <= 128:
            raise InvalidRequest(f"n must be between 1 and 128, not {self.n}", param="n")
        if self.n_logprobs is not None and not 0 <= self.n_logprobs <= 20:
            raise InvalidRequest(f"logprobs of 0 to 20 tokens can be told, not of {self.n_logprobs}", param="logprobs")
        if self.line_limit_s is not None and not 0 < self.line_limit_s < MOST_S:
            raise InvalidRequest(
                f"a limit in time must be above 0 and below {MOST_S:.0f} s, not {self.line_limit_s}",
                param="t_max_predict_ms",
            )
        if not 0 <= self.least_indent <= MOST:
            raise InvalidRequest(f"n_indent must be between 0 and {MOST}, not {self.least_indent}", param="n_indent")
        if "" in self.stop:
            raise InvalidRequest("a stop string must not be empty", param="stop")
        if len(self.stop) > 64 or max(map(len, self.stop), default=0) > 1024:
            raise InvalidRequest("at most 64 stop strings of at most 1024 characters", param="stop")
        if self.timeout_s is not None and not 0 < self.timeout_s < MOST_S:
            raise InvalidRequest(
                f"timeout must be above 0 and below {MOST_S:.0f} s, not {self.timeout_s}", param="timeout"
            )


Continued = Literal["no", "text", "reasoning"]
"""What of a last message is left open, for the model to go on in it."""


MAX_REASONING_END = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A conversation to be continued by the model named `model` (empty: the only one).

    tool_choice        auto, none, required, or a tool's name
    n_calls            at most so many calls in an answer; None: as many as the model makes
    output             the form that the text must take
    thinking           None: as the template likes
    max_reasoning      tokens of thoughts, after which they are closed; None: as many as come
    reasoning_end      what is then put at the end of the thoughts
    tells_reasoning    thoughts go on a channel of their own; else they stay in the text, marks and all
    continued          not "no": the last message is the assistant's and has no end; the answer is what follows in it
    template_options   what else the model's chat template asks for, by name
    generation         how the answer is made
    """

    messages: tuple[Message, ...]
    model: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    n_calls: int | None = None
    output: Output = field(default_factory=Output)
    thinking: bool | None = None
    max_reasoning: int | None = None
    reasoning_end: str = ""
    tells_reasoning: bool = True
    continued: Continued = "no"
    template_options: Mapping[str, object] = field(default_factory=dict)
    generation: Generation = field(default_factory=Generation)

    def __post_init__(self) -> None:
        if not self.messages:
            raise InvalidRequest("messages must hold at least one message", param="messages")
        self._check_tools()
        n = self.n_calls
        if n is not None and not (is_number(n, is_whole=True) and n >= 1):
            raise InvalidRequest(f"n_calls must be a whole number from 1 on, not {n!r:.40}", param="n_calls")
        budget = self.max_reasoning
        if budget is not None and not (is_number(budget, is_whole=True) and 0 <= budget <= MOST):
            raise InvalidRequest(
                f"a budget for reasoning must be a whole number between 0 and {MOST}, not {budget!r:.40}",
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
        n = self.n_prompt_logprobs
        if n is not None and not (is_number(n, is_whole=True) and 0 <= n <= 20):
            raise InvalidRequest(f"logprobs of 0 to 20 tokens can be told, not of {n!r:.40}", param="logprobs")
        if not self.prompts:
            raise InvalidRequest("prompt must hold at least one prompt", param="prompt")
        if self.suffix and self.n_prompt_logprobs is not None:
            raise InvalidRequest("the logprobs of a prompt cannot be told where it has a suffix", param="suffix")

    @property
    def fills_in(self) -> bool:
        """Is something to be put between, which not every model was trained for?"""
        return bool(self.suffix) or self.snippets is not None
