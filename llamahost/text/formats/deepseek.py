"""DeepSeek: V3 and R1 with a fence of Markdown, V3.1 without, V3.2 and V4 with tags.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
```json
{"city": "Paris"}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>
    <｜tool▁calls▁end｜>

<｜DSML｜function_calls>
<｜DSML｜invoke name="get_weather">
<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>
</｜DSML｜invoke>
</｜DSML｜function_calls>
"""

from collections.abc import Callable

from llamahost.text.formats.named_calls import NamedCalls
from llamahost.text.formats.tagged_calls import TaggedCalls

_SEP, _END = "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"


def _named(name: str, is_spoken: Callable[[str], bool], written: tuple[str, str, str]) -> NamedCalls:
    """Both are read alike: there are templates of the one for models of the other."""
    return NamedCalls(
        name=name,
        is_spoken=is_spoken,
        opens=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        call="<｜tool▁call▁begin｜>",
        before=("function" + _SEP,),
        after=(_SEP, "```json", "```"),
        fence=("```json", "```"),
        close=(_END,),
        end="<｜tool▁calls▁end｜>",
        written=written,
        tokens=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", _SEP, _END, "<｜tool▁calls▁end｜>"),
    )


DEEPSEEK_R1 = _named(
    "deepseek-r1",
    lambda template: "<｜tool▁calls▁begin｜>" in template and "```json" in template,
    ("function" + _SEP, "\n```json\n", "\n```" + _END),
)
DEEPSEEK_3_1 = _named("deepseek-v3.1", lambda template: "<｜tool▁calls▁begin｜>" in template, ("", _SEP, _END))


def _tagged(section: str) -> TaggedCalls:
    return TaggedCalls(
        name=f"deepseek-{section}",
        is_spoken=lambda template: "DSML" in template and section in template,
        opens=(f"<｜DSML｜{section}>",),
        call='<｜DSML｜invoke name="',
        named='">',
        key='<｜DSML｜parameter name="',
        keyed='">',
        string=('" string="true">', '" string="false">'),
        valued="</｜DSML｜parameter>",
        close="</｜DSML｜invoke>",
        end=f"</｜DSML｜{section}>",
        tokens=("｜DSML｜",),
    )


DEEPSEEK_3_2 = _tagged("function_calls")
DEEPSEEK_4 = _tagged("tool_calls")
