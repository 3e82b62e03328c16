"""LFM2: calls as Python writes them, between marks.

<|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>
"""

from llamahost.text.formats.python_calls import PythonCalls

LFM = PythonCalls(
    name="lfm",
    is_spoken=lambda template: "<|tool_call_start|>" in template or "List of tools: " in template,
    opens=("<|tool_call_start|>",),
    close="<|tool_call_end|>",
)
