"""Conversations that templates are compared on, each as the library's messages and as Hugging Face's."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from llamahost.core.messages import Continued, Message, Role, Text, Tool, ToolCall

WEATHER = Tool(
    name="get_weather",
    description="Tells the weather at a place.",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "days": {"type": "integer", "description": "How far ahead."},
        },
        "required": ["city"],
    },
)
CLOCK = Tool(name="get_time", description="Tells the time.", parameters={"type": "object", "properties": {}})


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    thinking: bool | None = None
    add_generation_prompt: bool = True
    continued: Continued = "no"
    options: Mapping[str, object] = field(default_factory=dict)


def said(role: Role, text: str = "", *calls: ToolCall, **more: str) -> Message:
    return Message(role=role, parts=(Text(text),) if text else (), tool_calls=calls, **more)


CALL = ToolCall("call00001", "get_weather", '{"city": "Köln", "days": 2}')
OTHER = ToolCall("call00002", "get_time", "{}")
SYSTEM = said("system", "Be brief & <kind>.")
HI, HELLO, BYE = said("user", "Hi, wie geht's?"), said("assistant", "Hello!"), said("user", "Bye")
ASKED = said("user", "What is the weather in Köln?")
RESULT = said("tool", "rain, 7 °C", tool_call_id="call00001", name="get_weather")
LATE = said("tool", "12:30", tool_call_id="call00002", name="get_time")
THOUGHT = said("assistant", "It is four.", reasoning="Two and two make four.")

CONVERSATIONS: dict[str, Conversation] = {
    "one turn": Conversation(messages=(HI,)),
    "system": Conversation(messages=(SYSTEM, HI)),
    "several turns": Conversation(messages=(SYSTEM, HI, HELLO, BYE)),
    "no generation prompt": Conversation(messages=(HI, HELLO), add_generation_prompt=False),
    "tools": Conversation(messages=(HI,), tools=(WEATHER, CLOCK)),
    "tools and system": Conversation(messages=(SYSTEM, HI), tools=(WEATHER, CLOCK)),
    "call": Conversation(messages=(ASKED, said("assistant", "", CALL), RESULT), tools=(WEATHER, CLOCK)),
    "call and answer": Conversation(
        messages=(SYSTEM, ASKED, said("assistant", "", CALL), RESULT, said("assistant", "Rain."), BYE),
        tools=(WEATHER, CLOCK),
    ),
    "call beside text": Conversation(
        messages=(ASKED, said("assistant", "Let me look.", CALL), RESULT), tools=(WEATHER, CLOCK)
    ),
    "parallel calls": Conversation(
        messages=(ASKED, said("assistant", "", CALL, OTHER), RESULT, LATE), tools=(WEATHER, CLOCK)
    ),
    "thinking on": Conversation(messages=(SYSTEM, HI), thinking=True),
    "thinking off": Conversation(messages=(SYSTEM, HI), thinking=False),
    "earlier thoughts": Conversation(messages=(HI, THOUGHT, BYE)),
    "thoughts before a call": Conversation(
        messages=(ASKED, said("assistant", "", CALL, reasoning="I must look."), RESULT), tools=(WEATHER, CLOCK)
    ),
    "continued": Conversation(messages=(HI, said("assistant", "I am")), continued="text"),
    "low effort": Conversation(messages=(HI,), options={"reasoning_effort": "low"}),
    "documents": Conversation(messages=(HI,), options={"documents": [{"title": "A", "text": "Told in A."}]}),
}


def told(message: Message, *, text_arguments: bool = False) -> dict[str, object]:
    """As transformers' documentation writes a message: no key without a value, arguments as an object."""
    turn: dict[str, object] = {"role": message.role}
    if message.parts:
        turn["content"] = message.text
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": call.arguments if text_arguments else json.loads(call.arguments),
                },
            }
            for call in message.tool_calls
        ]
    for name in ("tool_call_id", "name"):
        if value := getattr(message, name):
            turn[name] = value
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    return turn


def described(tool: Tool) -> dict[str, object]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}
