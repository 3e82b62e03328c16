"""Laws of all formats: what is told does not depend on the pieces it came in, and nothing of a text is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.text.formats.format import Asked, Format, Talk, Thinking
from llamahost.text.formats.hermes import HERMES
from tests.text.formats import corpus
from tests.text.formats.reading import TOOLS, Case, agrees, pieces, read, segments, told

THINK = Thinking("<think>", "</think>")
FORMATS: dict[str, tuple[Format, list[Case]]] = {
    "hermes": (Talk(HERMES, THINK), [*corpus.HERMES, *corpus.THINK]),
}
CASES = [(format_, case) for format_, cases in FORMATS.values() for case in cases]
IDS = [f"{name}-{k}" for name, (_, cases) in FORMATS.items() for k in range(len(cases))]


@pytest.mark.parametrize(("format_", "case"), CASES, ids=IDS)
def test_an_answer_is_told_as_it_was_meant(format_: Format, case: Case) -> None:
    found = read(format_, case.written, len(case.written), is_thinking=case.is_thinking)
    assert agrees(case, found), found


@pytest.mark.parametrize(("format_", "case"), CASES, ids=IDS)
def test_pieces_change_nothing(format_: Format, case: Case) -> None:
    """One character at a time, and cut in two at every place."""
    asked = Asked(tools=TOOLS, is_thinking=case.is_thinking)
    whole = read(format_, case.written, max(1, len(case.written)), is_thinking=case.is_thinking)
    assert read(format_, case.written, 1, is_thinking=case.is_thinking) == whole
    for at in range(0, len(case.written), 1 + len(case.written) // 400):
        assert told(segments(format_, asked, (case.written[:at], case.written[at:]))) == whole


@given(st.sampled_from(CASES), st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_no_cut_into_pieces_changes_anything(chosen: tuple[Format, Case], sizes: list[int]) -> None:
    format_, case = chosen
    parts, at = [], 0
    for size in sizes:
        parts.append(case.written[at : at + size])
        at += size
    asked = Asked(tools=TOOLS, is_thinking=case.is_thinking)
    found = told(segments(format_, asked, (*parts, case.written[at:])))
    assert found == read(format_, case.written, max(1, len(case.written)), is_thinking=case.is_thinking)


@given(st.sampled_from(list(FORMATS)), st.data())
def test_texts_of_anything_make_no_error_and_depend_on_no_pieces(name: str, data: st.DataObject) -> None:
    """Fragments of the format's own marks, shuffled: what a confused model might write."""
    format_, cases = FORMATS[name]
    fragments = sorted(
        {part for case in cases for part in pieces(case.written[:300], 7)} | set(format_.markers(Asked(tools=TOOLS)))
    )
    text = "".join(data.draw(st.lists(st.sampled_from(fragments), max_size=12)))
    assert read(format_, text, 1) == read(format_, text, max(1, len(text)))


@pytest.mark.parametrize(("format_", "case"), CASES, ids=IDS)
def test_without_tools_no_call_is_read_and_without_telling_thoughts_they_stay(format_: Format, case: Case) -> None:
    quiet = read(format_, case.written, tools=(), tells_thoughts=False, is_thinking=case.is_thinking)
    if name_of(format_) not in WRAPPED:
        assert (quiet.text, quiet.reasoning, quiet.calls) == (case.written, "", ())


WRAPPED: frozenset[str] = frozenset()
"""Formats in which also plain words stand within marks."""


def name_of(format_: Format) -> str:
    return format_.name
