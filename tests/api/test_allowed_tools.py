"""`allowed_tools`: of the tools that a request offers, those alone that may be called, as OpenAI's two APIs say it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llamahost.api.body import decode_body
from llamahost.api.openai_parse import parse_chat
from llamahost.api.openai_types import CHAT

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in "fgh"]
NESTED = [{"type": "function", "function": {"name": name}} for name in "hf"]
FLAT = [{"type": "function", "name": name} for name in "hf"]


@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("is_flat", [True, False])
def test_what_is_allowed_alone_is_offered_and_held_to(mode: str, *, is_flat: bool) -> None:
    allowed: dict[str, Any] = {"mode": mode, "tools": FLAT if is_flat else NESTED}
    choice = {"type": "allowed_tools", **(allowed if is_flat else {"allowed_tools": allowed})}
    body = {"messages": [{"role": "user", "content": "x"}], "tools": TOOLS, "tool_choice": choice}
    request = parse_chat(decode_body(json.dumps(body).encode(), CHAT))
    assert [tool.name for tool in request.tools] == ["f", "h"]
    assert request.tool_choice == mode
