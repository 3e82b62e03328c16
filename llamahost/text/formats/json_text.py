"""Read one JSON value out of a coming text, told in pieces as it comes. Knows no schema.

What models get wrong and everybody understands is mended: control characters in strings, Python's True, False, None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from llamahost.text.formats.script import Script, Steps

MAX_DEPTH = 512
"""Of values in one another: Python's own reader goes no deeper than about a thousand."""

MAX_NUMBER = 400
"""Characters; what is longer is infinite to nearly everybody."""

_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(r"[-+.0-9eE]*")
IS_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
WORD = re.compile(r"[A-Za-z]*")
WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
"""JSON's words, by how they and Python's are written."""

_ESCAPED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

Tell = Callable[[str], object]


def read_value(script: Script, tell: Tell) -> Steps[bool]:
    """One value, from its first character on. False where the text is none, or ends too early: what was is told."""
    closers: list[str] = []  # of the objects and lists that are open
    while True:
        # Here a value is expected.
        character = yield from script.peek()
        if character in ("{", "[") and len(closers) < MAX_DEPTH:
            script.at += 1
            tell(character)
            closers.append("}" if character == "{" else "]")
            tell((yield from script.spaces()))
            if (yield from script.take(closers[-1])):
                tell(closers.pop())
            elif character == "{":
                if not (yield from _key(script, tell)):
                    return False
                continue
            else:
                continue
        elif character == '"':
            if not (yield from read_string(script, tell)):
                return False
        elif not (yield from _scalar(script, tell)):
            return False
        # Here a value has ended.
        while True:
            if not closers:
                return True
            tell((yield from script.spaces()))
            if (yield from script.take(closers[-1])):
                tell(closers.pop())
                continue
            if not (yield from script.take(",")):
                return False
            tell(",")
            tell((yield from script.spaces()))
            if closers[-1] == "}" and not (yield from _key(script, tell)):
                return False
            break


def read_string(script: Script, tell: Tell) -> Steps[bool]:
    """A string with its quotes."""
    if not (yield from script.take('"')):
        return False
    tell('"')
    while True:
        character = yield from script.peek()
        if character == "":
            return False
        if character == '"':
            script.at += 1
            tell('"')
            return True
        if character == "\\":
            if not (yield from _escape(script, tell)):
                return False
        elif character < " ":
            script.at += 1
            tell(_ESCAPED.get(character) or f"\\u{ord(character):04x}")
        else:
            tell(script.some_of(_PLAIN))


def read_text(script: Script) -> Steps[str | None]:
    """The text that a string means; None where there is no string."""
    pieces: list[str] = []
    if not (yield from read_string(script, pieces.append)):
        return None
    return whole_characters(json.loads("".join(pieces)))


def whole_characters(text: str) -> str:
    """Halves of surrogate pairs, which JSON can spell and UTF-8 cannot, become U+FFFD."""
    if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _escape(script: Script, tell: Tell) -> Steps[bool]:
    """Told whole, so that no piece ends within one."""
    if (yield from script.take("\\u")):
        digits = ""
        while len(digits) < 4:
            digit = yield from script.peek()
            if digit == "" or digit not in "0123456789abcdefABCDEF":
                return False
            digits += digit
            script.at += 1
        tell("\\u" + digits)
        return True
    yield from script.take("\\")
    character = yield from script.peek()
    if character == "" or character not in '"\\/bfnrt':
        return False
    script.at += 1
    tell("\\" + character)
    return True


def _key(script: Script, tell: Tell) -> Steps[bool]:
    """A key with its colon."""
    if not (yield from read_string(script, tell)):
        return False
    tell((yield from script.spaces()))
    if not (yield from script.take(":")):
        return False
    tell(":")
    tell((yield from script.spaces()))
    return True


def _scalar(script: Script, tell: Tell) -> Steps[bool]:
    """A number or a word. What is neither is not read, unless the text ends with it."""
    character = yield from script.peek()
    if character and character in "-0123456789":
        written = yield from script.run_of(_NUMBER, MAX_NUMBER)
        meant = written if IS_NUMBER.fullmatch(written) else ""
    else:
        written = yield from script.run_of(WORD, 5)
        meant = WORDS.get(written, "")
    if not meant and (yield from script.peek()):
        script.at -= len(written)
        return False
    tell(meant or written)
    return bool(meant)
