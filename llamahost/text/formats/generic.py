"""For models whose template has no form of its own: they are told this one in words, and may still write another.

<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_call>
"""

from llamahost.text.formats.json_calls import JsonCalls

GENERIC = JsonCalls(
    name="generic",
    is_spoken=lambda template: True,
    opens=("<tool_call>", "<|tool_call|>", "<tool_calls>", "<function_call>"),
    close=("</tool_call>", "<|/tool_call|>", "</tool_calls>", "</function_call>"),
    begins_bare=True,
    gap="\n",
)
