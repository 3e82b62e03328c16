"""Laws of what is found out about a template, each on the smallest template that has or lacks one thing."""

import pytest

from llamahost.text.template import CHATML, Template
from llamahost.text.template_facts import Facts, Switch

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
GENERATION = "{% if add_generation_prompt %}<assistant>{% endif %}"
CALLS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}{% endfor %}"
)


def facts(source: str) -> Facts:
    return Template(source, bos="<s>", eos="</s>").facts


def test_a_plain_template_tells_turns_and_nothing_of_tools() -> None:
    assert facts(CHATML) == Facts(results=True, bare_calls="empty")  # a result is a turn like any other
    assert not facts(CHATML).native_tools


@pytest.mark.parametrize(
    "source",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + TURNS,
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
        "{% set turns = messages[1:] if messages[0].role == 'system' else messages %}"
        "{% for m in turns %}{{ m.content }}{% endfor %}",
    ],
    ids=["refused", "left out", "cut off"],
)
def test_a_system_message_that_does_not_come_out_is_not_known(source: str) -> None:
    assert not facts(source).system
    assert not facts(source).later_system
    assert facts(TURNS).system
    assert facts(TURNS).later_system


def test_a_system_message_may_be_known_at_the_beginning_alone() -> None:
    first = "{% for m in messages %}{% if m.role != 'system' or loop.first %}{{ m.content }}{% endif %}{% endfor %}"
    assert (facts(first).system, facts(first).later_system) == (True, False)


def test_a_role_that_the_source_does_not_name_is_not_known_though_it_comes_out() -> None:
    assert not facts(TURNS).developer
    assert facts(TURNS.replace("m.role", "'system' if m.role == 'developer' else m.role")).developer


def test_demands_that_roles_alternate_are_seen() -> None:
    demand = (
        "{% for m in messages if m.role != 'system' %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}{% endfor %}"
    )
    assert not facts(demand + TURNS).repeated_roles
    assert facts(TURNS).repeated_roles


def test_the_form_of_content_is_seen() -> None:
    typed = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    either = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"
    )
    forms = [(facts(source).text_content, facts(source).typed_content) for source in (TURNS, typed, either)]
    assert forms == [(True, False), (False, True), (True, True)]
    assert facts("{{ messages | tojson }}").text_content


def test_tools_are_described_if_their_names_come_out() -> None:
    assert facts("{{ tools | tojson }}" + TURNS).tools
    assert not facts("{% if tools %}You have tools.{% endif %}" + TURNS).tools
    assert not facts(TURNS).tools


def test_a_template_that_cannot_do_without_a_list_of_tools_gets_an_empty_one() -> None:
    source = "{% for t in tools %}{{ t.function.name }}{% endfor %}" + TURNS
    assert facts(source).no_tools_is_empty
    assert facts(source).tools
    assert not facts(TURNS).no_tools_is_empty


def test_arguments_are_an_object_unless_that_comes_out_as_python_writes_it() -> None:
    assert (facts(CALLS).calls, facts(CALLS).text_arguments) == (True, False)
    text = CALLS.replace(" | tojson", "")
    assert (facts(text).calls, facts(text).text_arguments) == (True, True)
    joined = CALLS.replace("{{ c.function.arguments | tojson }}", "{{ 'a' + c.function.arguments }}")
    assert (facts(joined).calls, facts(joined).text_arguments) == (True, True)
    assert not facts(TURNS).calls


@pytest.mark.parametrize(
    ("content", "bare"),
    [
        ("{{ m.content }}", "missing"),
        (
            "{% if m.content is none or m.content %}{{ m.content or '' }}{% else %}{{ 1 + m.content }}{% endif %}",
            "null",
        ),
        ("{{ '' + m.content }}", "empty"),
    ],
)
def test_what_a_call_without_content_has_for_it(content: str, bare: str) -> None:
    found = facts(CALLS.replace("{{ m.content }}", content))
    assert (found.calls, found.bare_calls) == (True, bare)


