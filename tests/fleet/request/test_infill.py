"""What stands around a gap, as tokens: in llama.cpp's order, cut where it must be, not elsewhere each time."""

from __future__ import annotations

from array import array

import pytest

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import Snippet
from llamahost.core.work import Tokens
from llamahost.fleet.request.infill import Filled, behind_a_mark, filled_in
from tests.text.vocabulary import BOS, ByteVocabulary

PRE, SUF, MID, REPO, FILE = 259, 260, 261, 262, 263
OTHERS = (Snippet("first", "a.py"), Snippet("second"))


def of(
    prefix: str, suffix: str, snippets: tuple[Snippet, ...] = (), *, n_room: int = 1000, has_files: bool = True
) -> Filled:
    vocabulary = ByteVocabulary()
    vocabulary.fim_ids = (PRE, SUF, MID)
    vocabulary.fim_files = (REPO, FILE) if has_files else (-1, -1)
    return filled_in(vocabulary, prefix, suffix, snippets, n_room=n_room, model="m")


def tokens(*parts: int | str) -> array[int]:
    made = array("i")
    for part in parts:
        made.extend([part] if isinstance(part, int) else part.encode())
    return made


def test_the_parts_stand_in_llama_cpps_order() -> None:
    assert of("ab", "cd") == Filled(tokens(BOS, PRE, "ab", SUF, "cd", MID), False)
    files = (REPO, "myproject\n", FILE, "a.py\nfirst", FILE, "tmp\nsecond", FILE, "filename\n")
    assert of("ab", "", OTHERS).tokens == tokens(BOS, *files, PRE, "ab", SUF, MID)
    parting = "\n\n--- snippet ---\n\n"
    plain = of("ab", "cd", OTHERS, has_files=False).tokens
    assert plain == tokens(BOS, parting + "first" + parting + "second", PRE, "ab", SUF, "cd", MID)
    assert of("<s>", "").tokens == tokens(BOS, PRE, "<s>", SUF, MID), "what is text stays text"


def test_mistrals_models_read_the_suffix_first() -> None:
    vocabulary = ByteVocabulary()
    vocabulary.fim_ids = (PRE, SUF, -1)
    found = filled_in(vocabulary, "ab", "cd", OTHERS[:1], n_room=1000, model="m")
    parting = "\n\n--- snippet ---\n\n"
    assert found == Filled(tokens(BOS, parting + "first", SUF, "cd", PRE, "ab"), False)


class _Spaced(ByteVocabulary):
    """Begins every text with a space, as SentencePiece does."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        return super().encode(f" {text}" if text else "", add_special=add_special, parse_special=parse_special)


@pytest.mark.parametrize("suffix", ["cd", " cd", "", "\u00e4"])
def test_no_space_is_put_before_a_suffix(suffix: str) -> None:
    assert behind_a_mark(_Spaced(), suffix) == tokens(suffix)
    assert behind_a_mark(ByteVocabulary(), suffix) == tokens(suffix)


@pytest.mark.parametrize("n_room", [5, 12, 40, 41, 100, 204])
def test_what_is_too_long_is_cut_and_told_and_what_is_near_the_gap_stays(n_room: int) -> None:
    found = of("a" * 98 + "bc", "de" + "f" * 98, n_room=n_room)
    assert len(found.tokens) <= n_room
    assert found.is_cut == (n_room < 204)
    head = found.tokens[found.tokens.index(PRE) + 1 : found.tokens.index(SUF)]
    tail = found.tokens[found.tokens.index(SUF) + 1 : -1]
    assert ("a" * 98 + "bc").endswith(bytes(list(head)).decode())
    assert ("de" + "f" * 98).startswith(bytes(list(tail)).decode())
    assert n_room < 12 or (head and tail)


def test_other_files_are_kept_whole_the_last_first() -> None:
    n_all = len(of("ab", "cd", OTHERS).tokens)
    fewer = of("ab", "cd", OTHERS, n_room=n_all - 1)
    assert fewer == (of("ab", "cd", OTHERS[1:]).tokens, True)
    assert of("ab", "cd", OTHERS, n_room=30) == (of("ab", "cd").tokens, True)


def test_the_cut_stays_while_somebody_types() -> None:
    """So that what stands behind it is found in the cache."""
    text = "".join(chr(97 + k % 26) for k in range(400))
    starts = {bytes(list(of(text[:n], "xy", n_room=200).tokens[2:8])) for n in range(300, 320)}
    assert len(starts) <= 2


def test_a_model_that_was_not_trained_to_fill_in_is_refused_and_so_is_an_answer_that_leaves_no_room() -> None:
    with pytest.raises(InvalidRequest, match="does not fill in"):
        filled_in(ByteVocabulary(), "a", "b", (), n_room=100, model="m")
    with pytest.raises(InvalidRequest, match="no room"):
        of("a", "b", n_room=4)
