"""Granite 3: a list of JSON objects after one mark. Granite 4 writes as Hermes does.

<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]
"""

from llamahost.text.formats.json_calls import JsonCalls

GRANITE = JsonCalls(
    name="granite",
    is_spoken=lambda template: "<|tool_call|>" in template and "<|start_of_role|>" in template,
    opens=("<|tool_call|>", "<tool_call>"),
    is_list=True,
)
