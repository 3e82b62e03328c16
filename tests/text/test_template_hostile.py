"""Laws of templates that mean harm, or run wild: an error of the request, and nothing of Python's own in reach."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamahost.core.errors import TemplateFailed
from llamahost.core.messages import Message, Text, Tool
from llamahost.text.template import MAX_DEPTH, Template, plain
from llamahost.text.template_meter import MAX_CHARS, Meter
from llamahost.text.template_tools import schema

HI = (Message(role="user", parts=(Text("Hi"),)),)
FEW = 2 * 10**4
"""Steps, so that what is bounded ends soon here, and may still handle a text of a million characters once."""

FEWER = FEW // 4

TWICE = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = GROW %}{% endfor %}"


def grown(start: str, grow: str, use: str) -> str:
    return TWICE.replace("START", start).replace("GROW", grow) + use


def fails(source: str, n_steps: int = FEW) -> str:
    with pytest.raises(TemplateFailed) as failed:
        Template(source, n_steps=n_steps).render(HI)
    return str(failed.value)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{% if i %}{% endif %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for i in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
        "{% block a scoped %}{{ self.a() }}{{ self.a() }}{% endblock %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in 'x' * 100000 %}{% for b in 'x' * 100000 %}{% endfor %}{% endfor %}",
        grown("'x' * 1000", "ns.x", "{% for i in range(90000) %}{% set y = ns.x.upper() %}{% endfor %}" * 9),
        "{% set b = 'x' * 1000000 %}{% for i in range(90000) %}{% set y = b[1:] %}{% endfor %}",
        "{% set b = 'x' * 1000000 %}{% for i in range(90000) %}{% if 'y' in b %}{% endif %}{% endfor %}",
        "{% set b = 'x' * 1000000 %}{% for i in range(90000) %}{% set y = b | trim %}{% endfor %}",
        "{% set b = 'x' * 1000000 %}{% for i in range(90000) %}{% set y = b.find('y') %}{% endfor %}",
        "{% set b = [1] * 1000000 %}{% for i in range(90000) %}{% set y = b[1:] %}{% endfor %}",
    ],
)
def test_work_is_bounded(source: str) -> None:
    assert fails(source, FEW if "1000000" in source else FEWER)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 100000000 }}",
        "{{ 100000000 * [1] }}",
        grown("'x'", "ns.x + ns.x", "{{ ns.x }}"),
        grown("'x'", "ns.x ~ ns.x", "{{ ns.x }}"),
        grown("'x'", "'%s%s' % (ns.x, ns.x)", "{{ ns.x }}"),
        grown("'x'", "'{}{}'.format(ns.x, ns.x)", "{{ ns.x }}"),
        grown("'x'", "[ns.x, ns.x] | join", "{{ ns.x }}"),
        grown("'x'", "''.join([ns.x, ns.x])", "{{ ns.x }}"),
        grown("'xx'", "ns.x | replace('x', 'xx')", "{{ ns.x }}"),
        grown("'xx'", "ns.x.replace('x', 'xx')", "{{ ns.x }}"),
        grown("[1]", "ns.x + ns.x", "{{ ns.x | length }}"),
        grown("(1,)", "ns.x + ns.x", "{{ ns.x | length }}"),
        "{% set l = [1] %}{% for i in range(60) %}{% set _ = l.extend(l) %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"
        "{% set ns.x = y %}{% endfor %}{{ ns.x }}",
        "{% for i in range(90000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% macro f(n) %}{% for i in range(9000) %}{{ n }}{% endfor %}{% endmacro %}{{ f('x' * 9000) | length }}",
        "{% autoescape true %}" + grown("'<'", "ns.x ~ ns.x", "{{ ns.x }}") + "{% endautoescape %}",
    ],
)
def test_text_and_lists_are_bounded_while_they_grow(source: str) -> None:
    assert fails(source)


LATTICE = grown("[1]", "[ns.x, ns.x]", "")


@pytest.mark.parametrize(
    "use",
    [
        "{{ ns.x }}",
        "{{ ns }}",
        "{{ ns.x | tojson }}",
        "{{ ns.x | string }}",
        "{{ ns.x | pprint }}",
        "{{ ns.x ~ '' }}",
        "{{ '%s' % ns.x }}",
        "{{ '%s' | format(ns.x) }}",
        "{{ '{}'.format(ns.x) }}",
        "{{ {'a': ns.x}.values() }}",
        "{{ [ns.x] | join }}",
        "{{ [ns.x] | map('string') | list }}",
        "{{ 1 if ns.x in [ns.x] else 2 }}",
        "{{ [ns.x].index(ns.x) }}",
        "{{ ns.x is eq ns.x }}",
        "{{ [ns.x, ns.x] | unique | list }}",
        "{{ [ns.x, ns.x] | sort }}",
        grown("[1]", "[ns.x, ns.x]", "{% set a = ns.x %}" + LATTICE + "{{ 1 if a == ns.x else 2 }}"),
        grown("(1,)", "(ns.x, ns.x)", "{{ {ns.x: 1} }}"),
        grown("(1,)", "(ns.x, ns.x)", "{{ {}.get(ns.x) }}"),
        grown("(1,)", "(ns.x, ns.x)", "{{ [{}[ns.x]] | length + 'x' }}"),
        "{% set l = [1] %}{% set _ = l.append(l) %}{{ l | tojson }}",
    ],
)
def test_a_list_that_holds_itself_many_times_over_is_weighed_before_it_is_looked_at(use: str) -> None:
    assert fails(LATTICE + use, FEWER)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 9 ** 999999999 }}",
        "{{ 2 ** 60 ** 60 }}",
        grown("3", "ns.x * ns.x", "{{ ns.x }}"),
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 999999999) }}",
        "{{ '{x:999999999}'.format_map({'x': 1}) }}",
        "{{ 'x' | center(999999999) }}",
        "{{ 'x'.ljust(999999999) }}",
        "{{ 'x'.zfill(999999999) }}",
        "{{ '\t'.expandtabs(999999999) }}",
        "{{ 'x' | indent(999999999, true) }}",
        "{{ [1] | batch(999999999, 'x') | list }}",
        "{{ [1] | slice(999999999) | list }}",
        "{{ 2.5 | round(999999999, 'ceil') }}",
        "{{ [[1]] | tojson(indent=999999999) }}",
        "{{ (1).to_bytes(999999999, 'big') }}",
        "{{ [[1], [2]] | sum(start=[]) }}",
        "{{ lipsum(n=999999) }}",
        "{{ ('x y ' * 1000) | wordwrap(1, wrapstring='x' * 100000) }}",
    ],
)
def test_what_is_short_to_write_and_long_to_make_is_refused(source: str) -> None:
    assert fails(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] + '' }}",
        "{{ '' | attr('__class__') + '' }}",
        "{{ ['__class__'] | map('attr', '__class__') | list }}{{ ''.__class__.x }}",
        "{{ '{0.__class__}'.format('') + 1 }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ strftime_now.__closure__.x }}",
        "{{ dict.__class__.x }}",
        "{{ dict.mro() }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ namespace(_x=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ self._TemplateReference__context.x }}",
        "{{ messages.__class__.x }}",
        "{% include 'x' %}",
        "{% import '/etc/passwd' as x %}",
        "{% extends 'x' %}",
        "{{ missing.field }}",
        "{{ 1 + 'x' }}",
        "{{ 1 / 0 }}",
    ],
)
def test_nothing_of_pythons_own_is_in_reach(source: str) -> None:
    assert fails(source)


def test_the_meter_cannot_be_reached_or_replaced() -> None:
    assert Template("{{ meter is defined }}{{ context is defined }}").render(HI) == "FalseFalse"
    stolen = {" meter": None, "context": None, "environment": None}
    assert Template("{% set context = 1 %}{{ 'a' ~ context }}").render(HI, options=stolen) == "a1"


def test_what_a_template_changes_is_its_own() -> None:
    options = {"list": [1], "deep": {"list": [1]}}
    source = (
        "{% set _ = messages.append(1) %}{% set _ = list.append(2) %}{% set _ = deep.list.append(2) %}"
        "{{ messages | length }} {{ list }} {{ deep.list }}"
    )
    template = Template(source)
    for _ in range(2):
        assert template.render(HI, options=options) == "2 [1, 2] [1, 2]"
    assert options == {"list": [1], "deep": {"list": [1]}}


def test_what_a_template_changes_in_a_tool_is_its_own() -> None:
    tool = Tool(name="look", parameters={"type": "object", "properties": {"a": {"enum": ["b"]}}})
    told = plain(schema(tool))
    assert told == schema(tool)
    told["function"]["parameters"]["properties"]["a"]["enum"].append("c")  # type: ignore[index]  # JSON's types
    assert tool.parameters["properties"] == {"a": {"enum": ["b"]}}


@pytest.mark.parametrize("value", [object(), b"x", {1, 2}, Path("/"), json.loads, 1j])
def test_only_jsons_types_are_handed_over(value: object) -> None:
    with pytest.raises(TemplateFailed, match="JSON's types only"):
        Template("{{ x }}").render(HI, options={"x": [value]})


def test_what_is_handed_over_may_not_be_nested_without_end() -> None:
    deep: object = 1
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(TemplateFailed, match="nested"):
        Template("{{ x }}").render(HI, options={"x": deep})


def test_a_template_nested_without_end_is_malformed() -> None:
    with pytest.raises(TemplateFailed, match="malformed"):
        Template("{{ " + "(" * 100_000 + ")" * 100_000 + " }}")


@pytest.mark.slow
def test_a_conversation_of_five_hundred_turns_is_not_near_any_bound() -> None:
    turns = "{% for m in messages %}{% for n in messages[:loop.index] %}{% if n.role == 'x' %}{% endif %}{% endfor %}"
    source = turns + "{{ m.role ~ ': ' + m.content | trim + '\\n' }}{% endfor %}"
    talk = tuple(Message(role="user", parts=(Text(f"{k} " + "word " * 200),)) for k in range(500))
    prompt = Template(source).render(talk)
    assert prompt.count("\n") == 500
    assert len(prompt) < MAX_CHARS


def test_a_meter_runs_out_and_says_of_what() -> None:
    with pytest.raises(OverflowError, match="steps"):
        Meter().step(10**9)
    with pytest.raises(OverflowError, match="grew beyond"):
        Meter().move(MAX_CHARS + 1)
    meter = Meter(n_steps=1000)
    meter.move(100_000)
    with pytest.raises(OverflowError, match="reads and writes"):
        meter.move(100_000)


NAMES = st.sampled_from(["x", "y", "messages", "messages[0].content", "range(9)", "tools", "ns.x", "'ab'", "[1, 'b']"])
NAMES_OR_NUMBERS = st.one_of(NAMES, st.sampled_from(["0", "-1", "7", "99999999", "1.5", "none", "true", "{'a': 1}"]))
FILTERS = st.one_of(
    st.sampled_from(["trim", "upper", "string", "tojson", "length", "list", "join", "first", "sort", "unique", "int"]),
    st.sampled_from(["replace('a', 'aa')", "center(99999)", "indent(9999)", "map('upper')", "batch(3)", "slice(2)"]),
    st.sampled_from(["float", "sum", "reverse", "items", "dictsort", "title", "xmlattr", "pprint", "round"]),
)
OPERATORS = st.sampled_from(["+", "~", "*", "-", "%", "**", "==", "in", "<", "and", "is eq", "//"])
EXPRESSIONS = st.recursive(
    NAMES_OR_NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, OPERATORS, inner).map(lambda t: f"({' '.join(t)})"),
        st.tuples(inner, FILTERS).map(lambda t: f"({t[0]} | {t[1]})"),
        st.tuples(inner, inner).map(lambda t: f"[{t[0]}, {t[1]}]"),
        st.tuples(inner, inner).map(lambda t: f"{t[0]}[{t[1]}]" if t[0][-1] not in "0123456789e" else t[0]),
        inner.map(lambda e: f"({e}).join({e})"),
    ),
    max_leaves=6,
)
STATEMENTS = st.recursive(
    st.one_of(EXPRESSIONS.map(lambda e: "{{ " + e + " }}"), EXPRESSIONS.map(lambda e: "{% set ns.x = " + e + " %}")),
    lambda inner: st.one_of(
        st.tuples(EXPRESSIONS, inner).map(lambda t: "{% for x in " + t[0] + " %}" + t[1] + "{% endfor %}"),
        st.tuples(EXPRESSIONS, inner).map(lambda t: "{% if " + t[0] + " %}" + t[1] + "{% endif %}"),
        st.tuples(inner, inner).map("".join),
        inner.map(lambda s: "{% macro m(x) %}" + s + "{% endmacro %}{{ m(1) }}{{ m(2) }}"),
    ),
    max_leaves=4,
)


def gives_text_or_an_error(body: str) -> None:
    try:
        template = Template("{% set ns = namespace(x='x') %}" + body, n_steps=FEW)
        prompt = template.render(HI, options={"y": {"a": ["b"]}})
    except TemplateFailed:
        return
    assert len(prompt) <= MAX_CHARS


@settings(max_examples=15, deadline=None)
@given(STATEMENTS)
def test_any_template_gives_text_or_an_error_of_the_request(body: str) -> None:
    gives_text_or_an_error(body)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(STATEMENTS)
def test_many_templates_give_text_or_an_error_of_the_request(body: str) -> None:
    gives_text_or_an_error(body)
