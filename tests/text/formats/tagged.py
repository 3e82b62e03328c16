"""The corpus of families that write each argument in tags of its own."""

from __future__ import annotations

from collections.abc import Callable

from tests.text.formats.reading import CITY, NOTHING, PARIS, SLY, Case, call


def tagged_cases(wrote: Callable[..., str], section: tuple[str, str] = ("", "")) -> list[Case]:
    """Of families that write each argument in tags."""
    begin, end = section
    sly = 'a "quoted" \\ <b>\n\n{"name": "get"} 🙂 </x>'
    whole = wrote("get_weather", city="Sankt Pölten", days="2")
    return [
        *NOTHING,
        Case(f"Let me look.\n\n{begin}{whole}{end}", text="Let me look.", calls=(CITY,)),
        Case(f"{begin}{whole}\n{wrote('get')}{end}\n", calls=(CITY, call("get"))),
        Case(f"{begin}{wrote('get_weather', city=sly)}{end}", calls=(call("get_weather", city=sly),)),
        Case(
            begin + wrote("get_weather", city="007", days="7", exact="True", note="null", tags="[]", where=WHERE) + end,
            calls=(call("get_weather", city="007", days=7, exact=True, note=None, tags=[], where={"a": [1, {}]}),),
        ),
        Case(
            f"{begin}{wrote('get_weather', days='many', note='12', unknown='[1, 2', further='3')}{end}",
            calls=(call("get_weather", days="many", note="12", unknown="[1, 2", further=3),),
        ),
        Case(f"{begin}{wrote('get_weather', city='')}{end} So.", text="So.", calls=(call("get_weather", city=""),)),
        Case(f"{begin}{wrote('other', city='Paris')}", text=f"{begin}{wrote('other', city='Paris')}"),
        Case(f"{begin}{whole[: whole.index('P')]}", calls=(("get_weather", '{"city": "Sankt '),), is_cut=True),
        Case(f"{begin}{whole[:5]}", text=f"{begin}{whole[:5]}"),
    ]


WHERE = '{"a": [1, {}]}'


def _qwen(name: str, /, **arguments: str) -> str:
    tags = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{tags}</function>\n</tool_call>"


QWEN_CODER = [
    *tagged_cases(_qwen),
    Case("<function=get_weather>\n<parameter=city>Paris</parameter>\n</function>", calls=(PARIS,)),
    Case("<tool_call><function=get></function>", calls=(call("get"),)),
    Case("<tool_call><function=get>oops", text="oops", calls=(call("get"),)),
    Case("<tool_call>get", text="<tool_call>get"),
]


def _seed(name: str, /, **arguments: str) -> str:
    tags = "".join(f"<parameter={key}>{value}</parameter>\n" for key, value in arguments.items())
    return f"<seed:tool_call>\n<function={name}>\n{tags}</function>\n</seed:tool_call>"


SEED = [*tagged_cases(_seed), Case("<seed:think>If so</seed:think>Yes.", reasoning="If so", text="Yes.")]


def _glm(name: str, /, **arguments: str) -> str:
    tags = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in arguments.items())
    return f"<tool_call>{name}\n{tags}</tool_call>"


def _glm_dense(name: str, /, **arguments: str) -> str:
    return _glm(name, **arguments).replace("\n<", "<").replace(">\n<", "><")


GLM = [
    *tagged_cases(_glm),
    Case(_glm_dense("get_weather", city="Paris"), calls=(PARIS,)),
    Case("<tool_call>get the weather</tool_call>", text="<tool_call>get the weather</tool_call>"),
    Case("<tool_call>get</tool_call>", calls=(call("get"),)),
    Case(_glm("get_weather", city="Paris")[:-12] + "<arg_key>days</arg_key>2 or so", text="2 or so", calls=(PARIS,)),
    Case("<tool_call>get\n<arg_key>days</arg_key>2", text="2", calls=(call("get"),)),
]


def _hunyuan(name: str, /, **arguments: str) -> str:
    tags = "".join(
        f"<arg_key:opensource>{key}</arg_key:opensource>\n<arg_value:opensource>{value}</arg_value:opensource>\n"
        for key, value in arguments.items()
    )
    return f"<tool_call:opensource>{name}<tool_sep:opensource>\n{tags}</tool_call:opensource>"


HUNYUAN = tagged_cases(_hunyuan, ("<tool_calls:opensource>\n", "\n</tool_calls:opensource>"))


def _minimax(name: str, /, **arguments: str) -> str:
    tags = "".join(f'<parameter name="{key}">{value}</parameter>\n' for key, value in arguments.items())
    return f'<invoke name="{name}">\n{tags}</invoke>'


MINIMAX_2 = tagged_cases(_minimax, ("<minimax:tool_call>\n", "\n</minimax:tool_call>"))


def _minimax_3(name: str, /, **arguments: str) -> str:
    mark = "]<]minimax[>["
    tags = "".join(f"{mark}<{key}>{value}{mark}</{key}>" for key, value in arguments.items())
    return f'{mark}<invoke name="{name}">{tags}{mark}</invoke>'


