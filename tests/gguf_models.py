"""Make tiny random-weight GGUF files. Knows the layouts of four architectures; nothing of llamahost.

The vocabulary is a byte-complete BPE (gpt-2 rules), so any text encodes and decodes to itself. Weights are scaled so
that logits have a spread of a few units. The output rows of special tokens are zero, so a model hardly ever says one
by itself: lengths of answers stay in the hands of the test, which can bias a special token upwards when it wants one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt

Architecture = Literal["llama", "swa", "recurrent", "hybrid"]
DType = Literal["f32", "f16", "q8_0"]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SPECIALS = ("<|endoftext|>", "<|begin|>", "<|im_start|>", "<|im_end|>")
"""Control tokens, ids 0-3: end of text (eog), beginning, start and end of a turn (eog)."""

MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""User-defined tokens, ids 4-7: they are read whole, and they show."""

FIM_MARKERS = ("<before>", "<after>", "<between>")
"""Control tokens, ids 4-6 in the markers' place, of a model that fills in."""

MISTRALS_MARKERS = ("[SUFFIX]", "[PREFIX]")

EOS, BOS, IM_START, IM_END = range(4)
N_SPECIAL = len(SPECIALS) + len(MARKERS)
MIN_VOCAB = N_SPECIAL + 256

_NAMES = {"llama": "llama", "swa": "gemma3", "recurrent": "mamba2", "hybrid": "granitehybrid"}
_CONTROL, _USER_DEFINED, _NORMAL = 3, 4, 1
_TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sizes:
    """What a file is made of. `n_swa` matters to "swa" alone, `n_state` to the two that recur."""

    n_vocab: int
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_ff: int
    n_ctx: int
    n_swa: int
    n_state: int


def byte_spellings() -> list[str]:
    """The printable character that gpt-2 BPE writes for each byte."""
    own = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in own else next(others)) for byte in range(256)]


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs of letters, then triples, then fours, each with and without a space before."""
    firsts = "Ġ" + ascii_lowercase
    pairs = (("".join(p[:1]), p[1]) for p in product(firsts, ascii_lowercase))
    triples = ((a + b, c) for a, b, c in product(firsts, ascii_lowercase, ascii_lowercase))
    fours = ((a + b + c, d) for a, b, c, d in product(firsts, *[ascii_lowercase] * 3))
    return chain(pairs, triples, fours)


def add_tokenizer(writer: gguf.GGUFWriter, n_vocab: int, *, has_fim: bool | Literal["mistral"] = False) -> None:
    merges = list(islice(_merges(), n_vocab - MIN_VOCAB))
    markers: tuple[str, ...] = MARKERS
    n_controls = len(SPECIALS)
    if has_fim == "mistral":  # told by their spelling alone
        markers, n_controls = (*MISTRALS_MARKERS, *MARKERS[len(MISTRALS_MARKERS) :]), n_controls + len(MISTRALS_MARKERS)
    elif has_fim:
        markers, n_controls = (*FIM_MARKERS, *MARKERS[len(FIM_MARKERS) :]), n_controls + len(FIM_MARKERS)
        for k, name in enumerate(("pre", "suf", "mid")):
            writer.add_uint32(f"tokenizer.ggml.fim_{name}_token_id", len(SPECIALS) + k)
    tokens = [*SPECIALS, *markers, *byte_spellings(), *(a + b for a, b in merges)]
    types = [_CONTROL] * n_controls + [_USER_DEFINED] * (N_SPECIAL - n_controls)
    types += [_NORMAL] * (n_vocab - N_SPECIAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{a} {b}" for a, b in merges] or ["Ġ a"])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_eot_token_id(IM_END)
    writer.add_add_bos_token(True)


class Weights:
    """Draws tensors from one seed and hands them to the writer."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int, dtype: DType) -> None:
        self._writer = writer
        self._random = np.random.default_rng(seed)
        self._type = _TYPES[dtype]

    def add(self, name: str, data: Array) -> None:
        self._writer.add_tensor(name, np.ascontiguousarray(data, dtype=np.float32))

    def matrix(self, name: str, n_out: int, n_in: int, *, scale: float = 1.0, zero_rows: int = 0) -> None:
        """A projection that keeps the spread of what it is given, times `scale`."""
        data = self._random.standard_normal((n_out, n_in), dtype=np.float32) * (scale / np.sqrt(n_in))
        data[:zero_rows] = 0
        if self._type == gguf.GGMLQuantizationType.F32:
            self.add(name, data)
            return
        self._writer.add_tensor(name, gguf.quants.quantize(data, self._type), raw_dtype=self._type)

    def ones(self, name: str, n: int) -> None:
        self.add(name, np.ones(n, dtype=np.float32))

    def bias(self, name: str, n: int) -> None:
        self.add(name, self._random.standard_normal(n, dtype=np.float32) * np.float32(0.1))

    def noise(self, name: str, *shape: int, low: float, high: float) -> None:
        self.add(name, self._random.uniform(low, high, shape).astype(np.float32))


