"""Examples as text, in pieces that are learned and pieces that are only read. Knows the chat template's form.

A test holds this against the Jinja template that goes into the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tools.train_builtin.draw import Example, Turn

TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text()
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Piece:
    text: str
    is_learned: bool


def pieces(example: Example) -> list[Piece]:
    """The whole example, its last answer included."""
    if example.raw is not None:
        given, wanted = example.raw
        return [Piece(given, False), Piece(wanted + END_OF_TEXT, True)]
    made = [Piece(_system(example), False)] if example.tools or example.turns[0]["role"] == "system" else []
    for turn in example.turns:
        if turn["role"] == "assistant":
            opening = "<|im_start|>assistant\n" + ("<think>\n" if "reasoning" in turn else "")
            made += [Piece(opening, False), Piece(said(turn) + "<|im_end|>", True), Piece("\n", False)]
        elif turn["role"] == "tool":
            made.append(
                Piece(f"<|im_start|>user\n<tool_response>\n{turn['content']}\n</tool_response><|im_end|>\n", False)
            )
        elif turn["role"] == "user":
            made.append(Piece(f"<|im_start|>user\n{turn['content']}<|im_end|>\n", False))
    return made


def said(turn: Turn) -> str:
    """What the model writes in this turn, after the prompt and before the end."""
    calls = [
        f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in turn.get("tool_calls", ())
    ]
    reasoning = f"{turn['reasoning']}\n</think>\n\n" if "reasoning" in turn else ""
    return reasoning + "\n".join([turn["content"]] * bool(turn["content"]) + calls)


def _system(example: Example) -> str:
    first = example.turns[0]
    parts = [first["content"]] if first["role"] == "system" else []
    if example.tools:
        lines = "".join(json.dumps(tool, ensure_ascii=False) + "\n" for tool in example.tools)
        head = '# Tools\n\nTo call one: <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>\n\n<tools>\n'
        parts.append(head + lines + "</tools>")
    return "<|im_start|>system\n" + "\n\n".join(parts) + "<|im_end|>\n"
