"""Which format a chat template speaks: the first of the table that knows it. Knows families by their names alone."""

from __future__ import annotations

from llamahost.text.formats.format import Family, Format, Talk, Thinking
from llamahost.text.formats.hermes import HERMES

FAMILIES: tuple[Family, ...] = (HERMES,)
"""In order: what is more particular stands first."""

THINKING: tuple[tuple[str, Thinking], ...] = (("</think>", Thinking("<think>", "</think>")),)
"""Thoughts, each by what its template holds."""


def format_of(template: str) -> Format:
    """The format of whoever answers to this template's source; plain text where none is known."""
    family = next((family for family in FAMILIES if family.is_spoken(template)), None)
    thinking = next((thinking for sign, thinking in THINKING if sign in template), None)
    return Talk(family, thinking)
