"""Laws of the shape that a model gets: contexts, slots and cells, by what there is room for."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.core.errors import ManifestError
from llamahost.fleet.machine.fit import Facts, choose_shape, shapes
from llamahost.fleet.settings.manifest import ModelSpec

GIB = 2**30
SPEC = ModelSpec(name="m", path=Path("m.gguf"))
FACTS = Facts(n_ctx_train=131072, cell_bytes=1024.0, weight_bytes=GIB)


def spec(path: Path = Path("m.gguf"), **rest: object) -> ModelSpec:
    return ModelSpec(name="m", path=path, **rest)  # type: ignore[arg-type]  # fields by name, for brevity


def test_split_where_a_quarter_of_what_is_left_holds_every_slot() -> None:
    shape = choose_shape(SPEC, FACTS, 2 * GIB)
    assert (shape.n_ctx, shape.n_slots, shape.n_cells, shape.is_unified) == (8192, 8, 65536, False)


def test_over_a_tensor_split_it_is_unified_whatever_there_is() -> None:
    for each in shapes(spec(split_mode="tensor"), FACTS, 64 * GIB):
        assert each.is_unified, "two slots of a split KV in one step end the process there"
    with pytest.raises(ManifestError, match="does not go with"):
        spec(split_mode="tensor", kv_layout="split")


def test_unified_with_what_that_quarter_holds_where_it_does_not() -> None:
    shape = choose_shape(SPEC, FACTS, GIB + GIB // 8)
    assert (shape.n_ctx, shape.n_slots, shape.n_cells, shape.is_unified) == (8192, 8, 36864, True)


def test_a_context_that_would_take_more_than_half_is_halved_unless_it_was_said() -> None:
    assert choose_shape(SPEC, FACTS, GIB // 32).n_ctx < 8192
    assert choose_shape(spec(n_ctx=8192), FACTS, GIB // 32).n_ctx == 8192


def test_a_small_model_is_not_stretched() -> None:
    assert choose_shape(SPEC, Facts(n_ctx_train=256, cell_bytes=1.0, weight_bytes=0), GIB).n_ctx == 256


def test_recurrent_memory_costs_nothing_a_token() -> None:
    assert not choose_shape(SPEC, Facts(n_ctx_train=4096, cell_bytes=0.0, weight_bytes=0), GIB).is_unified


def test_a_stated_pool_is_unified_and_whole_contexts_fit() -> None:
    shape = choose_shape(spec(n_ctx=1000, n_cells=1000), FACTS, GIB)
    assert (shape.n_cells, shape.is_unified) == (1024, True)


@given(
    st.sampled_from(["auto", "split", "unified"]),
    st.none() | st.integers(8, 100_000),
    st.none() | st.integers(1, 256),
    st.integers(0, 2**20),
    st.floats(0, 1e6),
    st.integers(0, 64 * GIB),
)
def test_every_shape_is_possible_and_keeps_what_was_said(
    layout: str, n_ctx: int | None, n_slots: int | None, n_train: int, cell_bytes: float, available: int
) -> None:
    given_spec = spec(kv_layout=layout, n_ctx=n_ctx, n_slots=n_slots)
    tried = list(shapes(given_spec, Facts(n_ctx_train=n_train, cell_bytes=cell_bytes, weight_bytes=GIB), available))
    assert len(tried) == len(set(tried)) < 64
    for shape in tried:
        assert n_ctx in (None, shape.n_ctx)
        assert n_slots in (None, shape.n_slots)
        if shape.is_unified:
            assert layout != "split"
            assert shape.n_cells >= shape.n_ctx
            assert shape.n_cells % 256 == 0
        else:
            assert layout != "unified"
            assert shape.n_cells == shape.n_ctx * shape.n_slots
    assert [shape.n_cells for shape in tried] == sorted((shape.n_cells for shape in tried), reverse=True)
