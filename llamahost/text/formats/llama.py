"""Llama 3: the whole answer is one JSON object, or calls as Python writes them. Functionary 3.1 puts names in tags.

{"name": "get_weather", "parameters": {"city": "Paris"}}

[get_weather(city="Paris")]

<function=get_weather>{"city": "Paris"}</function>
"""

from llamahost.text.formats.json_calls import JsonCalls
from llamahost.text.formats.named_calls import NamedCalls
from llamahost.text.formats.python_calls import PythonCalls

LLAMA = JsonCalls(
    name="llama",
    is_spoken=lambda template: "<|start_header_id|>" in template and '"parameters": ' in template,
    opens=("<|python_tag|>",),
    begins_bare=True,
    keys=("name", "parameters"),
)

LLAMA_PYTHON = PythonCalls(
    name="llama-python",
    is_spoken=lambda template: "func_name1(" in template,
    opens=("<|python_start|>", "<|python_tag|>"),
    close="<|python_end|>",
    begins_bare=True,
)

FUNCTIONARY_3_1 = NamedCalls(
    name="functionary",
    is_spoken=lambda template: "<function=" in template and "<parameter=" not in template,
    opens=("<function=",),
    call="<function=",
    after=(">",),
    close=("</function>",),
    written=("", ">", "</function>"),
    tokens=("<function", "</function>"),
)
