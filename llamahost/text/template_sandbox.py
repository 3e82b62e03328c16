"""The Jinja that templates of model files run in: what Hugging Face gives to its own, bounded. Knows no message.

A template comes with a model file, so it is not trusted: no attribute of Python's own is in reach, ranges, repeated
strings and powers are bounded, and so is the output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2  # at run time only once a template is made: it is a tenth of the start-up

MAX_CHARS = 16 * 2**20
"""Of a rendered prompt; more than any context holds."""

_MAX_REPEAT = 10**6
"""Items of all ranges of one rendering together, and of one repeated string or list."""


def bounded_range() -> Callable[..., range]:
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


def joined(chunks: Iterable[str]) -> str:
    parts: list[str] = []
    n_chars = 0
    for chunk in chunks:
        n_chars += len(chunk)
        if n_chars > MAX_CHARS:
            raise OverflowError(f"the prompt grew beyond {MAX_CHARS} characters")
        parts.append(chunk)
    return "".join(parts)


def undeclared(environment: jinja2.Environment, source: str) -> set[str]:
    """The names that a template takes from outside."""
    from jinja2 import meta

    return meta.find_undeclared_variables(environment.parse(source))


def environment_at(now: Callable[[], datetime]) -> jinja2.Environment:
    """What Hugging Face gives to its templates, bounded."""
    import jinja2
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.runtime import Context
    from jinja2.sandbox import SandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks an assistant's words for training; here it is only a block."""

        tags = {"generation"}  # noqa: RUF012  the form that Jinja asks for

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class Sandbox(SandboxedEnvironment):
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
    environment.globals.pop("lipsum")  # random words of any length
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
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_listed,
    )


def _listed(value: object) -> object:
    """What `map` and `select` give, which Hugging Face refuses and llama.cpp writes as a list."""
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _length(value: object) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _count(value: object) -> int:
    return max(0, value) if isinstance(value, int) else 0