def _add_attention(weights: Weights, block: str, s: Sizes) -> None:
    head = s.n_embd // s.n_head
    weights.matrix(f"{block}.attn_q.weight", s.n_embd, s.n_embd, scale=1.5)
    weights.matrix(f"{block}.attn_k.weight", s.n_head_kv * head, s.n_embd, scale=1.5)
    weights.matrix(f"{block}.attn_v.weight", s.n_head_kv * head, s.n_embd)
    weights.matrix(f"{block}.attn_output.weight", s.n_embd, s.n_embd, scale=2.0)


def _add_feed_forward(weights: Weights, block: str, s: Sizes) -> None:
    weights.ones(f"{block}.ffn_norm.weight", s.n_embd)
    weights.matrix(f"{block}.ffn_gate.weight", s.n_ff, s.n_embd)
    weights.matrix(f"{block}.ffn_up.weight", s.n_ff, s.n_embd)
    weights.matrix(f"{block}.ffn_down.weight", s.n_embd, s.n_ff)


def _add_state_space(weights: Weights, block: str, s: Sizes) -> None:
    """A mamba2 mixer of one group; `n_head` heads."""
    inner = 2 * s.n_embd
    conv = inner + 2 * s.n_state
    weights.matrix(f"{block}.ssm_in.weight", inner + conv + s.n_head, s.n_embd)
    weights.noise(f"{block}.ssm_conv1d.weight", conv, 4, low=-0.7, high=0.7)
    weights.noise(f"{block}.ssm_conv1d.bias", conv, low=-0.1, high=0.1)
    weights.noise(f"{block}.ssm_dt.bias", s.n_head, low=-2.0, high=0.0)
    weights.noise(f"{block}.ssm_a", s.n_head, 1, low=-1.0, high=-0.1)
    weights.noise(f"{block}.ssm_d", s.n_head, 1, low=0.5, high=1.5)
    weights.add(f"{block}.ssm_norm.weight", np.ones((1, inner), dtype=np.float32))
    weights.matrix(f"{block}.ssm_out.weight", s.n_embd, inner, scale=2.0)


def _add_state_space_sizes(writer: gguf.GGUFWriter, s: Sizes) -> None:
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(2 * s.n_embd)
    writer.add_ssm_state_size(s.n_state)
    writer.add_ssm_time_step_rank(s.n_head)
    writer.add_ssm_group_count(1)


def _add_block(weights: Weights, architecture: Architecture, layer: int, s: Sizes) -> None:
    block = f"blk.{layer}"
    weights.ones(f"{block}.attn_norm.weight", s.n_embd)
    if architecture == "recurrent" or (architecture == "hybrid" and layer % 2 == 0):
        _add_state_space(weights, block, s)
    else:
        _add_attention(weights, block, s)
    if architecture == "swa":
        head = s.n_embd // s.n_head
        weights.ones(f"{block}.attn_q_norm.weight", head)
        weights.ones(f"{block}.attn_k_norm.weight", head)
        weights.ones(f"{block}.post_attention_norm.weight", s.n_embd)
        weights.ones(f"{block}.post_ffw_norm.weight", s.n_embd)
    if architecture != "recurrent":
        _add_feed_forward(weights, block, s)


