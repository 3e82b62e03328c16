"""Make tiny random-weight BERT encoders as GGUF files: for embeddings, and for scores of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np

from tests.gguf_models import MIN_VOCAB, Array, Weights, add_tokenizer

EncoderPooling = Literal["none", "mean", "cls", "last", "rank"]
_POOLINGS: dict[EncoderPooling, int] = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}


@dataclass(frozen=True)
class Head:
    """What turns the first token's row into a score: out @ tanh(dense @ row + dense_bias) + out_bias."""

    dense: Array
    dense_bias: Array
    out: Array
    out_bias: Array


def head_of(n_embd: int, seed: int = 0) -> Head:
    random = np.random.default_rng(seed + 1)

    def drawn(*shape: int) -> Array:
        return random.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(n_embd))

    return Head(drawn(n_embd, n_embd), drawn(n_embd), drawn(1, n_embd), drawn(1))


def write_encoder(
    path: Path,
    pooling: EncoderPooling = "mean",
    *,
    n_vocab: int = MIN_VOCAB,
    n_embd: int = 32,
    n_layer: int = 2,
    n_head: int = 2,
    n_ctx: int = 128,
    seed: int = 0,
) -> Path:
    """Write a BERT to `path`; equal arguments make equal bytes. With `rank` it has the head of `head_of`."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(f"tiny bert {pooling}")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(2 * n_embd)
    writer.add_head_count(n_head)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_uint32("bert.pooling_type", _POOLINGS[pooling])
    writer.add_token_type_count(2)
    writer.add_vocab_size(n_vocab)
    add_tokenizer(writer, n_vocab)
    weights = Weights(writer, seed, "f32")
    weights.matrix("token_embd.weight", n_vocab, n_embd, scale=float(np.sqrt(n_embd)))
    weights.matrix("token_types.weight", 2, n_embd)
    weights.matrix("position_embd.weight", n_ctx, n_embd)
    _norm(weights, "token_embd_norm", n_embd)
    for layer in range(n_layer):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights.matrix(f"{block}.{name}.weight", n_embd, n_embd)
            weights.bias(f"{block}.{name}.bias", n_embd)
        _norm(weights, f"{block}.attn_output_norm", n_embd)
        weights.matrix(f"{block}.ffn_up.weight", 2 * n_embd, n_embd)
        weights.bias(f"{block}.ffn_up.bias", 2 * n_embd)
        weights.matrix(f"{block}.ffn_down.weight", n_embd, 2 * n_embd)
        weights.bias(f"{block}.ffn_down.bias", n_embd)
        _norm(weights, f"{block}.layer_output_norm", n_embd)
    if pooling == "rank":
        head = head_of(n_embd, seed)
        weights.add("cls.weight", head.dense)
        weights.add("cls.bias", head.dense_bias)
        weights.add("cls.output.weight", head.out)
        weights.add("cls.output.bias", head.out_bias)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _norm(weights: Weights, name: str, n: int) -> None:
    weights.ones(f"{name}.weight", n)
    weights.bias(f"{name}.bias", n)
