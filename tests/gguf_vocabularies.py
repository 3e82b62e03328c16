"""Write GGUF files that hold a vocabulary and no weights, of the kinds that models have, and open them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf

from llamahost.native.library import library
from llamahost.native.vocab import Vocab
from tests.gguf_models import byte_spellings

CONTROLS = ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im|>", "[INST]", "[/INST]")
"""Control tokens, ids 0-8; the first is the unknown one, then come beginning and end."""

MARKERS = ("<tool>", "\n\n", "end|><|im", "[INST][INST]")
"""User-defined tokens: one of spaces, and two that overlap with control tokens."""

WORDS = ("the", "ing", "he", "in", "th", "er", "an", "user", "model", "\u4e2d\u6587")

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6


def write_vocabulary(path: Path, kind: str, name: str = "vocabulary", *, adds_eos: bool = False) -> Path:
    """`kind`: bpe, spm or wpm. A `name` with phi-3 in it makes special tokens swallow the spaces after them."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    tokens = [*CONTROLS, *MARKERS]
    types = [_UNKNOWN, *[_CONTROL] * (len(CONTROLS) - 1), *[_USER_DEFINED] * len(MARKERS)]
    letters = "abcdefghijklmnopqrstuvwxyz<>|[]/_IMNST\u4e2d\u6587"
    match kind:
        case "spm":
            writer.add_tokenizer_model("llama")
            bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
            plain = ["\u2581", *letters, *WORDS, *("\u2581" + word for word in WORDS), "\u2581\u2581"]
            types += [_BYTE] * 256
            tokens += [*bytes_, *plain]
        case "wpm":
            writer.add_tokenizer_model("bert")
            plain = [*("\u2581" + letter for letter in letters), *letters, *("\u2581" + word for word in WORDS), *WORDS]
            tokens += plain
            writer.add_sep_token_id(2)
        case "bpe":
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre("llama-bpe")
            plain = [*byte_spellings(), "th", "the", "in", "ing", "er", "\u0120t", "\u0120th"]
            tokens += plain
            writer.add_token_merges(["t h", "th e", "i n", "in g", "e r", "\u0120 t", "\u0120t h"])
    types += [_NORMAL] * len(plain)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_scores([-float(k) for k in range(len(tokens))])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_eos_token(adds_eos)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextmanager
def opened(path: Path) -> Iterator[Vocab]:
    """The vocabulary of any GGUF file, without its weights."""
    found = library()
    params = found.c.llama_model_default_params()
    params.vocab_only = True
    model = found.c.llama_model_load_from_file(str(path).encode(), params)
    assert model, f"{path} does not open"
    try:
        yield Vocab(found, found.c.llama_model_get_vocab(model))
    finally:
        found.c.llama_model_free(model)
