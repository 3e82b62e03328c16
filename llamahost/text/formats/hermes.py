"""Hermes, and all who took its form: Qwen 2.5 and 3, QwQ, MiMo, Granite 4, Bielik, Reka, SmolLM3 …

<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_call>
"""

from llamahost.text.formats.json_calls import JsonCalls

HERMES = JsonCalls(
    name="hermes",
    is_spoken=lambda template: (
        "<tool_call>" in template and not any(other in template for other in ("<arg_key>", "<function=", "<invoke "))
    ),
    opens=("<tool_call>",),
    close=("</tool_call>",),
    gap="\n",
)
