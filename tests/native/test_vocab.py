"""Text survives encoding and decoding; special tokens are known for what they are."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.native.library import library
from llamahost.native.model import Model
from llamahost.native.vocab import Vocab
from tests.gguf_models import BOS, EOS, IM_END, IM_START, MARKERS, SPECIALS, write_model


@pytest.fixture(scope="module")
def vocab(tiny_llama: Path) -> Iterator[Vocab]:
    with Model.open(tiny_llama) as model:
        yield model.vocab


@given(text=st.text())
def test_any_text_comes_back(vocab: Vocab, text: str) -> None:
    assert vocab.decode(vocab.encode(text, add_special=False, parse_special=False)) == text.encode()


def test_nul_and_lone_surrogates_are_characters(vocab: Vocab) -> None:
    def through(text: str) -> bytes:
        return vocab.decode(vocab.encode(text, add_special=False, parse_special=False))

    assert through("a\0b") == b"a\0b"
    assert through("a\ud800b") == "a\ufffdb".encode()
    assert through("\ud83d\ude00") == "\U0001f600".encode()
    assert through("") == b""


def test_a_long_text_that_makes_a_token_of_each_byte(vocab: Vocab) -> None:
    text = "\u00ff\u4e00" * 20000
    assert vocab.decode(vocab.encode(text, add_special=True, parse_special=True)) == text.encode()


def test_special_spellings_are_tokens_only_when_told(vocab: Vocab) -> None:
    told = vocab.encode("<|im_start|>user", add_special=False, parse_special=True)
    assert told[0] == IM_START
    plain = vocab.encode("<|im_start|>user", add_special=False, parse_special=False)
    assert IM_START not in plain
    assert vocab.decode(plain) == b"<|im_start|>user"


def test_bos_is_added_when_told(vocab: Vocab) -> None:
    assert vocab.adds_bos
    assert vocab.fim_ids is None
    assert vocab.encode("a", add_special=True, parse_special=False)[0] == vocab.bos == BOS
    assert vocab.encode("a", add_special=False, parse_special=False)[0] != BOS


def test_control_tokens_never_show_and_markers_do(vocab: Vocab) -> None:
    assert vocab.pieces[: len(SPECIALS)] == tuple(special.encode() for special in SPECIALS)
    assert vocab.is_control == bytes([1] * len(SPECIALS)) + bytes(vocab.n_tokens - len(SPECIALS))
    assert vocab.decode(array("i", [IM_START, 4, IM_END])) == MARKERS[0].encode()


def test_every_end_token_is_known(vocab: Vocab) -> None:
    assert vocab.end_ids == {EOS, IM_END}
    assert vocab.eos == EOS


def test_all_pieces_together_are_all_bytes(vocab: Vocab) -> None:
    assert {piece for piece in vocab.pieces if len(piece) == 1} == {bytes([b]) for b in range(256)}


def test_pieces_of_any_length_are_read(tmp_path: Path) -> None:
    """Longer than the room that is given to each at first."""
    path = write_model(tmp_path / "plain.gguf")
    spelling = b"<think>"
    long = b"<" + b"x" * (len(spelling) - 1 + 32 * 150)  # grown by a multiple of 32, so the data stays aligned
    old, new = (len(word).to_bytes(8, "little") + word for word in (spelling, long))
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with Model.open(path) as model:
        assert model.vocab.pieces[4] == long


def test_importing_llamahost_native_does_not_load_the_library() -> None:
    import subprocess
    import sys

    code = "import sys, llamahost.native.backend; sys.exit('llama_cpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_library_is_loaded_once() -> None:
    assert library() is library()
    assert library().binding_version


def test_a_model_that_fills_in_says_with_which_tokens(model_folder: Path) -> None:
    with Model.open(write_model(model_folder / "fills-in.gguf", has_fim=True)) as model:
        assert model.vocab.fim_ids == (4, 5, 6)
        assert [model.vocab.pieces[token] for token in model.vocab.fim_ids] == [b"<before>", b"<after>", b"<between>"]
        assert model.vocab.decode(array("i", [4, 5, 6])) == b""


def test_mistrals_marks_are_known_by_their_spelling_and_have_no_third(model_folder: Path) -> None:
    with Model.open(write_model(model_folder / "fills-in-as-codestral.gguf", has_fim="mistral")) as model:
        assert model.vocab.fim_ids == (5, 4, -1)
