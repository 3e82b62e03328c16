#!/usr/bin/env python3
"""Measure what tokenising a conversation costs at each turn: as a whole, and in parts that are remembered.

    python tools/measure_turns.py model.gguf --bytes 500000 --turns 5

The conversation is rendered with the model's own chat template (or ChatML), and grows by two messages a turn. Both
ways must give the same tokens, or it stops. Random words for text, so a real language takes fewer tokens.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from llamahost.core.machine import Machine
from llamahost.core.messages import ChatRequest, Message, Text
from llamahost.core.work import Tokens
from llamahost.fleet.replica.loader import load
from llamahost.fleet.settings.manifest import ModelSpec


def timed(work: Callable[[], Tokens]) -> tuple[Tokens, float]:
    began = time.perf_counter()
    tokens = work()
    return tokens, 1e3 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--bytes", type=int, default=500_000, help="of the conversation at first")
    parser.add_argument("--messages", type=int, default=400, help="that it has at first")
    parser.add_argument("--turns", type=int, default=10)
    args = parser.parse_args()
    words = random.Random(1)
    letters = "etaoinshrdlucmfwypvbgk"
    known = ["".join(words.choices(letters, k=words.randint(2, 9))) for _ in range(4000)]
    each = args.bytes // args.messages

    def message(k: int) -> Message:
        text = " ".join(words.choices(known, k=each // 6 + 2))[:each]
        return Message(role="assistant" if k % 2 else "user", parts=(Text(text),))

    messages = [message(k) for k in range(args.messages | 1)]
    loaded = load(ModelSpec(name="m", path=args.model, n_ctx=256, n_slots=1), Machine.read())
    preparer, vocab = loaded.preparer, loaded.model.vocab
    rows = []
    for turn in range(args.turns + 1):
        text = preparer.render(ChatRequest(messages=tuple(messages)))
        in_parts, parts_ms = timed(partial(preparer.vocabulary.encode, text, add_special=True, parse_special=True))
        whole, whole_ms = timed(partial(vocab.encode, text, add_special=True, parse_special=True))
        if whole != in_parts:
            raise SystemExit("the two ways differ: this is a bug")
        rows.append((whole_ms, parts_ms))
        if turn == 0:
            print(f"{len(text)} characters, {len(whole)} tokens, {len(messages)} messages")
            print(f"first turn: {whole_ms:.1f} ms as a whole, {parts_ms:.1f} ms in parts")
        messages += [message(1), message(0)]
    later = rows[1:]
    whole_ms, parts_ms = (statistics.median(row[k] for row in later) for k in (0, 1))
    print(f"later turns, median of {len(later)}: {whole_ms:.1f} ms as a whole, {parts_ms:.2f} ms in parts")
    loaded.close()


if __name__ == "__main__":
    main()
