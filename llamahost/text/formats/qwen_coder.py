"""Qwen3-Coder, and who took its form: Qwen3.5, Nemotron 3, StepFun, Seed-OSS under its own tag.

<tool_call>
<function=get_weather>
<parameter=city>
Paris
</parameter>
</function>
</tool_call>
"""

from dataclasses import replace

from llamahost.text.formats.tagged_calls import TaggedCalls

QWEN_CODER = TaggedCalls(
    name="qwen-coder",
    is_spoken=lambda template: "<function=" in template and "<parameter=" in template and "<tool_call>" in template,
    opens=("<tool_call>", "<function="),
    call="<function=",
    named=">",
    key="<parameter=",
    keyed=">",
    valued="</parameter>",
    close="</function>",
    end="</tool_call>",
    trims=True,
    tokens=("<tool_call>", "</tool_call>"),
)

SEED = replace(
    QWEN_CODER,
    name="seed",
    is_spoken=lambda template: "<seed:tool_call>" in template,
    opens=("<seed:tool_call>",),
    end="</seed:tool_call>",
    tokens=("<seed:tool_call>", "</seed:tool_call>"),
)
