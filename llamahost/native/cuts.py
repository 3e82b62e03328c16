"""Where a text may be cut so that its parts tokenise to the same tokens as the whole. Knows how llama.cpp partitions.

`llama_tokenize` takes special tokens out of the text first, those of the longest spelling before the others, and then
tokenises what lies between them, piece by piece. A piece knows nothing of the others, but whether it follows a special
token. So a text may be cut *before* a special token that is certain to be taken out wherever it is spelled:

    law: no token of the same or a longer spelling can overlap with it, so nothing takes a part of it first
    law: it does not overlap with itself, so that its places in a part are its places in the whole
    law: it takes no space to its left with it (LSTRIP), which would be in the part before
    law: it neither begins nor ends with a space, so that the stripping of others (RSTRIP, LSTRIP) ends at it
"""

from __future__ import annotations

from collections.abc import Iterable

from llamahost.native.library import Library

_SPM, _BPE, _WPM = 1, 2, 3  # kinds of vocabularies that were read and are held to this by tests
_UNKNOWN, _CONTROL, _USER_DEFINED, _LSTRIP = 1 << 0, 1 << 3, 1 << 4, 1 << 7
_SPECIAL = _UNKNOWN | _CONTROL | _USER_DEFINED


def cuts_in(text: str, library: Library, pointer: int, n_tokens: int) -> dict[str, int]:
    """Control tokens that `text` (a chat template, say) spells and before which a prompt may be cut."""
    c, quick = library.c, library.quick
    if c.llama_vocab_type(pointer) not in (_SPM, _BPE, _WPM):
        return {}
    spelled = text.encode("utf-8", "replace")
    specials: list[bytes] = []
    candidates: dict[bytes, int] = {}
    for token in range(n_tokens):
        attributes = quick.vocab_get_attr(pointer, token)
        if not attributes & _SPECIAL:
            continue
        spelling: bytes = c.llama_vocab_get_text(pointer, token)
        specials.append(spelling)
        if attributes & _CONTROL and not attributes & _LSTRIP and spelling and spelling in spelled:
            candidates[spelling] = token
    return {
        spelling.decode(): token
        for spelling, token in candidates.items()
        if _is_utf8(spelling) and is_always_taken_out(spelling, specials)
    }


def is_always_taken_out(spelling: bytes, specials: Iterable[bytes]) -> bool:
    """`specials` are the spellings of all special tokens, this one among them: once, or it is not this one alone."""
    if spelling[:1].isspace() or spelling[-1:].isspace() or _meets(spelling, spelling):
        return False
    n_same = 0
    for other in specials:
        if len(other) < len(spelling):
            continue  # looked for when this one has been taken out already
        if other == spelling:
            n_same += 1
        elif spelling in other or _meets(spelling, other) or _meets(other, spelling):
            return False
    return n_same == 1


def _meets(left: bytes, right: bytes) -> bool:
    """Whether `left` could end in what `right` begins with, without being it whole."""
    return any(left.endswith(right[:n]) for n in range(1, min(len(left), len(right))))


def _is_utf8(spelling: bytes) -> bool:
    try:
        spelling.decode()
    except UnicodeDecodeError:
        return False
    return True
