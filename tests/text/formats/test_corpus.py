"""Laws of all formats: what is told does not depend on the pieces it came in, and nothing of a text is lost."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.text.formats.format import Asked, Format, Talk
from llamahost.text.formats.functionary import FUNCTIONARY_3_2
from llamahost.text.formats.harmony import HARMONY
from llamahost.text.formats.muse import MUSE
from llamahost.text.formats.table import FAMILIES, THINKING
from tests.text.formats import corpus, tagged
from tests.text.formats.reading import TOOLS, Case, agrees, pieces, read, segments, told

BY_SIGN = dict(THINKING)
BY_NAME = {family.name: family for family in FAMILIES}
THINK = BY_SIGN["</think>"]
FORMATS: dict[str, tuple[Format, list[Case]]] = {
    "hermes": (Talk(BY_NAME["hermes"], THINK), [*corpus.HERMES, *corpus.THINK]),
    "qwen-coder": (Talk(BY_NAME["qwen-coder"], THINK), tagged.QWEN_CODER),
    "seed": (Talk(BY_NAME["seed"], BY_SIGN["<seed:think>"]), tagged.SEED),
    "glm": (Talk(BY_NAME["glm"], THINK), tagged.GLM),
    "hunyuan": (Talk(BY_NAME["hunyuan"]), tagged.HUNYUAN),
    "minimax-m1": (Talk(BY_NAME["minimax-m1"]), corpus.MINIMAX_1),
    "minimax-m2": (Talk(BY_NAME["minimax-m2"], THINK), tagged.MINIMAX_2),
    "minimax-m3": (Talk(BY_NAME["minimax-m3"], BY_SIGN["<mm:think>"]), tagged.MINIMAX_3),
    "kimi-k3": (Talk(BY_NAME["kimi-k3"], BY_SIGN["'<|open|>'"]), tagged.KIMI_3),
    "solar": (Talk(BY_NAME["solar"], BY_SIGN["<|begin|>assistant<|think|>"]), corpus.SOLAR),
    "minicpm": (Talk(BY_NAME["minicpm"], THINK), tagged.MINICPM),
    "deepseek-r1": (Talk(BY_NAME["deepseek-r1"], THINK), corpus.DEEPSEEK),
    "deepseek-v3.1": (Talk(BY_NAME["deepseek-v3.1"], THINK), corpus.DEEPSEEK),
    "deepseek-function_calls": (Talk(BY_NAME["deepseek-function_calls"], THINK), tagged.DEEPSEEK_3_2),
    "deepseek-tool_calls": (Talk(BY_NAME["deepseek-tool_calls"], THINK), tagged.DEEPSEEK_4),
    "kimi-k2": (Talk(BY_NAME["kimi-k2"], THINK), corpus.KIMI),
    "mistral-ids": (Talk(BY_NAME["mistral-ids"]), corpus.MISTRAL[:-2]),
    "mistral-list": (Talk(BY_NAME["mistral-list"]), corpus.MISTRAL[:-2]),
    "mistral": (Talk(BY_NAME["mistral"], BY_SIGN["[THINK]"]), corpus.MISTRAL),
    "function-gemma": (Talk(BY_NAME["function-gemma"]), corpus.FUNCTION_GEMMA),
    "gemma-4": (Talk(BY_NAME["gemma-4"], BY_SIGN["<|channel>thought"]), corpus.GEMMA_4),
    "command-r": (Talk(BY_NAME["command-r"], BY_SIGN["<|START_THINKING|>"]), corpus.COMMAND_R),
    "command-r-plus": (Talk(BY_NAME["command-r-plus"]), corpus.COMMAND_R_PLUS),
    "gigachat": (Talk(BY_NAME["gigachat"]), corpus.GIGACHAT),
    "granite": (Talk(BY_NAME["granite"], BY_SIGN["<response>"]), corpus.GRANITE),
    "apertus": (Talk(BY_NAME["apertus"], BY_SIGN["<|inner_prefix|>"]), corpus.APERTUS),
    "phi": (Talk(BY_NAME["phi"]), corpus.PHI),
    "nemotron": (Talk(BY_NAME["nemotron"], THINK), corpus.NEMOTRON),
    "functionary": (Talk(BY_NAME["functionary"]), corpus.FUNCTIONARY),
    "llama": (Talk(BY_NAME["llama"]), corpus.LLAMA),
    "llama-python": (Talk(BY_NAME["llama-python"]), corpus.LLAMA_PYTHON),
    "lfm": (Talk(BY_NAME["lfm"], THINK), corpus.LFM),
    "generic": (Talk(BY_NAME["generic"], THINK), corpus.GENERIC),
    "functionary-v3.2": (FUNCTIONARY_3_2, corpus.FUNCTIONARY_3_2),
    "harmony": (HARMONY, corpus.HARMONY),
    "muse": (MUSE, tagged.MUSE),
}
CASES = [(format_, case) for format_, cases in FORMATS.values() for case in cases]
N_CUTS = 6
N_DEEP = 1010  # beyond what Python nests
EACH = pytest.mark.parametrize("name", FORMATS)  # a test a format: one a case would be a thousand


@EACH
def test_an_answer_is_told_as_it_was_meant(name: str) -> None:
    format_, cases = FORMATS[name]
    for case in cases:
        found = read(format_, case.written, len(case.written), is_thinking=case.is_thinking)
        assert agrees(case, found), (case.written, found)


@EACH
def test_pieces_change_nothing(name: str) -> None:
    """One character at a time, and cut in two at a few places; a slow test cuts at each."""
    format_, cases = FORMATS[name]
    for case in cases:
        asked = Asked(tools=TOOLS, is_thinking=case.is_thinking)
        whole = read(format_, case.written, len(case.written), is_thinking=case.is_thinking)
        assert read(format_, case.written, 1, is_thinking=case.is_thinking) == whole, case.written
        for at in range(0, len(case.written), 1 + len(case.written) // N_CUTS):
            parts = (case.written[:at], case.written[at:])
            assert told(segments(format_, asked, parts)) == whole, parts


@pytest.mark.slow
@EACH
def test_no_cut_in_two_changes_anything(name: str) -> None:
    format_, cases = FORMATS[name]
    for case in cases:
        asked = Asked(tools=TOOLS, is_thinking=case.is_thinking)
        whole = read(format_, case.written, len(case.written), is_thinking=case.is_thinking)
        for at in range(len(case.written)):
            parts = (case.written[:at], case.written[at:])
            assert told(segments(format_, asked, parts)) == whole, parts


@given(st.sampled_from(CASES), st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_no_cut_into_pieces_changes_anything(chosen: tuple[Format, Case], sizes: list[int]) -> None:
    format_, case = chosen
    parts, at = [], 0
    for size in sizes:
        parts.append(case.written[at : at + size])
        at += size
    asked = Asked(tools=TOOLS, is_thinking=case.is_thinking)
    found = told(segments(format_, asked, (*parts, case.written[at:])))
    assert found == read(format_, case.written, len(case.written), is_thinking=case.is_thinking)


@given(st.sampled_from(list(FORMATS)), st.data())
def test_texts_of_anything_make_no_error_and_depend_on_no_pieces(name: str, data: st.DataObject) -> None:
    """Fragments of the format's own marks, shuffled: what a confused model might write."""
    format_, cases = FORMATS[name]
    fragments = sorted(
        {part for case in cases for part in pieces(case.written[:300], 7)} | set(format_.markers(Asked(tools=TOOLS)))
    )
    text = "".join(data.draw(st.lists(st.sampled_from(fragments), max_size=12)))
    assert read(format_, text, 1) == read(format_, text, len(text))


