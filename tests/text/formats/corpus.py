"""Answers of each family, written for this project as its models write them: well-formed, cut short, broken, sly.

Those that write each argument in tags are in `tagged`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.text.formats.reading import CITY, NOTHING, PARIS, SLY, Case, call


def json_cases(before: str, after: str, name: str = "name", arguments: str = "arguments") -> list[Case]:
    """Of families that write a list of JSON objects between marks."""

    def wrote(calls: str) -> str:
        return f"{before}[{calls}]{after}"

    city = f'{{"{name}": "get_weather", "{arguments}": {CITY[1]}}}'
    return [
        *NOTHING,
        Case(f"Let me look.\n{wrote(city)}", text="Let me look.", calls=(CITY,)),
        Case(wrote(f'{city}, {{"{name}": "get", "{arguments}": {{}}}}'), calls=(CITY, call("get"))),
        Case(wrote(f'\n  {{"{arguments}": {SLY[1]}, "id": "0", "{name}": "get_weather"}}\n'), calls=(SLY,)),
        Case(
            wrote(f'{{"{name}": "other", "{arguments}": {{}}}}'),
            text=wrote(f'{{"{name}": "other", "{arguments}": {{}}}}'),
        ),
        Case(wrote("oops"), text=wrote("oops")),
        Case(f"{before}[", text=f"{before}["),
        Case(
            f"{before}[{city[:60]}", calls=(("get_weather", city[:60].partition(f'"{arguments}": ')[2]),), is_cut=True
        ),
        Case(f"{before}[{city}, oops", text="oops", calls=(CITY,)),
        Case(before[:-1], text=before[:-1]),
    ]


def named_cases(wrote: Callable[[str, str], str], section: tuple[str, str] = ("", "")) -> list[Case]:
    """Of families that write a name and one JSON object."""
    begin, end = section
    whole = wrote("get_weather", CITY[1])
    return [
        *NOTHING,
        Case(f"Let me look.\n\n{begin}{whole}{end}", text="Let me look.", calls=(CITY,)),
        Case(f"{begin}{whole}{wrote('get', '{}')}{end}\n", calls=(CITY, call("get"))),
        Case(f"{begin}{wrote('get_weather', SLY[1])}{end}", calls=(SLY,)),
        Case(f"{begin}{wrote('search.web-2', '{}')}{end} So.", text="So.", calls=(call("search.web-2"),)),
        Case(f"{begin}{wrote('other', '{}')}", text=f"{begin}{wrote('other', '{}')}"),
        Case(f"{begin}{wrote('get', 'oops')}", text=f"{begin}{wrote('get', 'oops')}"),
        Case(f"{begin}{whole[: whole.index('P')]}", calls=(("get_weather", '{"city": "Sankt '),), is_cut=True),
        Case(f"{begin}{whole[:9]}", text=f"{begin}{whole[:9]}"),
    ]


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
SOLAR = [
    *named_cases(
        lambda name, arguments: (
            f"<|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>{name}<|tool_call:args|>{arguments}<|tool_call:end|>"
        ),
        ("<|tool_calls|>", "<|calls|>"),
    ),
    Case(
        "<|think|>If so<|end|><|begin|>assistant<|content|>Yes.<|end|>",
        reasoning="If so",
        text="Yes.",
    ),
]

_SECTION = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
DEEPSEEK = [
    *named_cases(
        lambda name, arguments: f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>", _SECTION
    ),
    *named_cases(
        lambda name, arguments: (
            f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"
        ),
        _SECTION,
    ),
]
KIMI = named_cases(
    lambda name, arguments: (
        f"<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"
    ),
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
)
MISTRAL = [
    *json_cases("[TOOL_CALLS]", ""),
    *named_cases(lambda name, arguments: f"[TOOL_CALLS]{name}[ARGS]{arguments}"),
    *named_cases(lambda name, arguments: f"[TOOL_CALLS]{name}[CALL_ID]abcdefgh1[ARGS]{arguments}"),
    *named_cases(lambda name, arguments: f"[TOOL_CALLS]{name}{arguments}"),
    Case("[THINK]If so[/THINK]Yes.", reasoning="If so", text="Yes."),
    Case("Yes. [THINK]If so[/THINK] No.", reasoning="If so", text="Yes.No."),
]
GRANITE = [
    *json_cases("<|tool_call|>", ""),
    Case("<think>If so</think>\n<response>Yes.</response>", reasoning="If so", text="Yes."),
]
FUNCTIONARY_3_2 = [
    *NOTHING,
    Case("all\nYes, all.", text="Yes, all."),
    Case("all of it", text="all of it"),
    Case(f"all\nLet me look.>>>get_weather\n{CITY[1]}", text="Let me look.", calls=(CITY,)),
    Case(f"get_weather\n{SLY[1]}>>>get\n{{}}", calls=(SLY, call("get"))),
    Case("get_weather\noops", text="get_weather\noops"),
    Case("all\n1 >>> 0 >>>other\n{}", text="1 >>> 0 >>>other\n{}"),
    Case('get_weather\n{"city": "Sa', calls=(("get_weather", '{"city": "Sa'),), is_cut=True),
    Case("all\nYes.>>", text="Yes.>>"),
]
APERTUS = [
    *NOTHING,
    Case(
        f'Let me look.\n<|tools_prefix|>[{{"get_weather": {CITY[1]}}}]<|tools_suffix|>',
        text="Let me look.",
        calls=(CITY,),
    ),
    Case(
        f'<|tools_prefix|>[{{"get": {{}}}}, {{"get_weather": {SLY[1]}}}]<|tools_suffix|> So.',
        text="So.",
        calls=(call("get"), SLY),
    ),
    Case('<|tools_prefix|>[{"other": {}}]<|tools_suffix|>', text='<|tools_prefix|>[{"other": {}}]<|tools_suffix|>'),
    Case('<|tools_prefix|>[{"get": 3}]', text='<|tools_prefix|>[{"get": 3}]'),
    Case("<|tools_prefix|>[oops", text="<|tools_prefix|>[oops"),
    Case('<|tools_prefix|>[{"get_weather": {"city": "Sa', calls=(("get_weather", '{"city": "Sa'),), is_cut=True),
    Case('<|tools_prefix|>[{"get": {}}, oops', text="oops", calls=(call("get"),)),
    Case("<|tools_prefi", text="<|tools_prefi"),
    Case("<|inner_prefix|>If so<|inner_suffix|>Yes.", reasoning="If so", text="Yes."),
]
PHI = json_cases("<|tool_call|>", "<|/tool_call|>")
NEMOTRON = json_cases("<TOOLCALL>", "</TOOLCALL>")
MINIMAX_1 = [
    *json_cases("<tool_calls>", "</tool_calls>"),
    Case(
        f'<tool_calls>\n{{"name": "get", "arguments": {{}}}}\n{{"name": "get_weather", "arguments": {CITY[1]}}}\n'
        "</tool_calls>",
        calls=(call("get"), CITY),
    ),
]
COMMAND_R = [
    *json_cases("<|START_ACTION|>", "<|END_ACTION|>", "tool_name", "parameters"),
    Case("<|START_THINKING|>If so<|END_THINKING|>Yes.", reasoning="If so", text="Yes."),
]
COMMAND_R_PLUS = json_cases("Action: ```json\n", "\n```", "tool_name", "parameters")
GIGACHAT = named_cases(lambda name, arguments: f'<|function_call|>{{"name": "{name}", "arguments": {arguments}}}')
FUNCTIONARY = named_cases(lambda name, arguments: f"<function={name}>{arguments}</function>")
LLAMA = [
    *NOTHING,
    *named_cases(lambda name, arguments: f'<|python_tag|>{{"name": "{name}", "parameters": {arguments}}}'),
    Case(f'{{"name": "get_weather", "parameters": {SLY[1]}}}', calls=(SLY,)),
    Case(f'\n\n{{"type": "function", "name": "get_weather", "parameters": {CITY[1]}}}', calls=(CITY,)),
    Case('{"name": "get", "parameters": {}}; {"name": "get", "parameters": {}}', calls=(call("get"),) * 2),
    Case('{"name": "other", "parameters": {}}', text='{"name": "other", "parameters": {}}'),
    Case('{"city": "Paris"}', text='{"city": "Paris"}'),
    Case('So: {"name": "get", "parameters": {}}', text='So: {"name": "get", "parameters": {}}'),
    Case('{"name": "get", "param', text='{"name": "get", "param'),
]
PYTHON = [
    Case("[get_weather(city='Sankt Pölten', days=2)]", calls=(CITY,)),
    Case('[get_weather(city="Paris"), get()]', calls=(PARIS, call("get"))),
    Case(
        "[get_weather(city='it\\'s\\n\\x41\\u00e9\\q', exact=True, note=None, days=-1, "
        "where={'a': [1.5, (2, 3), ], \"b\": {}}, tags=['x',])]",
        calls=(
            call(
                "get_weather",
                city="it's\nAé\\q",
                exact=True,
                note=None,
                days=-1,
                where={"a": [1.5, [2, 3]], "b": {}},
                tags=["x"],
            ),
        ),
    ),
    Case("[other(a=1)]", text="[other(a=1)]"),
    Case("[get_weather(city='Pa", calls=(("get_weather", '{"city": "Pa'),), is_cut=True),
    Case("[get_weather('Paris')]", text="'Paris')]", calls=(call("get_weather"),)),
    Case("[get_weather", text="[get_weather"),
    Case("[1, 2]", text="[1, 2]"),
]
LLAMA_PYTHON = [*NOTHING, *PYTHON, Case("<|python_start|>[get()]<|python_end|>", calls=(call("get"),))]
LFM = [
    *NOTHING,
    *[
        replace(case, written=f"Now\n<|tool_call_start|>{case.written}", text=f"Now{case.text}")
        for case in PYTHON
        if case.calls
    ],
    Case("<|tool_call_start|>[get()]<|tool_call_end|> So.", text="So.", calls=(call("get"),)),
    Case("<|tool_call_start|>[other()]", text="<|tool_call_start|>[other()]"),
]


def gemma_cases(begin: str, end: str, quote: str) -> list[Case]:
    def wrote(inside: str) -> str:
        return begin + inside.replace("~", quote) + end

    sly = 'a, b: {c} [d] "e" \\ \n🙂'
    return [
        *NOTHING,
        Case(
            f"Let me look.\n{wrote('call:get_weather{city:~Sankt Pölten~,days:2}')}", text="Let me look.", calls=(CITY,)
        ),
        Case(wrote("call:get_weather{city:~Paris~}") + wrote("call:get{}"), calls=(PARIS, call("get"))),
        Case(wrote(f"call:get_weather{{city:~{sly}~}}"), calls=(call("get_weather", city=sly),)),
        Case(
            wrote("call:get_weather{exact:true,note:null,tags:[~x~, ~y~],where:{a:[1,-2.5,{}],b:{c:~d~}}}"),
            calls=(
                call(
                    "get_weather", exact=True, note=None, tags=["x", "y"], where={"a": [1, -2.5, {}], "b": {"c": "d"}}
                ),
            ),
        ),
        Case(wrote("call:other{}"), text=wrote("call:other{}")),
        Case(wrote("get{}"), text=wrote("get{}")),
        Case(wrote("call:get_weather{city:~Pa")[: -len(end)], calls=(("get_weather", '{"city": "Pa'),), is_cut=True),
        Case(wrote("call:get_wea")[: -len(end)], text=wrote("call:get_wea")[: -len(end)]),
    ]


FUNCTION_GEMMA = gemma_cases("<start_function_call>", "<end_function_call>", "<escape>")
GEMMA_4 = [
    *gemma_cases("<|tool_call>", "<tool_call|>", '<|"|>'),
    Case("<|channel>thought\nIf so\n<channel|>Yes.", reasoning="If so", text="Yes."),
]

HARMONY = [
    Case("<|channel|>final<|message|>Yes.", text="Yes."),
    Case(
        "<|channel|>analysis<|message|>If so<|end|><|start|>assistant<|channel|>final<|message|>Yes.\n<|return|>",
        reasoning="If so",
        text="Yes.\n",
    ),
    Case(
        "<|channel|>analysis<|message|>If<|end|><|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        f"{CITY[1]}<|call|>",
        reasoning="If",
        text="Let me look.",
        calls=(CITY,),
    ),
    Case(f" to=functions.get_weather<|channel|>commentary json<|message|>{SLY[1]}<|call|>", calls=(SLY,)),
    Case(f"<|channel|>analysis to=functions.get_weather code<|message|>{CITY[1]}", calls=(CITY,)),
    Case(
        "<|channel|>analysis<|message|>One<|end|><|start|>assistant<|channel|>analysis<|message|>Two <tag> a<|end|>",
        reasoning="One\n\nTwo <tag> a",
    ),
    Case("<|channel|>analysis<|message|>Still thin", reasoning="Still thin"),
    Case(
        " of it<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        reasoning=" of it",
        text="Yes.",
        is_thinking=True,
    ),
    Case("Plain words.", text="Plain words."),
    Case("<|channel|>commentary to=functions.other<|message|>{}<|call|>", text="{}"),
    Case("<|channel|>commentary to=functions.get<|message|>oops", text="oops"),
    Case(
        '<|channel|>commentary to=functions.get_weather<|message|>{"city": "Pa',
        calls=(("get_weather", '{"city": "Pa'),),
        is_cut=True,
    ),
    Case("<|channel|>final<|message|>a<|channel|>b", text="a<|channel|>b"),
    Case("<|channel|>comment", text="<|channel|>comment"),
]

GENERIC = [*HERMES, *LLAMA[-5:], *json_cases("<tool_calls>", "</tool_calls>")]
