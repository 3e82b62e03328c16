"""Phi-4 mini: a list of JSON objects between marks.

<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]<|/tool_call|>
"""

from llamahost.text.formats.json_calls import JsonCalls

PHI = JsonCalls(
    name="phi",
    is_spoken=lambda template: "<|tool_call|>" in template or "<|/tool|>" in template,
    opens=("<|tool_call|>",),
    close=("<|/tool_call|>",),
    is_list=True,
)