def test_several_calls_in_a_turn_are_known_if_all_come_out() -> None:
    assert facts(CALLS).parallel_calls
    assert not facts(CALLS.replace("in m.tool_calls", "in (m.tool_calls or [])[:1]")).parallel_calls
    refuses = (
        "{% for m in messages if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endfor %}"
    )
    assert not facts(refuses + CALLS).parallel_calls


def test_demands_on_the_ids_of_calls_are_seen() -> None:
    demand = CALLS.replace(
        "[{{ c.function", "{% if c.id | length != 9 %}{{ raise_exception('nine!') }}{% endif %}[{{ c.function"
    )
    assert (facts(demand).calls, facts(demand).any_call_id) == (True, False)
    assert facts(CALLS).any_call_id


def test_results_are_known_if_they_come_out() -> None:
    assert facts(CALLS).results
    assert not facts(CALLS.replace("in messages %}", "in messages if m.role != 'tool' %}", 1)).results


def test_native_tools_are_described_called_and_answered() -> None:
    assert facts("{{ tools | tojson }}" + CALLS).native_tools
    assert not facts(CALLS).native_tools


def test_calls_that_are_told_without_tools_being_described_have_an_example() -> None:
    assert facts(CALLS).call_example == '[name_of_function {"name_of_argument": "value"}]'
    assert facts("{{ tools | tojson }}" + CALLS).call_example == ""


@pytest.mark.parametrize(
    ("condition", "switch"),
    [
        ("enable_thinking is defined and not enable_thinking", Switch("enable_thinking", True, False)),
        ("not thinking", Switch("thinking", True, False)),
        ("thinking_mode == 'disabled'", Switch("thinking_mode", "enabled", "disabled")),
        ("skip_thinking", Switch("skip_thinking", False, True)),
        ("thinking_budget == 0", Switch("thinking_budget", -1, 0)),
        ("reasoning_effort == 'none'", Switch("reasoning_effort", "high", "none")),
        ("false", None),
    ],
)
def test_the_switch_for_thinking_is_the_option_that_changes_the_text(condition: str, switch: Switch | None) -> None:
    assert facts(f"{TURNS}<assistant>{{% if {condition} %}}<think></think>{{% endif %}}").thinking_switch == switch


def test_an_effort_that_is_only_repeated_is_no_switch() -> None:
    found = facts("Reasoning: {{ reasoning_effort | default('medium') }}" + TURNS)
    assert found.thinking_switch is None
    assert found.effort == "reasoning_effort"
    assert {"low", "medium", "high"} <= set(found.efforts)


def test_efforts_are_those_that_the_template_takes() -> None:
    source = (
        "{% set e = reasoning_effort | default('low') %}"
        "{% if e not in ['low', 'high'] %}{{ raise_exception('no such effort') }}{% endif %}{{ e }}" + TURNS
    )
    assert facts(source).efforts == ("low", "high")
    assert facts(TURNS).effort == ""


THOUGHT = "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"


def test_which_earlier_thoughts_are_told_is_seen() -> None:
    always = CALLS.replace("{{ m.content }}", THOUGHT + "{{ m.content }}")
    in_calls = CALLS.replace("{{ m.content }}", "{% if m.tool_calls %}" + THOUGHT + "{% endif %}{{ m.content }}")
    assert [facts(source).keeps_reasoning for source in (always, in_calls, CALLS)] == ["always", "in_calls", "never"]


def test_a_template_that_refuses_everything_is_taken_as_it_is() -> None:
    assert facts("{{ raise_exception('never') }}") == Facts()
    assert facts("{{ messages | length }}") == Facts()


def test_what_was_found_is_told_by_llama_servers_names() -> None:
    caps = facts("{{ tools | tojson }}" + CALLS).caps()
    assert caps["supports_tools"]
    assert caps["supports_tool_calls"]
    assert not caps["supports_preserve_reasoning"]
    assert all(isinstance(value, bool) for value in caps.values())
