"""A prompt tokenised in remembered parts has exactly the tokens of the whole, whatever the vocabulary and the text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.native.cuts import cuts_in, is_always_taken_out
from llamahost.native.library import library
from llamahost.native.vocab import Vocab
from llamahost.text.remembered import Remembered
from tests.gguf_vocabularies import CONTROLS, MARKERS, WORDS, opened, write_vocabulary

KINDS = ["bpe", "spm", "wpm", "bpe phi-3", "spm phi-3", "spm eos"]

spelled = st.sampled_from(
    [*CONTROLS, *MARKERS, *(control[:-1] for control in CONTROLS), "<|", "|>", "[INST", "][INST]"]
)
spaces = st.sampled_from([" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2581", "\u3000", "\0"])
words = st.one_of(st.sampled_from(WORDS), st.text(max_size=6), st.text("aehinrt \n", max_size=8))
texts = st.lists(st.one_of(spelled, spaces, words), max_size=24).map("".join)


def cuts_of(vocab: Vocab) -> dict[str, int]:
    controls = [vocab.pieces[token].decode() for token in range(vocab.n_tokens) if vocab.is_control[token]]
    return cuts_in(" ".join(controls), library(), vocab.pointer, vocab.n_tokens)


@pytest.fixture(scope="module", params=KINDS)
def vocab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocab]:
    kind, _, more = request.param.partition(" ")
    path = tmp_path_factory.mktemp("vocabulary") / "v.gguf"
    with opened(write_vocabulary(path, kind, more or "plain", adds_eos=more == "eos")) as vocab:
        yield vocab


@pytest.fixture(scope="module")
def cuts(vocab: Vocab) -> dict[str, int]:
    return cuts_of(vocab)


def same(vocab: Vocab, remembered: Remembered, text: str) -> None:
    for add_special in (False, True):
        whole = vocab.encode(text, add_special=add_special, parse_special=True)
        for _ in range(2):  # what is new, and what is remembered
            assert remembered.encode(text, add_special=add_special, parse_special=True) == whole


@given(asked=st.lists(texts, min_size=1, max_size=4), max_bytes=st.sampled_from([0, 1500, 10**6]))
def test_the_parts_tokens_are_those_of_the_whole(
    vocab: Vocab, cuts: dict[str, int], asked: list[str], max_bytes: int
) -> None:
    remembered = Remembered(vocab, cuts, max_bytes=max_bytes, n_whole=0)
    for text in asked:
        same(vocab, remembered, text)


def test_so_are_those_of_a_text_with_lone_surrogates_and_of_one_that_is_long(
    vocab: Vocab, cuts: dict[str, int]
) -> None:
    remembered = Remembered(vocab, cuts, n_whole=0)
    same(vocab, remembered, "the\ud800<|im_end|>\udc00 the")
    turns = "".join(f"<|im_start|>user\n{k} the thing<|im_end|>\n" for k in range(300))
    same(vocab, remembered, turns)
    same(vocab, remembered, turns + "<|im_start|>model\n")


def test_only_what_is_always_taken_out_whole_is_a_cut(cuts: dict[str, int]) -> None:
    assert set(cuts) == {"<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "[/INST]"}


@pytest.mark.parametrize("name", ["stories260K", "tinytalk-3M-chat-q8_0", "all-MiniLM-L6-v2-q8_0"])
def test_trained_vocabularies_keep_the_law(shared_models: Path, name: str) -> None:
    with opened(shared_models / f"{name}.gguf") as vocab:
        cuts = cuts_of(vocab)
        assert cuts
        remembered = Remembered(vocab, cuts, n_whole=0)
        inside = ["once upon a time", " ", "\n\n", "", "Caf\u00e9 \u4e2d\u6587 ", "</s", "<|endoftext|", "[SEP"]
        for cut in cuts:
            for before in inside:
                for after in inside:
                    same(vocab, remembered, f"{before}{cut}{after}{cut}{before}")


@pytest.mark.parametrize(
    ("spelling", "specials", "is_one"),
    [
        (b"<a>", [b"<a>", b"<b>"], True),
        (b"<a>", [b"<a>", b"<a>"], False),  # which of the two it becomes is not known
        (b"<a>", [b"<a>", b"x<a>"], False),  # a longer one holds it
        (b"<a>", [b"<a>", b"a>bcd"], False),  # a longer one begins with its end
        (b"<a>", [b"<a>", b"bcd<a"], False),  # a longer one ends in its beginning
        (b"<a>", [b"<a>", b"a>b"], False),  # one of the same length, and the order is not known
        (b"<a>", [b"<a>", b">b"], True),  # a shorter one comes later
        (b"aba", [b"aba"], False),  # overlaps with itself
        (b" <a>", [b" <a>"], False),
        (b"<a>\n", [b"<a>\n"], False),
    ],
)
def test_overlaps_are_seen(spelling: bytes, specials: list[bytes], is_one: bool) -> None:
    assert is_always_taken_out(spelling, specials) is is_one
