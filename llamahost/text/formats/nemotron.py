"""Nemotron Nano 2 and Llama-Nemotron: a list of JSON objects between tags. Nemotron 3 writes as Qwen3-Coder does.

<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris"}}]</TOOLCALL>
"""

from llamahost.text.formats.json_calls import JsonCalls

NEMOTRON = JsonCalls(
    name="nemotron",
    is_spoken=lambda template: "<TOOLCALL>" in template,
    opens=("<TOOLCALL>",),
    close=("</TOOLCALL>",),
    is_list=True,
)
