"""The fields that ask for a form of output, OpenAI's, llama-server's and vLLM's → one Output. Knows JSON types only:
what a schema or a grammar says is read where it becomes a constraint.
"""

from __future__ import annotations

import json
import re
from operator import attrgetter
from typing import Any

from llamahost.api.openai_types import Body, ResponseFormat, StructuredOutputs
from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Output

_LARK = re.compile(r"^\s*(%llguidance\b|start\s*:)", re.MULTILINE)


_given = attrgetter(
    "response_format", "json_schema", "grammar", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
    "structured_outputs",
)  # fmt: skip
_NONE, _TEXT = (None,) * 8, Output()


def output_of(body: Body) -> Output:
    """Raises InvalidRequest where two fields ask for different forms, or one for none that is served."""
    if (given := _given(body)) == _NONE:
        return _TEXT
    form, schema, grammar, guided_schema, regex, choice, guided_grammar, structured = given
    asked = [
        _formatted(form),
        _schema(schema, "json_schema"),
        _grammar(grammar, "grammar"),
        _schema(guided_schema, "guided_json"),
        _regex(regex, "guided_regex"),
        _choice(choice, "guided_choice"),
        _grammar(guided_grammar, "guided_grammar"),
        *_structured(structured),
    ]
    found = [output for output in asked if output is not None]
    if len(found) > 1:
        first, second = found[0].param, found[1].param
        raise InvalidRequest(f"`{first}` and `{second}` both ask for a form of output; give one", param=second)
    return found[0] if found else _TEXT


def _formatted(wanted: ResponseFormat | None) -> Output | None:
    if wanted is None or wanted.type == "text":
        return None
    place = "response_format"
    if wanted.type == "json_object":
        if wanted.schema is None:
            return Output("json", param=place)
        return _schema(wanted.schema, f"{place}.schema")
    if wanted.type == "json_schema":
        if wanted.json_schema is None and wanted.schema is not None:
            return _schema(wanted.schema, f"{place}.schema")
        path = f"{place}.json_schema.schema"
        if wanted.json_schema is None or wanted.json_schema.schema is None:
            raise InvalidRequest(f"`{path}` is required", param=path)
        return _schema(wanted.json_schema.schema, path)
    known = "text, json_object, json_schema"
    raise InvalidRequest(f"`{place}.type` must be one of {known}", param=f"{place}.type")


def _structured(wanted: StructuredOutputs | None) -> list[Output | None]:
    if wanted is None:
        return []
    place = "structured_outputs"
    if wanted.structural_tag is not None:
        raise InvalidRequest(f"`{place}.structural_tag` is not served", param=f"{place}.structural_tag")
    return [
        _schema(wanted.json, f"{place}.json"),
        _regex(wanted.regex, f"{place}.regex"),
        _choice(wanted.choice, f"{place}.choice"),
        _grammar(wanted.grammar, f"{place}.grammar"),
        Output("lark", wanted.lark, f"{place}.lark") if wanted.lark is not None else None,
        Output("json", param=f"{place}.json_object") if wanted.json_object else None,
    ]


def _schema(schema: dict[str, Any] | str | None, param: str) -> Output | None:
    """A schema as an object, or as its text."""
    if schema is None or isinstance(schema, str):
        return None if schema is None else Output("schema", schema, param)
    try:  # its text again: whole numbers of any length, and no deeper than whoever reads it next can go
        return Output("schema", json.dumps(schema, ensure_ascii=False), param)
    except RecursionError:
        raise InvalidRequest(f"`{param}` is nested too deeply", param=param) from None


def _grammar(text: str | None, param: str) -> Output | None:
    """GBNF, or Lark where it is plainly that; an empty one is none, as in llama-server."""
    if not text:
        return None
    return Output("lark" if _LARK.search(text) and "::=" not in text else "grammar", text, param)


def _regex(pattern: str | None, param: str) -> Output | None:
    return None if pattern is None else Output("regex", pattern, param)


def _choice(choices: list[str] | None, param: str) -> Output | None:
    return None if choices is None else Output("choice", json.dumps(choices, ensure_ascii=False), param)
