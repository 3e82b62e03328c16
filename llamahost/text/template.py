"""Messages in, the prompt's text out: a model's own Jinja template, in a sandbox. Knows no tokens and no files.

A template comes with a model file, so it is not trusted: no attribute of Python's own is in reach, ranges, repeated
strings and powers are bounded, and so is the output. What the template raises is told in its own words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llamahost.core.errors import TemplateFailed
from llamahost.core.messages import Continued, Message, Tool

if TYPE_CHECKING:
    import jinja2  # at run time only once a template is made: it is a tenth of the start-up

CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
"""For models that bring no template; the commonest form."""

MAX_CHARS = 16 * 2**20
"""Of a rendered prompt; more than any context holds."""

_MARK = "\ue000\ue001\ue002"
"""Of the place where a message is cut: private characters, which no text has a use for."""

_MAX_REPEAT = 10**6
"""Items of all ranges of one rendering together, and of one repeated string or list."""


class Template:
    """A compiled template. Never changes; may render in several threads at once. Raises TemplateFailed if malformed."""

    __slots__ = ("_compiled", "_specials", "knows_developer", "knows_tools", "source")

    def __init__(self, source: str, *, bos: str = "", eos: str = "", now: Callable[[], datetime] | None = None) -> None:
        import jinja2

        self.source = source
        self.knows_tools = "tools" in source
        self.knows_developer = "developer" in source
        self._specials = {"bos_token": bos, "eos_token": eos}
        try:
            self._compiled = _environment(now or datetime.now).from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateFailed(f"the chat template is malformed: line {error.lineno}: {error.message}") from error
        except RecursionError as error:
            raise TemplateFailed("the chat template is malformed: it is nested too deeply") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        add_generation_prompt: bool = True,
        continued: Continued = "no",
        options: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt of this conversation; `options` are what the user hands to the template by name.

        With `continued`, it ends within the last message: where its text, or its reasoning, does.
        """
        turns = [self._spoken(message) for message in messages]
        if continued != "no":
            _leave_open(turns[-1], continued)
            add_generation_prompt = False
        context: dict[str, object] = {
            "range": _bounded_range(),
            **self._specials,
            **(options or {}),
            "messages": turns,
            "tools": [_described(tool) for tool in tools] or None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            prompt = _joined(self._compiled.generate(context))
        except Exception as error:  # whatever a template does wrong, it is the request that fails
            said = str(error) or type(error).__name__
            raise TemplateFailed(f"the chat template of the model says: {said}", param="messages") from error
        return prompt if continued == "no" else _cut(prompt, continued)

    def _spoken(self, message: Message) -> dict[str, object]:
        """The form that Hugging Face's templates expect of a message."""
        role = message.role
        if role == "developer" and not self.knows_developer:
            role = "system"
        spoken: dict[str, object] = {"role": role, "content": message.text}
        if message.tool_calls:
            spoken["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _arguments(call.arguments)},
                }
                for call in message.tool_calls
            ]
        if message.tool_call_id:
            spoken["tool_call_id"] = message.tool_call_id
        if message.name:
            spoken["name"] = message.name
        if message.reasoning:
            spoken["reasoning_content"] = message.reasoning
        return spoken


def _leave_open(turn: dict[str, object], continued: Continued) -> None:
    """Put the mark where the model is to go on; being no space, it also keeps templates from trimming before it."""
    if continued == "text":
        turn["content"] = f"{turn['content']}{_MARK}"
    else:
        turn["content"] = ""
        turn["reasoning_content"] = f"{turn.get('reasoning_content', '')}{_MARK}"


def _cut(prompt: str, continued: Continued) -> str:
    """All before the mark. What a template writes after a message's end goes with it."""
    before, mark, _ = prompt.rpartition(_MARK)
    if not mark:
        raise TemplateFailed(
            f"the chat template of the model leaves out the last message's {continued}, so it cannot be continued",
            param="messages",
        )
    return before


def _arguments(text: str) -> object:
    """The object that a call's arguments are; what is none stays the text that the model wrote."""
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _described(tool: Tool) -> dict[str, object]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def _bounded_range() -> Callable[..., range]:
    """`range` for one rendering; the sandbox bounds each, this all together: ranges nest, and need not print."""
    n_left = _MAX_REPEAT

    def bounded(*bounds: int) -> range:
        nonlocal n_left
        made = range(*bounds)
        n_left -= len(made)
        if n_left < 0:
            raise OverflowError(f"its ranges count beyond {_MAX_REPEAT}")
        return made

    return bounded


def _joined(chunks: Iterable[str]) -> str:
    parts: list[str] = []
    n_chars = 0
    for chunk in chunks:
        n_chars += len(chunk)
        if n_chars > MAX_CHARS:
            raise OverflowError(f"the prompt grew beyond {MAX_CHARS} characters")
        parts.append(chunk)
    return "".join(parts)


def _environment(now: Callable[[], datetime]) -> jinja2.Environment:
    """What Hugging Face gives to its templates, bounded."""
    import jinja2
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.runtime import Context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks an assistant's words for training; here it is only a block."""

        tags = {"generation"}  # noqa: RUF012  the form that Jinja asks for

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            if operator == "**":
                if abs(left) > 2**32 or abs(right) > 64:
                    raise SecurityError("a power is too large")
            elif _length(left) * _count(right) > _MAX_REPEAT or _length(right) * _count(left) > _MAX_REPEAT:
                raise SecurityError("a repetition is too long")
            return super().call_binop(context, operator, left, right)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def strftime_now(form: str) -> str:
        return now().strftime(form)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Hugging Face's: no HTML escapes, which Jinja's own puts into what the model reads."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _length(value: object) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _count(value: object) -> int:
    return max(0, value) if isinstance(value, int) else 0
