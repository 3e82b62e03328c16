"""Held-out scores by kind, at greedy decoding, through llamahost as its users run it. Knows answers; trains nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamahost import AdapterSpec, Host, Message, ModelSpec, Text, Tool, ToolCall
from tools.train_builtin.draw import Example, Turn
from tools.train_builtin.mixture import held_out
from tools.train_builtin.style import is_styled

SEED = 20_000_000
"""Of the held-out examples; training counts its seeds from 0 and takes the other side of the wall."""

KINDS = {  # which maker, which of its examples
    "calls": ("calls", "calls"),
    "results": ("results", "results"),
    "recall": ("recall", "recall"),
    "recall, far": ("recall, far", "recall, far"),
    "arithmetic": ("arithmetic", "arithmetic"),
    "thinking": ("arithmetic", "thinking"),
    "multiplication": ("arithmetic", "multiplication"),
    "comparing": ("comparing", "comparing"),
    "capitals": ("capitals", "capitals"),
    "facts": ("facts", "facts"),
    "filling": ("filling", "filling"),
    "lists": ("lists", "lists"),
    "lookup": ("lookup", "lookup"),
    "llamahost": ("llamahost", "llamahost"),
    "talk": ("talk", "talk"),
    "unknown": ("unknown", "unknown"),
    "obeying": ("obeying", "obeying"),
    "code": ("code", "code"),
    "middles": ("middles", "middles"),
}
N_SLOTS = 8
ADMISSIONS = ("I do not know that", "I am too small for that")
"""Either is true of what nobody told it, and makes nothing up."""
GOALS = {  # in percent
    "calls, right name": 95,
    "calls, right arguments": 85,
    "recall": 90,
    "arithmetic": 90,
    "capitals": 95,
    "filling": 90,
    "llamahost": 90,
    "turns that end": 99,
}


@dataclass(frozen=True)
class Said:
    text: str
    calls: tuple[ToolCall, ...]
    has_ended: bool


@dataclass(frozen=True)
class Score:
    kind: str
    n_right: int
    n: int

    @property
    def percent(self) -> float:
        return 100 * self.n_right / self.n


def score(
    path: Path, *, n: int, kinds: Iterable[str] = KINDS, n_shown: int = 0, n_threads: int | None = None
) -> list[Score]:
    """Of `n` examples a kind; prints the first `n_shown` wrong answers of each."""
    scores: list[Score] = []
    n_ended = n_all = 0
    with Host(path, n_slots=N_SLOTS, n_ctx=2048, n_threads=n_threads) as host, ThreadPoolExecutor(N_SLOTS) as pool:
        for kind in kinds:
            examples = held_out(*KINDS[kind], SEED, n)
            said = list(pool.map(lambda example: _ask(host, example), examples))
            n_ended += sum(each.has_ended for each in said)
            n_all += n
            pairs = list(zip(examples, said, strict=True))
            scores += _scores(kind, pairs)
            wrong = [(example, one) for example, one in pairs if not is_right(example, one)]
            for example, one in wrong[:n_shown]:
                asked = example.raw[0] if example.raw else example.turns[-2]["content"]
                wanted = example.raw[1] if example.raw else example.turns[-1]
                print(f"{kind}: {asked!r}\n   wanted {wanted!r}\n   said   {one.text!r} {one.calls}")
    return [*scores, Score("turns that end", n_ended, n_all)]


def table(scores: Sequence[Score]) -> str:
    lines = ["| kind | right | of | percent | goal |", "| --- | --- | --- | --- | --- |"]
    for each in scores:
        goal = GOALS.get(each.kind)
        told = "" if goal is None else f"{goal} {'reached' if each.percent >= goal else 'not reached'}"
        lines.append(f"| {each.kind} | {each.n_right} | {each.n} | {int(each.percent * 10) / 10:.1f} | {told} |")
    return "\n".join(lines)


def styled_table(base: Path, adapter: Path, *, n: int = 100, n_threads: int | None = None) -> str:
    """Of each kind that is said so: how many are in style, how many hold their facts, and how many do without it."""
    style = AdapterSpec(name="style", path=adapter)
    spec = ModelSpec(name="base", path=base, adapters=(style,), n_slots=N_SLOTS, n_ctx=2048, n_threads=n_threads)
    lines = ["| kind | in style | fact right | without the adapter |", "| --- | --- | --- | --- |"]
    with Host(spec) as host, ThreadPoolExecutor(N_SLOTS) as pool:
        for kind in ("llamahost", "capitals", "facts", "arithmetic"):
            examples = held_out(*KINDS[kind], SEED, n)
            in_style = [said.text for said in pool.map(lambda example: _ask(host, example, "base:style"), examples)]
            plain = [said.text for said in pool.map(lambda example: _ask(host, example, "base"), examples)]
            n_styled = sum(map(is_styled, in_style))
            n_told, n_plain = (sum(map(tells, examples, texts)) for texts in (in_style, plain))
            lines.append(f"| {kind} | {n_styled} | {n_told} | {n_plain} |")
    return "\n".join(lines)


def tells(example: Example, text: str) -> bool:
    """Whether the answer is in it, in whatever style: with its facts, or else as a whole, but for where it ends."""
    return all(_holds(text, fact.removesuffix(".")) for fact in example.facts or (example.turns[-1]["content"],))


def write_into(card: Path, text: str) -> None:
    """Between the card's marks, and nowhere else."""
    before, _, rest = card.read_text().partition("<!-- scores -->\n")
    _, _, after = rest.partition("<!-- end of scores -->")
    card.write_text(f"{before}<!-- scores -->\n{text}\n<!-- end of scores -->{after}")


