"""GLM 4.5 and later, and who took its form: Ling 3, Spark, Laguna, Hunyuan 3 under its own tags.

<tool_call>get_weather
<arg_key>city</arg_key>
<arg_value>Paris</arg_value>
</tool_call>
"""

from llamahost.text.formats.tagged_calls import TaggedCalls

GLM = TaggedCalls(
    name="glm",
    is_spoken=lambda template: "<arg_key>" in template,
    opens=("<tool_call>",),
    key="<arg_key>",
    keyed="</arg_key>",
    value="<arg_value>",
    valued="</arg_value>",
    close="</tool_call>",
    tokens=("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)

_TAG = ":opensource>"

HUNYUAN = TaggedCalls(
    name="hunyuan",
    is_spoken=lambda template: "tool_sep" in template and "arg_key" in template,
    opens=("<tool_calls" + _TAG, "<tool_call" + _TAG),
    call="<tool_call" + _TAG,
    named="<tool_sep" + _TAG,
    key="<arg_key" + _TAG,
    keyed="</arg_key" + _TAG,
    value="<arg_value" + _TAG,
    valued="</arg_value" + _TAG,
    close="</tool_call" + _TAG,
    end="</tool_calls" + _TAG,
    tokens=tuple(
        f"<{slash}{tag}{_TAG}"
        for tag in ("tool_calls", "tool_call", "tool_sep", "arg_key", "arg_value")
        for slash in ("", "/")
    ),
)