@EACH
def test_no_depth_makes_an_error(name: str) -> None:
    """A model that repeats itself opens one thing within another until it is cut; all of it is told."""
    format_, cases = FORMATS[name]
    written = next(case.written for case in cases if case.calls)
    places = {written.find(sign) for sign in "{[:=>"} | {written.rfind("{"), written.rfind(":") + 1}
    for nest, at in itertools.product(('{"function": ', '{"a": ', "{a:", "["), places):
        found = read(format_, written[: max(at, 0)] + nest * N_DEEP, 10_000)
        assert "".join([found.text, *(arguments for _, arguments in found.calls)]).count(nest[0]) >= N_DEEP


@EACH
def test_without_tools_no_call_is_read_and_without_telling_thoughts_they_stay(name: str) -> None:
    format_, cases = FORMATS[name]
    for case in cases:
        quiet = read(format_, case.written, tools=(), tells_thoughts=False, is_thinking=case.is_thinking)
        if format_ not in (HARMONY, MUSE, FUNCTIONARY_3_2):  # there plain words too stand behind marks
            assert (quiet.text, quiet.reasoning, quiet.calls) == (case.written, "", ())


def test_every_family_of_the_table_has_its_cases() -> None:
    assert set(FORMATS) == {*BY_NAME, "harmony", "muse", "functionary-v3.2"}
