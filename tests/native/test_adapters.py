"""An adapter does what llama.cpp alone does with it; what C would end the process over is refused before."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llamahost.core.errors import BackendError, LoadFailed
from llamahost.core.work import NO_ADAPTERS, Adapters, Plan, Span, Truncation
from llamahost.native.adapters import MARGIN_BYTES
from llamahost.native.model import Model
from tests.gguf_adapters import N_EMBD, N_VOCAB, tensors_of, write_adapter
from tests.gguf_models import write_model
from tests.native.driver import Driver, Row, row_of

PROMPT = [9, 40, 41, 42, 43]
Q = "blk.0.attn_q.weight"


@pytest.fixture
def driver(tiny_llama: Path) -> Iterator[Driver]:
    with Driver(tiny_llama, n_ctx=64, n_slots=2) as driver:
        yield driver


def row_with(driver: Driver, adapters: Adapters, slot: int = 0) -> Row:
    job = driver.begin()
    span = Span(job, slot, 0, array("i", PROMPT), 1)
    driver.run(Plan(spans=(span,), truncations=(Truncation(slot, 0),), adapters=adapters))
    return row_of(driver.backend, 0)


def row_of_c(path: Path, adapters: list[tuple[Path, float]]) -> Row:
    """The same by llama.cpp's own functions."""
    with Model.open(path) as model:
        c = model.library.c
        pointers = [c.llama_adapter_lora_init(model.pointer, str(each).encode()) for each, _ in adapters]
        params = c.llama_context_default_params()
        params.n_ctx = 64
        params.n_threads = params.n_threads_batch = 1
        context = c.llama_init_from_model(model.pointer, params)
        made = (type(pointers[0]) * len(pointers))(*pointers)
        scales = (ctypes.c_float * len(adapters))(*[scale for _, scale in adapters])
        c.llama_set_adapters_lora(context, made, len(adapters), scales)
        tokens = (ctypes.c_int32 * len(PROMPT))(*PROMPT)
        assert c.llama_decode(context, c.llama_batch_get_one(tokens, len(PROMPT))) == 0
        row = np.array(np.ctypeslib.as_array(c.llama_get_logits_ith(context, -1), (model.vocab.n_tokens,)))
        c.llama_free(context)
        return row


def test_rows_are_those_of_llama_cpp_with_the_same_adapters_and_scales(
    driver: Driver, tiny_llama: Path, tmp_path: Path
) -> None:
    poet, judge = write_adapter(tmp_path / "poet.gguf", 1), write_adapter(tmp_path / "judge.gguf", 2)
    first, second = driver.model.adapters.open(poet), driver.model.adapters.open(judge)
    plain = row_with(driver, NO_ADAPTERS)
    alone, both = row_with(driver, ((first, 1.0),)), row_with(driver, ((first, 0.5), (second, -1.5)))
    np.testing.assert_allclose(alone, row_of_c(tiny_llama, [(poet, 1.0)]), atol=1e-4)
    np.testing.assert_allclose(both, row_of_c(tiny_llama, [(poet, 0.5), (judge, -1.5)]), atol=1e-4)
    assert np.abs(alone - plain).max() > 0.5
    np.testing.assert_array_equal(row_with(driver, NO_ADAPTERS), plain, "and nothing of them is left")


def test_an_adapter_is_freed_and_the_context_goes_on_also_where_it_was_the_last_one_used(
    driver: Driver, tmp_path: Path
) -> None:
    plain = row_with(driver, NO_ADAPTERS)
    id_ = driver.model.adapters.open(write_adapter(tmp_path / "a.gguf"))
    row_with(driver, ((id_, 1.0),))
    driver.backend.free_adapter(id_)
    driver.backend.free_adapter(id_)
    np.testing.assert_array_equal(row_with(driver, NO_ADAPTERS), plain)
    with pytest.raises(BackendError, match="is gone"):
        row_with(driver, ((id_, 1.0),))
    again = driver.model.adapters.open(tmp_path / "a.gguf")
    assert again != id_


def test_adapters_are_not_changed_without_memory_to_spare_and_the_slot_is_as_it_was(
    driver: Driver, tmp_path: Path
) -> None:
    left = [2**40]
    model = driver.model
    adapters = type(model.adapters)(model.library, model.pointer, model.header, free_bytes=lambda: left[0], look_s=0.0)
    id_ = adapters.open(write_adapter(tmp_path / "a.gguf"))
    adapters.set(driver.backend._context.pointer or 0, ((id_, 1.0),), n_compute_bytes=2**20)
    left[0] = MARGIN_BYTES
    with pytest.raises(BackendError, match=r"32\.0 MiB of memory are left"):
        adapters.set(driver.backend._context.pointer or 0, NO_ADAPTERS, n_compute_bytes=2**20)
    with pytest.raises(LoadFailed, match="no room for it"):
        adapters.open(tmp_path / "a.gguf")
    adapters.unset(driver.backend._context.pointer or 0)
    adapters.free(id_)


