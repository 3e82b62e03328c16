"""A card is broken: what it has stays there, and C is asked for nothing, since over errors of CUDA ggml aborts."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamahost.core.errors import BackendLost, LoadFailed
from llamahost.core.work import Plan, Span
from llamahost.native.adapters import LlamaAdapters
from llamahost.native.backend import LlamaBackend
from llamahost.native.context import ContextOptions
from llamahost.native.embed import EmbedOptions, LlamaEmbedder
from llamahost.native.library import library
from llamahost.native.model import Model
from tests.gguf_adapters import write_adapter

OF_DEVICES = (
    *("llama_decode", "llama_encode", "llama_free", "llama_model_free", "llama_synchronize", "llama_state_"),
    "llama_adapter_",
)


class Heard:
    """The binding, and the names of those of its functions that were asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.names.append(name)
        return getattr(library().c, name)


def test_of_what_is_forsaken_nothing_is_computed_kept_or_freed(tiny_llama: Path, tmp_path: Path) -> None:
    heard, adapter = Heard(), write_adapter(tmp_path / "adapter.gguf")
    opened = Model.open(tiny_llama)
    model = Model(replace(library(), c=heard), opened.pointer, tiny_llama, opened.header)

    def free_bytes() -> int:
        heard.names.append("llama_adapter_room")  # which a device is asked for
        return 2**40

    model.adapters = LlamaAdapters(model.library, opened.pointer, opened.header, free_bytes=free_bytes)
    backend = LlamaBackend(model, ContextOptions(n_ctx=256, n_slots=2, n_batch=64, n_threads=1))
    embedder = LlamaEmbedder(model, EmbedOptions(n_ctx=64, n_batch=64, n_threads=1))
    contexts = backend._context.pointer, embedder._pointer
    plan = Plan(spans=(Span(1, 0, 0, array("i", [5, 6]), 0),))
    backend.launch(plan)
    model.forsake()
    heard.names.clear()
    asked: list[Callable[[], object]] = [
        backend.collect,
        lambda: backend.launch(plan),
        lambda: backend.put_slot(0, b"kept"),
        lambda: embedder.embed([array("i", [5])]),
    ]
    for each in asked:
        with pytest.raises(BackendLost, match="out of use"):
            each()
    assert backend.take_slot(0, 2, 2**30) == b""
    with pytest.raises(LoadFailed, match="too late"):
        model.adapters.open(adapter)
    backend.free_adapter(1)
    for closed in (backend, embedder, model):
        closed.close()
    assert not [name for name in heard.names if name.startswith(OF_DEVICES)], "though it is closed"
    for context in contexts:  # they are there still
        library().c.llama_free(context)
    opened.close()