def _add_sizes(writer: gguf.GGUFWriter, architecture: Architecture, s: Sizes) -> None:
    writer.add_context_length(s.n_ctx)
    writer.add_embedding_length(s.n_embd)
    writer.add_block_count(s.n_layer)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(s.n_vocab)
    if architecture == "recurrent":
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
        _add_state_space_sizes(writer, s)
        return
    writer.add_feed_forward_length(s.n_ff)
    writer.add_head_count(s.n_head)
    writer.add_rope_dimension_count(s.n_embd // s.n_head)
    if architecture == "hybrid":
        writer.add_head_count_kv([0 if layer % 2 == 0 else s.n_head_kv for layer in range(s.n_layer)])
        _add_state_space_sizes(writer, s)
    else:
        writer.add_head_count_kv(s.n_head_kv)
    if architecture == "swa":
        writer.add_key_length(s.n_embd // s.n_head)
        writer.add_value_length(s.n_embd // s.n_head)
        writer.add_sliding_window(s.n_swa)
        writer.add_sliding_window_pattern([layer % 2 == 0 for layer in range(s.n_layer)])


def write_model(
    path: Path,
    architecture: Architecture = "llama",
    *,
    n_vocab: int = 512,
    n_embd: int = 64,
    n_layer: int = 2,
    n_head: int = 4,
    n_head_kv: int | None = None,
    n_ff: int | None = None,
    n_ctx: int = 1024,
    n_swa: int = 32,
    n_state: int = 16,
    chat_template: str | Sequence[Mapping[str, str]] | None = CHATML,
    dtype: DType = "f32",
    name: str | None = None,
    seed: int = 0,
    has_fim: bool | Literal["mistral"] = False,
    has_output: bool = True,
    metadata: Mapping[str, float | str | np.uint32] | None = None,
    split_max_tensors: int = 0,
) -> Path:
    """Write a GGUF file of the architecture to `path`; equal arguments make equal bytes.

    With `split_max_tensors` it is several files beside each other, named after `path` as llama.cpp wants.
    """
    if n_vocab < MIN_VOCAB:
        raise ValueError(f"the vocabulary needs at least {MIN_VOCAB} tokens: all bytes and the special ones")
    s = Sizes(
        n_vocab=n_vocab,
        n_embd=n_embd,
        n_layer=n_layer,
        n_head=n_head,
        n_head_kv=n_head_kv or n_head,
        n_ff=n_ff or 2 * n_embd,
        n_ctx=n_ctx,
        n_swa=n_swa,
        n_state=n_state,
    )
    writer = gguf.GGUFWriter(path, _NAMES[architecture], split_max_tensors=split_max_tensors)
    writer.add_name(name or f"tiny {architecture}")
    _add_sizes(writer, architecture, s)
    add_tokenizer(writer, n_vocab, has_fim=has_fim)
    for key, value in (metadata or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, np.uint32):
            writer.add_uint32(key, int(value))
        elif isinstance(value, int):
            writer.add_int32(key, value)
        else:
            writer.add_float32(key, value)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    weights = Weights(writer, seed, dtype)
    # gemma3 multiplies embeddings by sqrt(n_embd) itself; the others want them of unit spread.
    weights.matrix("token_embd.weight", n_vocab, n_embd, scale=1.0 if architecture == "swa" else float(np.sqrt(n_embd)))
    weights.ones("output_norm.weight", n_embd)
    if has_output:  # else the embeddings are read as the output too
        weights.matrix("output.weight", n_vocab, n_embd, scale=3.0, zero_rows=N_SPECIAL)
    for layer in range(n_layer):
        _add_block(weights, architecture, layer, s)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_vocabulary_free(path: Path, metadata: dict[str, Any]) -> Path:
    """A GGUF file with these keys and no tensor: valid as a file, useless as a model."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        writer.add_string(key, str(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
