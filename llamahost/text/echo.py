"""A prompt told again: where in its text each of its tokens begins. Knows a vocabulary's pieces; no answer.

Laws: the offsets ascend from 0 and stay within the text, so slices between them are the text again. Of a prompt given
as tokens the text is what they decode to, and a control token shows nothing. Of one given as text it is that very text,
in which control tokens are spelled; what the tokeniser put around it (a beginning, a space) shows nothing.
"""

from __future__ import annotations

import codecs
from array import array
from dataclasses import dataclass, field

from llamahost.core.backend import Vocabulary
from llamahost.core.work import Tokens


@dataclass(frozen=True, slots=True)
class Echo:
    """`text` is shown. `tokens`, each at its offset in the prompt's text, are those to be told with their scores."""

    text: str = ""
    tokens: Tokens = field(default_factory=lambda: array("i"))
    offsets: array[int] = field(default_factory=lambda: array("i"))


def scored_echo(vocabulary: Vocabulary, tokens: Tokens, given: str | None, *, is_shown: bool) -> Echo:
    """The echo of a prompt whose tokens are scored; `given` is its text, where it was given as one."""
    pieces, is_control = vocabulary.pieces, vocabulary.is_control
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets, texts, n = array("i"), list[str](), 0
    for token in tokens:
        offsets.append(n)
        if given is not None or not is_control[token]:
            text = decoder.decode(pieces[token])
            texts.append(text)
            n += len(text)
    texts.append(decoder.decode(b"", True))
    spelled = "".join(texts)
    if given is None:
        return Echo(spelled if is_shown else "", tokens, offsets)
    n_given = len(given)
    # Where a tokeniser changes the text itself (case, accents), it is not found, and the offsets are near the truth.
    before = len(spelled) - n_given if spelled.endswith(given) else max(spelled.find(given), 0)
    offsets = array("i", [min(max(offset - before, 0), n_given) for offset in offsets])
    return Echo(given if is_shown else "", tokens, offsets)
