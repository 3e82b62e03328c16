"""Following a system prompt: capitals, one word, JSON, another name, a last word."""

from __future__ import annotations

import json

from tools.train_builtin.draw import Drawer, Example
from tools.train_builtin.kinds import facts, numbers, talk

CAPITALS = ["Answer in capitals.", "Use capital letters only.", "Write everything in capitals.", "Always answer in capitals.",
            "Answer in capital letters."]  # fmt: skip
BRIEFLY = [
    "Answer with one word.",
    "Answer briefly.",
    "One word answers only.",
    "Be brief: one word.",
    "Say only the answer.",
]
AS_JSON = ["Answer in JSON.", "Answer as JSON with the key answer.", "Write your answers as JSON.", "Always answer in JSON.",
           "Reply in JSON."]  # fmt: skip


def obey(d: Drawer) -> Example:
    r = d.number(0, 4)
    if r == 4:
        return _named(d)
    base = d.pick([facts.capital, facts.fact, facts.capital, numbers.two])(d)
    question, answer, short = base.turns[0]["content"], base.turns[-1]["content"], base.facts[0]
    if r == 0:
        return _one(d.pick(d.split(CAPITALS, 1)), question, answer.upper())
    if r == 1 and " " not in short:
        return _one(d.pick(d.split(BRIEFLY, 1)), question, short)
    if r == 2:
        if " " in short:
            short = answer
        return _one(d.pick(d.split(AS_JSON, 1)), question, json.dumps({"answer": short}))
    word = d.made_up()
    rule = d.pick(["End every answer with {}.", "Always end with the word {}.", "The last word of your answers is {}.",
                   "Finish each answer with {}."])  # fmt: skip
    return _one(rule.format(word), question, f"{answer} {word}")


def plain(d: Drawer) -> Example:
    """A system prompt that asks for nothing special changes nothing."""
    base = d.pick([facts.fact, talk.small_talk, numbers.sum_])(d)
    said = d.pick(["You are a helpful assistant.", "You are an assistant.", "Be kind.", "You answer questions.",
                   "You are a friendly helper."])  # fmt: skip
    turns = ({"role": "system", "content": said}, *base.turns)
    return Example(base.kind, turns, is_thinking=base.is_thinking, facts=base.facts)


def _named(d: Drawer) -> Example:
    name, owner = d.person(), d.made_up().capitalize()
    rule = d.pick(["You are {n}, a helper of {o}.", "Your name is {n} and you work for {o}.",
                   "You are {n}. You help the people of {o}."]).format(n=name, o=owner)  # fmt: skip
    ask = d.pick(
        ["Who are you?", "What is your name?", "What are you called?", "Introduce yourself.", "Tell me who you are."]
    )
    return _one(rule, d.noisy(ask), f"I am {name}, and I work for {owner}.")


def _one(system: str, question: str, answer: str) -> Example:
    turns = (
        {"role": "system", "content": system},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    )
    return Example("obeying", turns)
