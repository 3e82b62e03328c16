"""Files that llama.cpp would end the process over are refused by the reader, with a reason; real ones never are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamahost.core.errors import LoadFailed
from llamahost.native.gguf import read_metadata
from tests.fuzz.gguf_changes import aligned, both, key, tokens, typed, u32
from tests.fuzz.gguf_document import BOOL, F32, I32, U32, Document, Value, packed, read_document
from tests.gguf_models import Architecture, write_model

NAN = float("nan")


FATAL: list[tuple[Architecture, Callable[[Document], Document], str]] = [
    ("llama", u32("A.block_count", 0), "0 layers"),
    ("llama", u32("A.block_count", 513), "513 layers"),
    ("llama", u32("A.block_count", 2**31), "layers"),
    ("llama", u32("A.nextn_predict_layers", 3), "predict"),
    ("llama", u32("A.expert_count", 1025), "1025 experts"),
    ("llama", u32("A.expert_count", 2), "none is used"),
    ("llama", u32("A.expert_used_count", 2), "of its 0 experts, 2"),
    ("llama", key("A.expert_used_count", Value.array(BOOL, [b"\1", b"\1"])), "of its 0 experts, 1"),
    ("llama", key("A.expert_used_count", Value.array(I32, [b"\xff\xff\xff\x7f"] * 2)), "are to be used"),
    ("llama", u32("A.expert_group_count", 1), "in 1 groups"),
    (
        "llama",
        both(u32("A.expert_count", 8), u32("A.expert_used_count", 2), u32("A.expert_group_count", 3)),
        "in 3 groups",
    ),
    (
        "llama",
        both(u32("A.expert_count", 8), u32("A.expert_used_count", 2), u32("A.expert_group_count", 4)),
        "0 are used",
    ),
    ("llama", key("A.rope.scaling.type", Value.text(b"x")), "rope.scaling.type"),
    ("recurrent", key("A.rope.scaling.type", Value.text(b"")), "rope.scaling.type"),
    ("swa", u32("A.rope.dimension_count", 5), "even"),
    ("hybrid", u32("A.rope.dimension_count", 2**32 - 2), "rope.dimension_count"),
    ("swa", u32("A.rope.dimension_count_swa", 2**31), "rope.dimension_count_swa"),
    ("llama", key("A.attention.layer_norm_rms_epsilon", Value.scalar(F32, NAN)), "epsilon is nan"),
    ("recurrent", key("A.attention.layer_norm_rms_epsilon", Value.scalar(F32, -1.0)), "epsilon is -1"),
    ("swa", u32("A.attention.sliding_window", 2**31 - 1), "sliding window"),
    ("swa", key("A.attention.sliding_window_pattern", Value.array(BOOL, [])), "no layer with a window"),
    ("swa", u32("A.attention.sliding_window_pattern", 1), "no layer with a window"),
    ("hybrid", u32("A.ssm.inner_size", 512), "inner_size"),
    ("hybrid", u32("A.embedding_length", 0), "inner_size"),
    ("llama", aligned(2), "aligned"),
    ("llama", aligned(8), "aligned"),
    ("llama", typed("blk.0.attn_output.weight", 26), "i32"),
    ("llama", typed("blk.1.ffn_down.weight", 25), "i16"),
    ("llama", typed("token_embd.weight", 28), "f64"),
    ("llama", typed("blk.0.attn_norm.weight", 1), "f32 is needed"),
    ("recurrent", typed("blk.0.ssm_d", 1), "f32 is needed"),
    ("recurrent", typed("blk.1.ssm_dt.bias", 30), "f32 is needed"),
    ("recurrent", typed("blk.1.ssm_a", 24), "i8"),
    ("llama", tokens(lambda items: [items[5], *items[1:]]), "a token twice"),
    ("llama", tokens(lambda items: [items[9]] * len(items)), "a token twice"),
    ("llama", key("tokenizer.ggml.model", Value.text(b"llama")), "no token for the byte"),
    ("llama", lambda d: replace(d, keys=(*d.keys, d.keys[0])), "twice"),
    ("llama", key("general.alignment", Value.array(U32, [])), "alignment"),
    ("llama", u32("general.alignment", 0), "alignment"),
]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Document]:
    folder = tmp_path_factory.mktemp("laws")
    small: dict[str, Any] = {"n_vocab": 300, "n_embd": 32, "n_head": 2, "n_ff": 32, "n_ctx": 64, "n_state": 8}
    kinds: tuple[Architecture, ...] = ("llama", "swa", "recurrent", "hybrid")
    return {kind: read_document(write_model(folder / kind, kind, **small).read_bytes()) for kind in kinds}


@pytest.mark.parametrize(("kind", "change", "says"), FATAL)
def test_what_would_end_the_process_is_refused_with_its_reason(
    kind: str, change: Callable[[Document], Document], says: str, documents: dict[str, Document], tmp_path: Path
) -> None:
    path = tmp_path / "fatal.gguf"
    path.write_bytes(change(documents[kind]).to_bytes())
    with pytest.raises(LoadFailed, match=r"fatal\.gguf is not a usable GGUF file") as caught:
        read_metadata(path)
    assert says in str(caught.value)


RIGHT: list[tuple[Architecture, Callable[[Document], Document]]] = [
    ("llama", lambda document: document),
    ("swa", lambda document: document),
    ("recurrent", lambda document: document),
    ("hybrid", lambda document: document),
    ("llama", both(u32("A.expert_count", 8), u32("A.expert_used_count", 2))),
    ("llama", key("A.rope.scaling.type", Value.text(b"yarn"))),
    ("llama", tokens(lambda items: [*items[:-2], packed(b""), packed(b"")])),  # llama.cpp gives those names
    ("llama", aligned(64)),
    ("llama", typed("blk.0.attn_q.weight", 30)),
    ("swa", u32("A.attention.sliding_window_pattern", 6)),
]


@pytest.mark.parametrize(("kind", "change"), RIGHT)
def test_what_is_right_is_read(
    kind: str, change: Callable[[Document], Document], documents: dict[str, Document], tmp_path: Path
) -> None:
    path = tmp_path / "right.gguf"
    path.write_bytes(change(documents[kind]).to_bytes())
    assert len(read_metadata(path).tensors) == len(documents[kind].tensors)


def test_a_document_is_put_together_as_it_was(tiny_llama: Path, tiny_hybrid: Path) -> None:
    """The fuzz stands on it."""
    for path in (tiny_llama, tiny_hybrid):
        assert read_document(path.read_bytes()).to_bytes() == path.read_bytes()