def with_one(name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> dict[str, Any]:
    return {**tensors_of(), name: np.ones(shape, dtype)}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in tensors_of().items() if key != name}


EMBEDDINGS = {
    "token_embd.weight.lora_a": np.ones((N_VOCAB, 4), np.float32),
    "token_embd.weight.lora_b": np.ones((N_EMBD, 5), np.float32),
}
T = gguf.GGUFValueType
BAD_KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "architecture of the wrong type": ({"general.architecture": (7, T.UINT32)}, "architecture"),
    "alpha of 64 bits": ({"adapter.lora.alpha": (1.0, T.FLOAT64)}, "32 bits"),
    "alpha that is a text": ({"adapter.lora.alpha": "8"}, "32 bits"),
    "alpha that is none": ({"adapter.lora.alpha": float("nan")}, "nan"),
    "another type of adapter": ({"adapter.type": "ia3"}, "not `lora`"),
    "a type that is a number": ({"adapter.type": (1, T.UINT32)}, "adapter.type"),
    "no adapter": ({"general.type": "model"}, "not `adapter`"),
    "activated by tokens": ({"adapter.alora.invocation_tokens": ([1, 2], T.ARRAY)}, "aLoRA"),
}
BAD_TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "no tensors": ({}, "changes nothing"),
    "half a pair": (without(f"{Q}.lora_b"), "one matrix of two"),
    "ranks that differ": (with_one(f"{Q}.lora_b", (N_EMBD, 5)), "do not fit each other"),
    "another width": (with_one(f"{Q}.lora_a", (4, 32)), "another base"),
    "another height": (with_one(f"{Q}.lora_b", (32, 4)), "another base"),
    "three dimensions": (with_one(f"{Q}.lora_a", (2, 4, N_EMBD)), "another base"),
    "a tensor that is not there": (
        {f"blk.7.x.weight.lora_{side}": np.ones((4, 4), np.float32) for side in "ab"},
        "does not have",
    ),
    "a tensor of nothing": (with_one("what.weight", (4, 4)), "belongs to no LoRA"),
    "values that are no numbers": (with_one(f"{Q}.lora_a", (4, N_EMBD)), "no numbers"),
    "embeddings of two ranks": (EMBEDDINGS, "do not fit each other"),
    "whole numbers": (with_one(f"{Q}.lora_a", (4, N_EMBD), np.int32), "type"),
}
BAD_TENSORS["values that are no numbers"][0][f"{Q}.lora_a"][2, 3] = np.inf


@pytest.mark.parametrize("name", [*BAD_KEYS, *BAD_TENSORS])
def test_an_adapter_that_would_end_the_process_is_refused_with_its_reason(
    driver: Driver, tmp_path: Path, name: str
) -> None:
    keys, said = BAD_KEYS.get(name, ({}, ""))
    tensors, said = BAD_TENSORS.get(name, (tensors_of(), said))
    path = write_adapter(tmp_path / "bad.gguf", keys=keys, tensors=tensors)
    with pytest.raises(LoadFailed, match=said):
        driver.model.adapters.open(path)


def test_another_architecture_a_cut_file_and_a_folder_are_refused(driver: Driver, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.gguf")
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:-100])
    write_adapter(tmp_path / "b.gguf", architecture="bert")
    for name, said in (
        ("cut.gguf", "download complete"),
        ("b.gguf", "'bert'"),
        ("", "convert_lora"),
        ("no", "read"),
        ("n" * 300, "too long"),
    ):
        with pytest.raises(LoadFailed, match=said):
            driver.model.adapters.open(tmp_path / name)


def test_the_embeddings_of_a_model_that_reads_its_output_from_them_are_not_changed(tmp_path: Path) -> None:
    """llama.cpp has the two matrices turned for embeddings, and multiplies the output's by them as they are."""
    good = {**EMBEDDINGS, "token_embd.weight.lora_b": np.ones((N_EMBD, 4), np.float32)}
    path = write_adapter(tmp_path / "a.gguf", tensors=good)
    with Driver(write_model(tmp_path / "m.gguf"), n_ctx=64) as driver:
        row_with(driver, ((driver.model.adapters.open(path), 1.0),))
    tied = write_model(tmp_path / "tied.gguf", has_output=False)
    with Driver(tied, n_ctx=64) as driver, pytest.raises(LoadFailed, match="the output as well"):
        driver.model.adapters.open(path)
