"""Laws of what is said with a template that cannot say it by itself."""

import re

import pytest

from llamahost.core.errors import TemplateFailed
from llamahost.core.messages import Message, Text, Tool, ToolCall
from llamahost.text.template import Template
from llamahost.text.template_tools import call_text, described, result_text
from tests.text.conversations import ASKED, BYE, CALL, HELLO, HI, LATE, OTHER, RESULT, SYSTEM, WEATHER, said

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
NO_SYSTEM = "{% for m in messages if m.role == 'system' %}{{ raise_exception('no system') }}{% endfor %}"
FIRST_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}"
    "{% endfor %}"
)
KNOWN_ROLES = "{% for m in messages if m.role not in ['user', 'assistant'] %}{{ raise_exception('role') }}{% endfor %}"
ALTERNATE = (
    "{% for m in messages if m.role in ['user', 'assistant'] %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}{% endfor %}"
)
CALLS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}"
    "{% for c in m.tool_calls %}[{{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}"
    "{% endfor %}"
)
TOOLS = "{{ tools | tojson if tools else '' }}"


def drawn(source: str, *messages: Message, tools: tuple[Tool, ...] = (), **how: object) -> str:
    return Template(source).render(messages, tools=tools, **how)  # type: ignore[arg-type]  # names


def test_a_system_message_is_folded_into_the_first_user_turn() -> None:
    assert drawn(NO_SYSTEM + TURNS, SYSTEM, HI, HELLO, BYE) == (
        "<user>Be brief & <kind>.\n\nHi, wie geht's?<assistant>Hello!<user>Bye"
    )


def test_a_system_message_without_a_user_behind_it_is_the_users() -> None:
    assert drawn(NO_SYSTEM + TURNS, SYSTEM) == "<user>Be brief & <kind>."
    assert drawn(NO_SYSTEM + TURNS, SYSTEM, HELLO, BYE) == "<user>Be brief & <kind>.<assistant>Hello!<user>Bye"


def test_later_system_messages_are_one_with_the_first_or_the_users() -> None:
    assert drawn(FIRST_SYSTEM + TURNS, SYSTEM, said("system", "B"), HI, HELLO, said("system", "C"), BYE) == (
        "<system>Be brief & <kind>.\n\nB<user>Hi, wie geht's?<assistant>Hello!<user>C<user>Bye"
    )


def test_neighbours_of_one_role_are_one_turn_where_roles_must_alternate() -> None:
    assert drawn(ALTERNATE + TURNS, SYSTEM, HI, BYE, HELLO, said("assistant", "B"), said("user", "C")) == (
        "<system>Be brief & <kind>.<user>Hi, wie geht's?\n\nBye<assistant>Hello!\n\nB<user>C"
    )


def test_a_system_message_folded_among_alternating_roles_leaves_them_alternating() -> None:
    assert drawn(NO_SYSTEM + ALTERNATE + TURNS, SYSTEM, HI, HELLO, said("system", "B"), BYE) == (
        "<user>Be brief & <kind>.\n\nHi, wie geht's?<assistant>Hello!<user>B\n\nBye"
    )


def test_what_cannot_be_mended_is_told_in_the_templates_words() -> None:
    with pytest.raises(TemplateFailed, match="alternate"):
        drawn(ALTERNATE + TURNS, HELLO, HI)


def test_nothing_is_rewritten_where_the_template_can_say_it() -> None:
    turns = (SYSTEM, said("system", "B"), HI, BYE, HELLO, said("system", "C"))
    assert drawn(TURNS, *turns) == "".join(f"<{turn.role}>{turn.text}" for turn in turns)


def test_content_comes_as_parts_where_the_template_wants_them() -> None:
    parts = "{% for p in m.content %}{{ p.type }}:{{ p.text }};{% endfor %}"
    typed = TURNS.replace("{{ m.content }}", parts)
    two = Message(role="user", parts=(Text("a"), Text("b")))
    assert drawn(typed, SYSTEM, two) == "<system>text:Be brief & <kind>.;<user>text:a;text:b;"
    assert drawn(TURNS, two) == "<user>ab"
    assert drawn(typed, HI, said("assistant", "I am"), continued="text").endswith("text:I am;text:")


def test_tools_are_told_in_words_where_the_template_knows_none() -> None:
    told = described((WEATHER,))
    assert drawn(TURNS, HI, tools=(WEATHER,)) == f"<system>{told}<user>Hi, wie geht's?"
    assert drawn(TURNS, SYSTEM, HI, tools=(WEATHER,)) == f"<system>Be brief & <kind>.\n\n{told}<user>Hi, wie geht's?"
    assert drawn(NO_SYSTEM + TURNS, HI, tools=(WEATHER,)) == f"<user>{told}\n\nHi, wie geht's?"
    assert '"get_weather"' in told
    assert "<tool_call>" in told


