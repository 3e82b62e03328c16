"""Bytes in, whole characters out. Knows nothing of tokens.

However the bytes are cut, the text is the same as that of one `bytes.decode("utf-8", "replace")`.
"""

from __future__ import annotations

from codecs import utf_8_decode


class Utf8:
    """An incremental decoder. Owned by one reply."""

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending = b""  # the beginning of a character, at most 3 bytes

    def feed(self, data: bytes) -> str:
        """The characters that are complete now; what cannot become one is U+FFFD at once."""
        if self.pending:
            data = self.pending + data
        elif data.isascii():
            return data.decode("ascii")
        text, n_read = utf_8_decode(data, "replace", False)
        self.pending = data[n_read:]
        return text

    def flush(self) -> str:
        """The end: a character still incomplete becomes U+FFFD."""
        data, self.pending = self.pending, b""
        return data.decode("utf-8", "replace")
