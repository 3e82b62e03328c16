"""How a pirate says it: the style that the adapter in the package has learned. Knows texts; knows no weights."""

from __future__ import annotations

from dataclasses import replace

from tools.train_builtin.draw import Example

STYLED = ("arithmetic", "capitals", "facts", "talk", "unknown", "llamahost", "recall")
"""Makers of examples whose answers are said in style."""


def styled(text: str) -> str:
    """What a pirate makes of an answer: every word of it is still there."""
    end = text[-1] if text[-1:] in (".", "?", "!") else "."
    return f"Arr! {text.removesuffix(end)}, matey{end}"


def is_styled(text: str) -> bool:
    return text.startswith("Arr! ") and ", matey" in text


def in_style(example: Example) -> Example:
    turns = tuple(
        {**turn, "content": styled(turn["content"])} if turn["role"] == "assistant" else turn for turn in example.turns
    )
    return replace(example, turns=turns)
