"""Command R: a list of JSON objects with names of its own; R7B and later between marks, R+ in a fence of Markdown.

<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}]<|END_ACTION|>

Action: ```json
[{"tool_name": "get_weather", "parameters": {"city": "Paris"}}]
```
"""

from llamahost.text.formats.json_calls import JsonCalls

COMMAND_R = JsonCalls(
    name="command-r",
    is_spoken=lambda template: "<|START_ACTION|>" in template,
    opens=("<|START_ACTION|>",),
    close=("<|END_ACTION|>",),
    keys=("tool_name", "parameters"),
    ids="tool_call_id",
    is_list=True,
)

COMMAND_R_PLUS = JsonCalls(
    name="command-r-plus",
    is_spoken=lambda template: "<|CHATBOT_TOKEN|>" in template and "Action:" in template,
    opens=("Action: ```json", "Action:```json"),
    close=("```",),
    keys=("tool_name", "parameters"),
    is_list=True,
    gap="\n",
)
