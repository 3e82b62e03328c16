"""The network and its vocabulary as a GGUF file, and back. Knows both forms; trains nothing.

Matrices are Q8_0, norms and biases F32. A file that was written here is enough to train on from: rounding to 8 bits
costs less than a step of training changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from tools.train_builtin.model import Model, initialise
from tools.train_builtin.render import TEMPLATE
from tools.train_builtin.shape import Shape
from tools.train_builtin.tokenizer import CONTROL, PRE, SHOWN, Vocabulary

_Q8 = gguf.GGMLQuantizationType.Q8_0
_BLOCK = ("attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True)
class Notes:
    """What the file says about itself."""

    name: str = "builtin"
    version: str = "1"
    n_tokens_seen: int = 0


def write(path: Path, model: Model, vocabulary: Vocabulary, notes: Notes) -> None:
    writer = gguf.GGUFWriter(path, "qwen2")
    _describe(writer, model.shape, notes)
    add_vocabulary(writer, vocabulary)
    for name, tensor in model.state_dict().items():
        data = tensor.detach().float().cpu().numpy()
        called = name if name.endswith((".weight", ".bias")) else f"{name}.weight"
        if data.ndim == 2:
            writer.add_tensor(called, gguf.quants.quantize(data, _Q8), raw_dtype=_Q8)
        else:
            writer.add_tensor(called, data)
    finish(writer)


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """A file with no weights: enough for `Encoder`."""
    writer = gguf.GGUFWriter(path, "qwen2")
    _describe(writer, Shape(len(vocabulary.tokens)), Notes())
    add_vocabulary(writer, vocabulary)
    finish(writer)


def read_vocabulary(path: Path) -> Vocabulary:
    fields = gguf.GGUFReader(path).fields
    return Vocabulary(tuple(_value(fields, "tokenizer.ggml.tokens")), tuple(_value(fields, "tokenizer.ggml.merges")))


def read(path: Path) -> tuple[Model, Notes]:
    """The weights of a file that `write` made."""
    reader = gguf.GGUFReader(path)
    fields = reader.fields

    def number(key: str) -> Any:
        return _value(fields, f"qwen2.{key}")

    d_head = int(number("rope.dimension_count"))
    shape = Shape(
        n_vocab=len(_value(fields, "tokenizer.ggml.tokens")),
        d_model=int(number("embedding_length")),
        n_layer=int(number("block_count")),
        n_head=int(number("attention.head_count")),
        n_kv=int(number("attention.head_count_kv")),
        d_head=d_head,
        d_ff=int(number("feed_forward_length")),
        n_ctx=int(number("context_length")),
        rope_base=float(number("rope.freq_base")),
        eps=float(np.float64(str(np.float32(number("attention.layer_norm_rms_epsilon"))))),
    )
    model = Model(shape)
    own = model.state_dict()
    for tensor in reader.tensors:
        data = (
            tensor.data
            if tensor.tensor_type == gguf.GGMLQuantizationType.F32
            else gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        )
        name = tensor.name if tensor.name in own else tensor.name.removesuffix(".weight")
        own[name].copy_(torch.from_numpy(np.array(data, dtype=np.float32)).view_as(own[name]))
    seen = _value(fields, "builtin.n_tokens_seen") if "builtin.n_tokens_seen" in fields else 0
    return model, Notes(version=str(_value(fields, "general.version")), n_tokens_seen=int(seen))


def grown(model: Model, shape: Shape) -> Model:
    """The same function in a larger shape: what is new adds nothing until it is trained.

    New layers write nothing, new features of the residual stream are zero and read by random weights, new units and
    heads are read by zeros. A new key-value head begins as a copy of the one that its first query head had.
    """
    old = model.shape
    if (shape.n_vocab, shape.d_head, shape.n_head % shape.n_kv) != (old.n_vocab, old.d_head, 0):
        raise ValueError("vocabulary and size of heads stay, and every key-value head serves as many query heads")
    if any(getattr(shape, name) < getattr(old, name) for name in ("d_model", "n_layer", "n_head", "n_kv", "d_ff")):
        raise ValueError(f"{shape} is smaller than {old}")
    larger = Model(shape)
    initialise(larger, seed=shape.n_layer, has_copying=False)
    had = [  # of each key-value head the old one
        min(kv * (shape.n_head // shape.n_kv), old.n_head - 1) * old.n_kv // old.n_head for kv in range(shape.n_kv)
    ]
    if any(had[q * shape.n_kv // shape.n_head] != q * old.n_kv // old.n_head for q in range(old.n_head)):
        raise ValueError(f"of {shape.n_kv} key-value heads one would serve query heads of several of {old.n_kv}")
    for name, tensor in model.state_dict().items():
        new = larger.state_dict()[name]
        if ".attn_k." in name or ".attn_v." in name:
            heads = tensor.view(old.n_kv, old.d_head, *tensor.shape[1:])
            tensor = torch.cat([heads[kv] for kv in had])
        elif name.endswith("_norm"):
            new.fill_(1.0)
            tensor = tensor * (old.d_model / shape.d_model) ** 0.5  # the mean of squares is over more
        elif name.endswith(("embd.weight", "output.weight", "down.weight")):
            new.zero_()
        new[tuple(slice(n) for n in tensor.shape)] = tensor
    return larger


def _describe(writer: gguf.GGUFWriter, shape: Shape, notes: Notes) -> None:
    writer.add_name(notes.name)
    writer.add_version(notes.version)
    writer.add_description(
        "The demonstration and self-test model of llamahost, trained from scratch on generated text."
    )
    writer.add_license("MIT")
    writer.add_author("llamahost")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.d_model)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.d_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_kv)
    writer.add_key_length(shape.d_head)
    writer.add_value_length(shape.d_head)
    writer.add_rope_dimension_count(shape.d_head)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_uint64("builtin.n_tokens_seen", notes.n_tokens_seen)


def add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    types = [gguf.TokenType.CONTROL] * len(CONTROL) + [gguf.TokenType.USER_DEFINED] * len(SHOWN)
    types += [gguf.TokenType.NORMAL] * (len(vocabulary.tokens) - len(types))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(types)
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_bos_token_id(vocabulary.id_of("<|endoftext|>"))
    writer.add_eos_token_id(vocabulary.id_of("<|im_end|>"))
    writer.add_eot_token_id(vocabulary.id_of("<|im_end|>"))
    writer.add_pad_token_id(vocabulary.id_of("<|endoftext|>"))
    writer.add_add_bos_token(False)
    for key, token in (("pre", "prefix"), ("suf", "suffix"), ("mid", "middle"), ("pad", "pad")):
        writer.add_uint32(f"tokenizer.ggml.fim_{key}_token_id", vocabulary.id_of(f"<|fim_{token}|>"))
    writer.add_chat_template(TEMPLATE)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _value(fields: Any, key: str) -> Any:
    return fields[key].contents()
