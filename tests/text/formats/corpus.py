"""Answers of each family, written for this project as its models write them: well-formed, cut short, broken, sly."""

from __future__ import annotations

from tests.text.formats.reading import Case, call

CITY = call("get_weather", city="Sankt Pölten", days=2)
PARIS = call("get_weather", city="Paris")
SLY = call(
    "get_weather", city='a</tool_call> "quoted" \\ \n{"name": "get"} 🙂', where={"a": [True, None, {"b": 1.5e3}]}
)

HERMES = [
    Case("Hello, <b>world</b>! 1 < 2\n\n", text="Hello, <b>world</b>! 1 < 2\n\n"),
    Case(
        'Let me look.\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Sankt Pölten", "days": 2}}\n'
        "</tool_call>",
        text="Let me look.",
        calls=(CITY,),
    ),
    Case(
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>\n',
        calls=(PARIS, call("get")),
    ),
    Case(
        '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call> Done.',
        text="Done.",
        calls=(PARIS,),
    ),
    Case('<tool_call>[{"name": "get", "arguments": {}}, {"name": "get"}]</tool_call>', calls=(call("get"),) * 2),
    Case('<tool_call>{"name": "get", "arguments": {}}\n{"name": "get"}</tool_call>', calls=(call("get"),) * 2),
    Case('<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>', calls=(PARIS,)),
    Case('<tool_call>{"name": "get", "arguments": null}</tool_call>', calls=(call("get"),)),
    Case(
        '<tool_call>{"type": "function", "function": {"name": "get", "parameters": {}}}</tool_call>',
        calls=(call("get"),),
    ),
    Case(f'<tool_call>{{"name": "get_weather", "arguments": {SLY[1]}}}</tool_call>', calls=(SLY,)),
    Case(
        '<tool_call>{"name": "get_weather", "arguments": {"city": "\\u00e9\\ud83d\\ude42"}}</tool_call>',
        calls=(call("get_weather", city="é🙂"),),
    ),
    Case(
        '<tool_call>{"name": "get_weather", "arguments": {"city": "a\nb\tc", "exact": True, "note": None}}</tool_call>',
        calls=(call("get_weather", city="a\nb\tc", exact=True, note=None),),
    ),
    # Cut short.
    Case("The end <tool_ca", text="The end <tool_ca"),
    Case('<tool_call>{"name": "get_wea', text='<tool_call>{"name": "get_wea'),
    Case(
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Sankt P',
        calls=(("get_weather", '{"city": "Sankt P'),),
        is_cut=True,
    ),
    Case('<tool_call>{"name": "get", "arguments": {}', calls=(call("get"),)),
    # What is no call.
    Case("Use <tool_call> like this.", text="Use <tool_call> like this."),
    Case(
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        text='<tool_call>{"name": "other", "arguments": {}}</tool_call>',
    ),
    Case("<tool_call>{'name': 'get'}</tool_call>", text="<tool_call>{'name': 'get'}</tool_call>"),
    Case('<tool_call>{"name": "get" "arguments": {}}', text='<tool_call>{"name": "get" "arguments": {}}'),
    Case('<tool_call>{"name": 3}</tool_call>', text='<tool_call>{"name": 3}</tool_call>'),
    Case('<tool_call>\n<tool_call>{"name": "get"}</tool_call>', text="<tool_call>", calls=(call("get"),)),
    Case("<tool_call>" + "[" * 3000, text="<tool_call>" + "[" * 3000),
    # Broken after the name was told.
    Case(
        '<tool_call>{"name": "get_weather", "arguments": {"city": oops}}</tool_call> so',
        text="oops}}</tool_call> so",
        calls=(("get_weather", '{"city": '),),
        is_cut=True,
    ),
]

THINK = [
    Case("<think>\nIf so\n</think>\n\nYes.", reasoning="If so", text="Yes."),
    Case("\n<think></think>Yes.", text="Yes."),
    Case("If so\n</think>\n\nYes.", reasoning="If so", text="Yes.", is_thinking=True),
    Case("<think>\nIf so</think>Yes.", reasoning="If so", text="Yes.", is_thinking=True),
    Case("</think>\n\nYes.", text="Yes.", is_thinking=True),
    Case("<think>never ends <tool_call>", reasoning="never ends <tool_call>"),
    Case("<thin", text="<thin"),
    Case("A <think>tag</think>.", text="A <think>tag</think>."),
    Case("<think>a < b </thi </think>\n", reasoning="a < b </thi"),
    Case(
        '<think>\n<tool_call>{"name": "get"}</tool_call>\n</think>\n<tool_call>{"name": "get"}</tool_call>',
        reasoning='<tool_call>{"name": "get"}</tool_call>',
        calls=(call("get"),),
    ),
]