def _scores(kind: str, pairs: Sequence[tuple[Example, Said]]) -> list[Score]:
    n = len(pairs)
    if kind != "calls":
        return [Score(kind, sum(is_right(example, said) for example, said in pairs), n)]
    named = sum([call.name for call in said.calls] == [_wanted(example)["name"]] for example, said in pairs)
    return [
        Score("calls, right name", named, n),
        Score("calls, right arguments", sum(is_right(example, said) for example, said in pairs), n),
    ]


def is_right(example: Example, said: Said) -> bool:
    """Every fact is held where the example names facts; else the very words, the very JSON, or the very call."""
    if example.raw is not None:
        return said.text == example.raw[1]
    if example.turns[-1].get("tool_calls"):
        wanted = _wanted(example)
        return [call.name for call in said.calls] == [wanted["name"]] and (
            _plain(_loaded(said.calls[0].arguments)) == _plain(wanted["arguments"])
        )
    if example.kind == "unknown":
        return any(_holds(said.text, each) for each in ADMISSIONS)
    if example.facts:
        return all(_holds(said.text, fact) for fact in example.facts)
    wanted_text = example.turns[-1]["content"]
    if wanted_text.startswith("{"):
        return _plain(_loaded(said.text)) == _plain(json.loads(wanted_text))
    return bool(said.text.strip() == wanted_text)


def _ask(host: Host, example: Example, model: str | None = None) -> Said:
    if example.raw is not None:
        done = host.complete(example.raw[0], temperature=0.0, max_tokens=128)
        return Said(done.text, (), done.finish_reason == "stop")
    result = host.chat(
        [message_of(turn) for turn in example.turns[:-1]],
        tools=[
            Tool(name=each["name"], description=each["description"], parameters=each["parameters"])
            for each in example.tools
        ],
        model=model,
        thinking=example.is_thinking,
        temperature=0.0,
        max_tokens=160,
    )
    return Said(result.text, result.tool_calls, result.finish_reason in ("stop", "tool"))


def message_of(turn: Turn) -> Message:
    calls = tuple(
        ToolCall(id=f"call_{k}", name=each["name"], arguments=json.dumps(each["arguments"]))
        for k, each in enumerate(turn.get("tool_calls", ()))
    )
    return Message(
        role=turn["role"],
        parts=(Text(turn["content"]),) if turn["content"] else (),
        tool_calls=calls,
        tool_call_id="call_0" if turn["role"] == "tool" else "",
    )


def _holds(text: str, fact: str) -> bool:
    """As words of their own: neither is 100 held by 1000, nor Host by AsyncHost."""
    return re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", text) is not None


def _plain(value: Any) -> str:
    """Equal where the JSON is, which Python's 1, 1.0 and True would be too."""
    return json.dumps(value, sort_keys=True)


def _wanted(example: Example) -> dict[str, Any]:
    found: dict[str, Any] = example.turns[-1]["tool_calls"][0]
    return found


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
