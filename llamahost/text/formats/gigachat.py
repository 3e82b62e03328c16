"""GigaChat 3: one JSON object in a message of its own.

<|function_call|>{"name": "get_weather", "arguments": {"city": "Paris"}}
"""

from llamahost.text.formats.json_calls import JsonCalls

GIGACHAT = JsonCalls(
    name="gigachat",
    is_spoken=lambda template: "<|role_sep|>" in template and "<|message_sep|>" in template,
    opens=("<|function_call|>", "<|message_sep|>\n\nfunction call<|role_sep|>", "function call<|role_sep|>"),
)
