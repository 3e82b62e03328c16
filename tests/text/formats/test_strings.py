"""Laws of strings' keywords as patterns: what matches one is what the keyword takes, or some of it."""

from __future__ import annotations

import re

import pytest

from llamahost.text.formats.strings import PATTERNS, patterns_of, whole
from llamahost.text.schema_formats import FORMATS

TEXTS = ("", "a", "ab", "ba", "aab", "b", "a|b", "^a", "a$", "]", "xay", "a\\nb", "$")


@pytest.mark.parametrize(
    "pattern",
    [
        "a",
        "^a",
        "a$",
        "^a$",
        "^a|b$",
        "^(a|b)$",
        "(a|b)",
        r"a\$",
        r"\^a",
        "[$^]",
        "[]a]$",
        "[^]]$",
        "a|",
        "",
        "^",
        r"\\$|b",
    ],
)
def test_what_a_whole_pattern_matches_is_where_the_pattern_is_found(pattern: str) -> None:
    made = whole(pattern)
    assert made is not None
    for text in TEXTS:
        found = re.search(pattern, text)
        assert bool(re.fullmatch(made, text)) == bool(found), text


@pytest.mark.parametrize("pattern", ["a(^b)", "(a$)b", "a^", 3])
def test_anchors_within_a_pattern_are_told(pattern: object) -> None:
    assert whole(pattern) is None
    assert patterns_of({"pattern": pattern}) is None


GOOD = {
    "date": ("2024-02-28", "1999-12-31"),
    "time": ("23:59:59Z", "00:00:00.5+01:30"),
    "date-time": ("2024-02-28T23:59:59Z",),
    "duration": ("P1Y2M3D", "PT5M", "P3W", "P1DT2H"),
    "email": ("a.b@c-d.org",),
    "hostname": ("a", "a-1.b.org"),
    "ipv4": ("0.0.0.0", "255.10.1.99"),
    "ipv6": ("1:2:3:4:5:6:7:8", "fe80::1", "::1"),
    "uuid": ("01234567-89ab-cdef-0123-456789abcdef",),
    "uri": ("https://a.org:80/b/c?d=e#f", "s://h"),
}
BAD = {
    "date": ("2023-02-30", "2024-13-01", "0000-01-01"),
    "time": ("24:00:00Z", "12:00:00"),
    "date-time": ("2024-02-28 23:59:59Z",),
    "duration": ("P", "PT", "5M"),
    "email": ("a@b", "a..b@c.de", "@c.de"),
    "hostname": ("-a", "a-", "a..b"),
    "ipv4": ("256.1.1.1", "1.1.1", "01.1.1.1"),
    "ipv6": ("1:2:3", "1::2::3", "12345::1"),
    "uuid": ("0123456789abcdef0123456789abcdef",),
    "uri": ("a", "//h", "s:// h"),
}


def test_every_format_is_written_and_takes_nothing_that_is_none() -> None:
    assert set(PATTERNS) == set(GOOD) == set(BAD) == set(FORMATS)
    for name, pattern in PATTERNS.items():
        assert all(re.fullmatch(pattern, text) for text in GOOD[name]), name
        assert not any(re.fullmatch(pattern, text) for text in BAD[name]), name
    assert patterns_of({"format": "regex"}) is None


@pytest.mark.parametrize("pattern", ["a)|(b", "(a", "a)", "[", "a\\", "[a|b"])
def test_what_is_no_pattern_by_itself_does_not_become_one_within_groups(pattern: str) -> None:
    assert whole(pattern) is None
