"""MiniMax: M1 writes JSON, and so does Apriel; M2 writes tags, and MiniCPM5 nearly the same.

<tool_calls>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_calls>

<minimax:tool_call>
<invoke name="get_weather">
<parameter name="city">Paris</parameter>
</invoke>
</minimax:tool_call>
"""

from llamahost.text.formats.json_calls import JsonCalls
from llamahost.text.formats.tagged_calls import TaggedCalls

MINIMAX_1 = JsonCalls(
    name="minimax-m1",
    is_spoken=lambda template: "<tool_calls>" in template,
    opens=("<tool_calls>",),
    close=("</tool_calls>",),
    is_list=False,
    gap="\n",
)

MINIMAX_2 = TaggedCalls(
    name="minimax-m2",
    is_spoken=lambda template: "<minimax:tool_call>" in template or "'minimax:tool_call'" in template,
    opens=("<minimax:tool_call>",),
    call='<invoke name="',
    named='">',
    key='<parameter name="',
    keyed='">',
    valued="</parameter>",
    close="</invoke>",
    end="</minimax:tool_call>",
    tokens=("<minimax:tool_call>", "</minimax:tool_call>"),
)

MINICPM = TaggedCalls(
    name="minicpm",
    is_spoken=lambda template: '<function name="' in template and '<param name="' in template,
    opens=('<function name="',),
    call='<function name="',
    named='">',
    key='<param name="',
    keyed='">',
    valued="</param>",
    close="</function>",
    tokens=("<function", "</function>", "<param", "</param>"),
)