MINIMAX_3 = [
    *tagged_cases(_minimax_3, ("]<]minimax[>[<tool_call>\n", "\n]<]minimax[>[</tool_call>")),
    *[
        Case(
            f"]<]minimax[>[<tool_call>{_minimax_3('get_weather', tags=tags, where=where)}]<]minimax[>[</tool_call>",
            calls=(call("get_weather", tags=["x", "3"], where={"a": {"b": 1.5, "c": "d e"}, "l": [1, []]}),),
        )
        for tags, where in [
            (
                "]<]minimax[>[<item>x]<]minimax[>[</item>]<]minimax[>[<item>3]<]minimax[>[</item>",
                "]<]minimax[>[<a>]<]minimax[>[<b>1.5]<]minimax[>[</b>]<]minimax[>[<c>d e]<]minimax[>[</c>"
                "]<]minimax[>[</a>\n]<]minimax[>[<l>]<]minimax[>[<item>1]<]minimax[>[</item>"
                "]<]minimax[>[<item>[]]<]minimax[>[</item>]<]minimax[>[</l>",
            ),
            ('["x", "3"]', '{"a": {"b": 1.5, "c": "d e"}, "l": [1, []]}'),
        ]
    ],
    Case("<mm:think>If so</mm:think>Yes.", reasoning="If so", text="Yes."),
    Case("</mm:think>Yes.", text="Yes."),
]


def _kimi_3(name: str, /, **arguments: str) -> str:
    kinds = {"days": "number", "exact": "boolean", "tags": "array", "where": "object", "further": "number"}
    tags = "".join(
        f'<|open|>argument key="{key}" type="{"null" if value == "null" else kinds.get(key, "string")}"<|sep|>{value}'
        "<|close|>argument<|sep|>"
        for key, value in arguments.items()
    )
    return f'<|open|>call tool="{name}" index="1"<|sep|>{tags}<|close|>call<|sep|>'


KIMI_3 = [
    *tagged_cases(_kimi_3, ("<|open|>tools<|sep|>", "<|close|>tools<|sep|>")),
    Case(
        '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|><|open|>json type="object"<|sep|>'
        f"{SLY[1]}<|close|>json<|sep|><|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>",
        calls=(SLY,),
    ),
    Case(
        "If so<|close|>think<|sep|><|open|>response<|sep|>Use the response tag.<|close|>response<|sep|>"
        "<|close|>message<|sep|>",
        reasoning="If so",
        text="Use the response tag.",
        is_thinking=True,
    ),
    Case("<|open|>response<|sep|>Yes.<|close|>response<|sep|>", text="Yes."),
]


def _muse(name: str, /, **arguments: str) -> str:
    tags = "".join(f'<atem:parameter name="{key}">{value}</atem:parameter>\n' for key, value in arguments.items())
    return f'<atem:invoke name="{name}">\n{tags}</atem:invoke>'


_ATEM = ("<atem:function_calls>\n", "\n</atem:function_calls>")
MUSE = [
    Case("Plain words.", text="Plain words."),
    Case(" to=user<|message|>Yes.<|eot|>", text="Yes."),
    Case(
        " to=self<|message|>If<|eom|><|start|>assistant to=self<|message|>so<|eom|>"
        "<|start|>assistant to=user<|message|>Yes.<|eot|>",
        reasoning="If\n\nso",
        text="Yes.",
    ),
    Case(" so<|eom|><|start|>assistant to=user<|message|>Yes.", reasoning=" so", text="Yes.", is_thinking=True),
    Case(
        " to=user<|message|>Let me look.<|eom|><|start|>assistant to=get_weather<|message|>"
        f"{_ATEM[0]}{_muse('get_weather', city='Sankt Pölten', days='2')}{_ATEM[1]}<|eom|>"
        f"<|start|>assistant to=get<|message|>{_ATEM[0]}{_muse('get')}{_ATEM[1]}<|eot|>",
        text="Let me look.",
        calls=(CITY, call("get")),
    ),
    Case(
        f" to=user<|message|>So: {_ATEM[0]}{_muse('get')}{_ATEM[1]}<|eot|>",
        text=f"So: {_ATEM[0]}{_muse('get')}{_ATEM[1]}",
    ),
    Case(f" to=self<|message|>{_muse('get')}<|eom|>", reasoning=_muse("get")),
    Case(f" to=other<|message|>{_muse('other')}<|eot|>", text=_muse("other")),
    Case(" to=get<|message|>oops<|eot|>", text="oops"),
    Case(f" to=get<|message|>{_ATEM[0]}oops", text=f"{_ATEM[0]}oops"),
    Case(
        f" to=get_weather<|message|>{_ATEM[0]}" + _muse("get_weather", city="Pa").partition("</atem:parameter>")[0],
        calls=(("get_weather", '{"city": "Pa'),),
        is_cut=True,
    ),
    Case("a<|start|>b", text="a<|start|>b"),
    Case(" to=use", text=" to=use"),
]


def _minicpm(name: str, /, **arguments: str) -> str:
    tags = "".join(f'<param name="{key}">{value}</param>' for key, value in arguments.items())
    return f'<function name="{name}">{tags}</function>'


MINICPM = tagged_cases(_minicpm)


def _dsml(name: str, /, **arguments: str) -> str:
    strings = ("city", "note")
    tags = "".join(
        f'<｜DSML｜parameter name="{key}" string="{"true" if key in strings and value != "null" else "false"}">{value}'
        "</｜DSML｜parameter>\n"
        for key, value in arguments.items()
    )
    return f'<｜DSML｜invoke name="{name}">\n{tags}</｜DSML｜invoke>'


DEEPSEEK_3_2 = tagged_cases(_dsml, ("<｜DSML｜function_calls>\n", "\n</｜DSML｜function_calls>"))
DEEPSEEK_4 = tagged_cases(_dsml, ("<｜DSML｜tool_calls>\n", "\n</｜DSML｜tool_calls>"))
