"""The network: a qwen2 of llama.cpp's making (RMSNorm, RoPE, grouped queries, SwiGLU, tied embeddings) in PyTorch.

Knows weights; knows no text. Its parameters are named and laid out as in the GGUF file, so that exporting
and resuming are copies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from tools.train_builtin.shape import Shape


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d, q, kv = shape.d_model, shape.n_head * shape.d_head, shape.n_kv * shape.d_head
        self.shape = shape
        self.attn_norm = nn.Parameter(torch.ones(d))
        self.ffn_norm = nn.Parameter(torch.ones(d))
        self.attn_q = nn.Linear(d, q)
        self.attn_k = nn.Linear(d, kv)
        self.attn_v = nn.Linear(d, kv)
        self.attn_output = nn.Linear(q, d, bias=False)
        self.ffn_gate = nn.Linear(d, shape.d_ff, bias=False)
        self.ffn_up = nn.Linear(d, shape.d_ff, bias=False)
        self.ffn_down = nn.Linear(shape.d_ff, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, lengths: tuple[int, ...]) -> Tensor:
        s = self.shape
        h = rms_norm(x, (s.d_model,), self.attn_norm, s.eps)
        q = _turned(self.attn_q(h).view(-1, s.n_head, s.d_head), cos, sin)
        k = _turned(self.attn_k(h).view(-1, s.n_kv, s.d_head), cos, sin)
        v = self.attn_v(h).view(-1, s.n_kv, s.d_head)
        groups = s.n_head // s.n_kv
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        # Each example by itself: no mask is read, and no product with a neighbour is made to be thrown away.
        parts = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
        seen = torch.cat([_causal(*part) for part in parts])
        x = x + self.attn_output(seen.view(len(x), -1))
        h = rms_norm(x, (s.d_model,), self.ffn_norm, s.eps)
        return x + self.ffn_down(silu(self.ffn_gate(h)) * self.ffn_up(h))


class Model(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.n_vocab, shape.d_model)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.output_norm = nn.Parameter(torch.ones(shape.d_model))
        angles = torch.arange(shape.n_ctx).float()[:, None] * frequencies(shape)[None, :]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def hidden(self, tokens: Tensor, positions: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """The last layer's states, normed, of examples that lie one after the other; [time, d_model]."""
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]  # type: ignore[index]  # buffers, which torch tells as modules too
        x = self.token_embd(tokens)
        for block in self.blk:
            x = block(x, cos, sin, lengths)
        return rms_norm(x, (self.shape.d_model,), self.output_norm, self.shape.eps)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.token_embd.weight.T


def frequencies(shape: Shape) -> Tensor:
    half = shape.d_head // 2
    return shape.rope_base ** (-torch.arange(half).float() / half)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One example's attention; all are [time, heads, d_head]."""
    q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE in the order of NeoX: each component of the first half turns with its fellow of the second."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


@torch.no_grad()
def initialise(model: Model, seed: int, *, has_copying: bool = True) -> None:
    """Random weights of the usual scale, and one circuit made by hand: the heads that copy.

    Names, arguments, numbers and recall are all copying, and to find the heads for it is what a small model spends
    its first millions of tokens on. So they are there from the beginning, for training to sharpen (`_copying`).
    """
    s = model.shape
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(model.token_embd.weight, std=EMBEDDING_STD, generator=generator)
    for block in model.blk:
        for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"):
            linear = getattr(block, name)
            nn.init.normal_(linear.weight, std=s.d_model**-0.5, generator=generator)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        nn.init.zeros_(block.attn_output.weight)
        nn.init.zeros_(block.ffn_down.weight)
    if has_copying and s.n_layer > 1 and s.n_head // s.n_kv >= 2 and s.d_model >= 3 * s.d_head:
        _copying(model, generator)


EMBEDDING_STD = 0.05
_LOOK = 5.0  # size of the biases by which a head looks back; margin of the logits about 4
_WRITE = 0.1  # of what was there before, beside embeddings of 0.05
_MATCH = 2.0  # of queries and keys that compare tokens
_SAY = 2.0  # of the token that is copied


def _copying(model: Model, generator: torch.Generator) -> None:
    """Heads of layer 0 that note which token stood one and two places before; a head of layer 1 that looks for the
    place where those are the current and the last token, and says what stands there.

    RoPE turns queries and keys by their distance: biases turned against each other look a fixed distance back, and
    comparing is left to the components that turn so slowly that distance does not matter.
    """
    s = model.shape
    size, half = s.d_head, s.d_head // 2
    first, second = model.blk[0], model.blk[1]
    basis = torch.linalg.qr(torch.randn(s.d_model, s.d_model, generator=generator))[0].T
    read, one, two = (basis[k * size : (k + 1) * size] for k in range(3))  # each [d_head, d_model]
    theta = frequencies(s)
    quick = slice(0, 6)
    first.attn_k.weight[:size] *= 0.1
    first.attn_k.bias[quick] = _LOOK
    first.attn_v.weight[:size] = read
    for head, note in ((0, one), (1, two)):
        rows = slice(head * size, (head + 1) * size)
        first.attn_q.weight[rows] *= 0.1
        bias = first.attn_q.bias[rows]
        bias[quick] = _LOOK * (theta[quick] * (head + 1)).cos()
        bias[half : half + 6] = -_LOOK * (theta[quick] * (head + 1)).sin()
        first.attn_output.weight[:, rows] = _WRITE * note.T
    slow = [i for i in range(half) if theta[i] < 0.03]
    slow += [half + i for i in slow]
    here, before = slow[: 3 * len(slow) // 5], slow[3 * len(slow) // 5 :]
    for rows in (slice(0, size), slice(size, 2 * size)):
        query = second.attn_q.weight[rows]
        query.zero_()
        query[here] = _MATCH * read[here]
        query[before] = _MATCH * one[before]
    key = second.attn_k.weight[:size]
    key.zero_()
    key[here] = _MATCH * one[here]
    key[before] = _MATCH * two[before]
    second.attn_v.weight[:size] = read
    second.attn_output.weight[:, :size] = _SAY * read.T
