"""Tools for models whose template knows none: how they are described, called and answered. Knows no template.

The form is Hermes': JSON between tags, which most models that ever saw tools have seen. What reads the answers
(`text/formats`) and what writes the history (`template_bridge`) both go by this file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from llamahost.core.messages import Tool

CALL = ("<tool_call>", "</tool_call>")
RESULT = ("<tool_response>", "</tool_response>")
EXAMPLE = ("name_of_function", '{"name_of_argument": "value"}')
"""A call to show the form with: its name and its arguments."""

_DESCRIPTION = """\
You may call functions to answer. These are there, each with the JSON Schema of its arguments:
<tools>
{tools}
</tools>

To call a function, write the call as here, with the function's name and its arguments, and nothing after it:
{example}
{ending} Where no function is needed, answer in plain words."""
_GENERIC_ENDING = (
    "For several calls, write one such block after the other. "
    f"The results come between {RESULT[0]} and {RESULT[1]}; answer with their help."
)
_OWN_ENDING = "The results come back; answer with their help."


def schema(tool: Tool, *, is_described: bool = False) -> dict[str, object]:
    """A tool as OpenAI writes it, with a description if it has one, or `is_described`. One without parameters takes an
    empty object, which every template can show.
    """
    function: dict[str, object] = {"name": tool.name}
    if tool.description or is_described:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters) or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def described(tools: Sequence[Tool], example: str = "") -> str:
    """What the system tells of the tools; `example` is a call in the model's own form, if it has one."""
    return _DESCRIPTION.format(
        tools="\n".join(json.dumps(schema(tool), ensure_ascii=False) for tool in tools),
        example=example or call_text(*EXAMPLE),
        ending=_OWN_ENDING if example else _GENERIC_ENDING,
    )


def call_text(name: str, arguments: str) -> str:
    """A call as the model is to write it; `arguments` is JSON text, kept as text where it is none."""
    return f"{CALL[0]}\n{json.dumps({'name': name, 'arguments': value_of(arguments)}, ensure_ascii=False)}\n{CALL[1]}"


def result_text(name: str, content: str) -> str:
    """What a call gave, for a turn of the user."""
    told = {"name": name, "content": content} if name else {"content": content}
    return f"{RESULT[0]}\n{json.dumps(told, ensure_ascii=False)}\n{RESULT[1]}"


def value_of(arguments: str) -> object:
    """The object that a call's arguments are; what is none stays the text that the model wrote."""
    try:
        value = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