def test_calls_and_results_are_told_in_words_where_the_template_knows_none() -> None:
    calling = said("assistant", "Let me look.", CALL, OTHER)
    call, other = call_text(CALL.name, CALL.arguments), call_text(OTHER.name, OTHER.arguments)
    result, late = result_text("get_weather", RESULT.text), result_text("get_time", LATE.text)
    assert drawn(KNOWN_ROLES + TURNS, ASKED, calling, RESULT, LATE, said("assistant", "Rain.")) == (
        f"<user>What is the weather in Köln?<assistant>Let me look.\n\n{call}\n{other}"
        f"<user>{result}\n{late}<assistant>Rain."
    )


def test_the_generic_form_is_hermes() -> None:
    assert call_text("f", '{"a": "ä"}') == '<tool_call>\n{"name": "f", "arguments": {"a": "ä"}}\n</tool_call>'
    assert call_text("f", "") == '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert result_text("f", "x") == '<tool_response>\n{"name": "f", "content": "x"}\n</tool_response>'
    assert re.search(r'<tool_call>\n\{"name": .*"arguments": \{.*\}\}\n</tool_call>', described((WEATHER,)))


def test_the_generic_form_can_be_asked_for() -> None:
    native = TOOLS + CALLS
    assert drawn(native, HI, tools=(WEATHER,)).startswith("[{")
    generic = drawn(native, ASKED, said("assistant", "", CALL), RESULT, tools=(WEATHER,), is_generic=True)
    assert generic.startswith("<system>You may call functions")
    assert call_text(CALL.name, CALL.arguments) in generic
    assert "<tool>" not in generic


def test_in_its_own_form_a_template_that_describes_no_tools_is_helped_out_with_its_own_example() -> None:
    own = drawn(CALLS, ASKED, said("assistant", "", CALL), RESULT, tools=(WEATHER,), is_generic=False)
    assert 'arguments, and nothing after it:\n[zqcall001 name_of_function {"name_of_argument": "value"}]' in own
    assert '[call00001 get_weather {"city": "Köln", "days": 2}]<tool>rain' in own


def test_in_its_own_form_calls_that_a_template_leaves_out_are_written_for_it() -> None:
    own = drawn(
        TOOLS + TURNS,
        ASKED,
        said("assistant", "", CALL, OTHER),
        RESULT,
        tools=(WEATHER,),
        is_generic=False,
        write_calls=lambda calls: "|".join(call.name for call in calls),
    )
    assert own.endswith("<assistant>get_weather|get_time<tool>rain, 7 °C")
    assert own.startswith('[{"type"')


def test_calls_made_at_once_are_told_one_by_one_where_a_turn_holds_only_one() -> None:
    one = (
        "{% for m in messages if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endfor %}"
    )
    calling = said("assistant", "Now.", CALL, OTHER)
    expected = (
        "<user>What is the weather in Köln?"
        '<assistant>Now.[call00001 get_weather {"city": "Köln", "days": 2}]<tool>rain, 7 °C(call00001)'
        "<assistant>[call00002 get_time {}]<tool>12:30(call00002)<assistant>Rain."
    )
    for results in ((RESULT, LATE), (LATE, RESULT)):
        assert drawn(one + TOOLS + CALLS, ASKED, calling, *results, said("assistant", "Rain.")) == expected


def test_ids_are_shortened_alike_where_the_template_wants_nine_characters() -> None:
    nine = CALLS.replace("[{{ c.id", "{% if c.id | length != 9 %}{{ raise_exception('9') }}{% endif %}[{{ c.id")
    long = ToolCall("call_0123456789abcdef", "get_weather", "{}")
    text = drawn(TOOLS + nine, ASKED, said("assistant", "", long), said("tool", "x", tool_call_id=long.id))
    found = re.search(r"\[(\w{9}) get_weather {}\]<tool>x\((\w{9})\)", text)
    assert found is not None
    assert found[1] == found[2]
    assert "call00001" in drawn(TOOLS + nine, ASKED, said("assistant", "", CALL), RESULT)


def test_results_say_which_function_gave_them() -> None:
    named = TOOLS + CALLS.replace("{{ m.content }}", "{{ m.name }}:{{ m.content }}")
    nameless = said("tool", "rain", tool_call_id=CALL.id)
    assert drawn(named, ASKED, said("assistant", "", CALL), nameless).endswith("<tool>get_weather:rain(call00001)")


def test_a_role_of_the_developer_is_the_systems_unless_it_is_known() -> None:
    assert drawn(TURNS, said("developer", "x"), HI).startswith("<system>x")
    assert drawn(TURNS + "{# developer #}", said("developer", "x"), HI).startswith("<developer>x")


def test_thinking_goes_by_the_templates_own_switch_and_effort_by_its_own_name() -> None:
    source = TURNS + "{{ '/no' if thinking_mode == 'disabled' }}{{ '!' if thinking_effort == 'high' }}"
    assert drawn(source, HI, thinking=False).endswith("/no")
    assert not drawn(source, HI, thinking=True).endswith("/no")
    assert drawn(source, HI, options={"reasoning_effort": "high"}).endswith("!")
    assert not drawn(source, HI, thinking=False, options={"thinking_mode": "enabled"}).endswith("/no")
