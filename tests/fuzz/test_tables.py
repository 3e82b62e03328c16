"""The tables of the fuzz are whole: a new number, or a new call into C, without a row in them fails here."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llamahost.native
from llamahost.api.embeddings import EmbeddingsBody
from llamahost.api.openai_types import ChatBody, CompletionBody
from llamahost.api.rerank import RerankBody
from llamahost.core.errors import InvalidRequest, LoadFailed, ManifestError
from llamahost.core.messages import Generation
from llamahost.core.sampling import Sampling
from llamahost.core.vectors import EmbedRequest
from llamahost.fleet.settings.manifest import ModelSpec, ServerSettings
from llamahost.native.context import ContextOptions
from llamahost.native.embed import EmbedOptions
from llamahost.native.offload import ModelOptions
from tests.fuzz import numbers
from tests.fuzz.numbers import FLOATS, INTS, Range, numbers_of

OF_A_CONTEXT = {
    *("n_ctx", "n_slots", "n_cells", "n_batch", "n_ubatch", "n_threads", "rope_freq_base", "rope_freq_scale"),
    *("yarn_orig_ctx", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"),
}
OF_A_MODEL = {"n_gpu_layers", "tensor_split", "main_device"}  # n_cpu_moe becomes patterns
OF_THE_BACKEND = {"n_threads_batch", "n_rows"}  # of ContextOptions: made by the loader, never given


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (ChatBody, {*numbers.CHAT_BODY, *numbers.OF_LORA}),
        (CompletionBody, {*numbers.COMPLETION_BODY, *numbers.OF_LORA}),
        (Sampling, {*numbers.SAMPLING, *numbers.ELSEWHERE}),
        (Generation, set(numbers.GENERATION)),
        (ModelSpec, set(numbers.SPEC)),
        (ServerSettings, set(numbers.SERVER)),
        (EmbeddingsBody, {*numbers.EMBEDDINGS_BODY, "input"}),
        (RerankBody, set(numbers.RERANK_BODY)),
        (EmbedOptions, set(numbers.EMBED_OPTIONS)),
        (ContextOptions, OF_A_CONTEXT & set(numbers.SPEC) | OF_THE_BACKEND),
        (ModelOptions, OF_A_MODEL & set(numbers.SPEC)),
    ],
)
def test_every_number_has_a_row_and_every_row_a_number(kind: type, rows: set[str]) -> None:
    assert numbers_of(kind) - rows == set(), "say in tests/fuzz/numbers.py what they take"
    assert rows - numbers_of(kind) == set(), "nobody reads these any more"


def calls() -> Iterator[str]:
    """Every call of native/ into C, by the name that it is called by."""
    for path in sorted(Path(llamahost.native.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                if node.attr.startswith("llama_") or owner.endswith(("quick", ".long")):
                    yield node.attr


def test_every_call_into_c_has_a_row() -> None:
    found = set(calls())
    assert "llama_decode" in found
    assert "sampler_init_top_k" in found
    known = {*numbers.CALLS, *numbers.NUMBERLESS}
    assert found - known == set(), "say in tests/fuzz/numbers.py which number they are handed, or that it is none"
    assert known - found == set(), "nobody calls these any more"


def cases(rows: dict[str, Range], kind: type) -> list[tuple[str, float, bool | None]]:
    """Each field with each value of its sort, and whether it is taken."""
    defaults = kind()
    found: list[tuple[str, float, bool | None]] = []
    for name, row in rows.items():
        is_whole = isinstance(getattr(defaults, name), int)
        found += [(name, value, row.takes(value)) for value in (INTS if is_whole else (*INTS, *FLOATS))]
    return found


@pytest.mark.parametrize("name", numbers.SAMPLING)
def test_sampling_takes_what_the_table_says(name: str) -> None:
    for _, value, is_taken in cases({name: numbers.SAMPLING[name]}, Sampling):
        given: dict[str, Any] = {name: value}
        if is_taken:
            Sampling(**given)
        else:
            with pytest.raises(InvalidRequest) as caught:
                Sampling(**given)
            assert caught.value.param == name


@pytest.mark.parametrize("value", FLOATS)
def test_a_bias_is_taken_or_refused(value: float) -> None:
    if numbers.BIASES.takes(value):
        assert Sampling(logit_bias=((1, value),)).logit_bias == ((1, value),)
    else:
        with pytest.raises(InvalidRequest):
            Sampling(logit_bias=((1, value),))


@pytest.mark.parametrize("name", ["max_tokens", "n", "n_logprobs", "timeout_s", "line_limit_s"])
def test_a_generation_takes_what_the_table_says(name: str) -> None:
    for value in (*INTS, *FLOATS) if name.endswith("_s") else INTS:
        given: dict[str, Any] = {name: value}
        if numbers.GENERATION[name].takes(value):
            Generation(**given)
        else:
            with pytest.raises(InvalidRequest):
                Generation(**given)


def fits(rows: dict[str, Range], name: str, make: Any) -> None:
    is_whole = rows[name].is_whole or name.startswith(("n_", "max_", "port"))
    for value in INTS if is_whole else (*INTS, *FLOATS):
        given: dict[str, Any] = {name: (value,) if name == "tensor_split" else value}
        if rows[name].takes(value):
            make(given)
        else:
            with pytest.raises(ManifestError) as caught:
                make(given)
            assert caught.value.key == name


@pytest.mark.parametrize(("field", "name"), [("dimensions", "dimensions"), ("timeout", "timeout_s")])
def test_a_request_for_embeddings_takes_what_the_table_says(field: str, name: str) -> None:
    row = numbers.EMBEDDINGS_BODY[field]
    for value in INTS if row.is_whole else (*INTS, *FLOATS):
        given: dict[str, Any] = {name: value}
        if row.takes(value) or (row.is_whole and value > row.high):  # beyond it only the body's type refuses
            EmbedRequest(inputs=("a",), **given)
        else:
            with pytest.raises(InvalidRequest) as caught:
                EmbedRequest(inputs=("a",), **given)
            assert caught.value.param == field


@pytest.mark.parametrize("name", numbers.EMBED_OPTIONS)
def test_embedding_contexts_are_made_or_refused(name: str) -> None:
    for value in INTS:
        given: dict[str, Any] = {"n_ctx": 8, name: value}
        if numbers.EMBED_OPTIONS[name].takes(value):
            EmbedOptions(**given)
        else:
            with pytest.raises(LoadFailed):
                EmbedOptions(**given)


@pytest.mark.parametrize("name", numbers.SPEC)
def test_a_spec_takes_what_the_table_says(name: str) -> None:
    fits(numbers.SPEC, name, lambda given: ModelSpec(name="m", path=Path("m"), **given))


@pytest.mark.parametrize("name", numbers.SERVER)
def test_settings_take_what_the_table_says(name: str) -> None:
    fits(numbers.SERVER, name, lambda given: ServerSettings(**given))


@pytest.mark.parametrize("name", ["n_ctx", "n_slots", "n_cells", "n_batch", "n_ubatch", "n_threads", "n_rows"])
def test_context_options_are_made_or_refused(name: str) -> None:
    """Whatever comes from a program that goes past the manifest: no number that C has no room for gets through."""
    for value in INTS:
        given: dict[str, Any] = {"n_ctx": 64, "is_unified": name == "n_cells", name: value}
        try:
            options = ContextOptions(**given)
        except LoadFailed:
            continue
        made = (options.cells, options.n_batch, options.n_ubatch, options.n_slots, options.rows, options.n_threads)
        assert all(0 <= number < 2**31 for number in made), (name, value)


@pytest.mark.parametrize("name", sorted(OF_A_MODEL))
def test_model_options_are_made_or_refused(name: str) -> None:
    for value in INTS:
        given: dict[str, Any] = {name: (value,) if name == "tensor_split" else value}
        try:
            options = ModelOptions(**given)
        except LoadFailed:
            continue
        assert -1 <= options.n_gpu_layers < 2**31, (name, value)
        assert 0 <= options.main_device < 16, (name, value)
        assert all(0 <= share <= 1e6 for share in options.tensor_split), (name, value)


@pytest.mark.parametrize("name", ["rope_freq_base", "rope_freq_scale"])
def test_a_rope_is_a_number_that_a_float_holds(name: str) -> None:
    for value in FLOATS:
        given: dict[str, Any] = {"n_ctx": 64, name: value}
        if 0.0 <= value <= 1e12:
            ContextOptions(**given)
        else:
            with pytest.raises(LoadFailed, match=name):
                ContextOptions(**given)


def test_the_values_meet_every_edge() -> None:
    for edge in (-1, 0, 2**31 - 1, 2**31, 2**32, 2**63):
        assert edge in INTS
    assert any(math.isnan(value) for value in FLOATS)
    assert any(0 < value < 1e-40 for value in FLOATS)
