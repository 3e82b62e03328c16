"""The network of `builtin-embed`: a bert of llama.cpp's making in PyTorch, and its GGUF file. Knows weights and shapes;
knows no text.

Bidirectional attention, learned positions, LayerNorm after each part, GELU, the mean of the last layer. Its tokens are
those of the chat model beside it, so one vocabulary serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, normalize, scaled_dot_product_attention

from tools.train_builtin.export import add_vocabulary, finish
from tools.train_builtin.tokenizer import Vocabulary

_Q8 = gguf.GGMLQuantizationType.Q8_0


@dataclass(frozen=True)
class SentenceShape:
    n_vocab: int
    d_model: int = 128
    n_layer: int = 3
    n_head: int = 4
    d_ff: int = 512
    n_ctx: int = 512
    eps: float = 1e-5


class SentenceBlock(nn.Module):
    def __init__(self, shape: SentenceShape) -> None:
        super().__init__()
        d = shape.d_model
        self.shape = shape
        self.attn_q, self.attn_k, self.attn_v, self.attn_output = (nn.Linear(d, d) for _ in range(4))
        self.attn_output_norm = nn.LayerNorm(d, shape.eps)
        self.ffn_up = nn.Linear(d, shape.d_ff)
        self.ffn_down = nn.Linear(shape.d_ff, d)
        self.layer_output_norm = nn.LayerNorm(d, shape.eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = (
            part(x).view(n, t, self.shape.n_head, -1).transpose(1, 2)
            for part in (self.attn_q, self.attn_k, self.attn_v)
        )
        a = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.attn_output_norm(x + self.attn_output(a.transpose(1, 2).reshape(n, t, d)))
        return self.layer_output_norm(x + self.ffn_down(gelu(self.ffn_up(x))))  # type: ignore[no-any-return]  # a module's call is Any


class SentenceModel(nn.Module):
    def __init__(self, shape: SentenceShape, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        torch.manual_seed(seed)
        self.token_embd = nn.Embedding(shape.n_vocab, shape.d_model)
        self.position_embd = nn.Embedding(shape.n_ctx, shape.d_model)
        self.token_embd_norm = nn.LayerNorm(shape.d_model, shape.eps)
        self.blk = nn.ModuleList(SentenceBlock(shape) for _ in range(shape.n_layer))
        nn.init.normal_(self.token_embd.weight, std=0.05)
        nn.init.normal_(self.position_embd.weight, std=0.01)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Unit vectors [n, d_model] of texts of `lengths` tokens; tokens are [n, longest]."""
        t = tokens.shape[1]
        is_there = torch.arange(t)[None, :] < lengths[:, None]
        x = self.token_embd(tokens) + self.position_embd(torch.arange(t))[None]
        x = layer_norm(x, (self.shape.d_model,), self.token_embd_norm.weight, self.token_embd_norm.bias, self.shape.eps)
        for block in self.blk:
            x = block(x, is_there[:, None, None, :])
        mean = (x * is_there[..., None]).sum(1) / lengths[:, None]
        return normalize(mean, dim=-1)


def write(path: Path, model: SentenceModel, vocabulary: Vocabulary) -> None:
    s = model.shape
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("builtin-embed")
    writer.add_version("1")
    writer.add_description("The demonstration embedding model of llamahost, trained from scratch on generated text.")
    writer.add_license("MIT")
    writer.add_author("llamahost")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(s.n_ctx)
    writer.add_embedding_length(s.d_model)
    writer.add_block_count(s.n_layer)
    writer.add_feed_forward_length(s.d_ff)
    writer.add_head_count(s.n_head)
    writer.add_layer_norm_eps(s.eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(1)
    writer.add_vocab_size(s.n_vocab)
    add_vocabulary(writer, vocabulary)
    writer.add_tensor("token_types.weight", torch.zeros(1, s.d_model).numpy())
    for name, tensor in model.state_dict().items():
        data = tensor.detach().float().numpy()
        # Positions are read by row as F32; of the rest, matrices are Q8_0.
        if data.ndim == 2 and not name.startswith("position_embd"):
            writer.add_tensor(name, gguf.quants.quantize(data, _Q8), raw_dtype=_Q8)
        else:
            writer.add_tensor(name, data)
    finish(writer)
