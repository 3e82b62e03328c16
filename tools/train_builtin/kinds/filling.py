"""Filling JSON from a sentence: the keys are given, the values stand in the sentence."""

from __future__ import annotations

import json

from tools.train_builtin.draw import Drawer, Example
from tools.train_builtin.kinds.words import COLOURS, DAYS

JOBS = [
    "teacher",
    "doctor",
    "baker",
    "pilot",
    "farmer",
    "singer",
    "painter",
    "nurse",
    "driver",
    "cook",
    "lawyer",
    "writer",
    "dancer",
    "builder",
    "judge",
]
ASK = [
    "Fill this JSON from the sentence. {keys} Sentence: {text}", "{text} Write {names} as JSON.",
    "Give {names} as JSON: {text}", "Take {names} from this text as JSON: {text}", "{text} Fill {keys}",
    "Extract {names} as JSON. {text}", "As JSON with the keys {names}: {text}",
    "Make a JSON object with {names} of this: {text}", "{text} Now answer with JSON that has {names}.",
]  # fmt: skip


_DO = ["Give", "Give me", "Write", "Take", "Extract", "Get", "Find", "Return", "Show", "Read", "Collect", "Pick out", "Put",
       "I need", "I want", "Please give", "Tell me", "Note", "List", "Answer with", "Reply with"]  # fmt: skip
_MAKE = ["Give me", "Write", "Return", "Produce", "I need", "I want", "Build", "Compose", "Form", "Write down", "Prepare",
         "Please write", "Can you write", "Say"]  # fmt: skip
_OBJECT = [
    "a JSON object",
    "an object",
    "JSON",
    "one JSON object",
    "a small JSON object",
    "a JSON record",
    "an object of JSON",
]
_WITH = ["with", "with", "that has", "that holds", "of", "with the keys", "with the fields", "holding", "for"]
_OF = ["", "", " from this", " from the text", " out of this", " of what follows", " about this", " of the sentence"]
_FORM = ["as JSON", "in JSON", "in a JSON object", "as a JSON object", "as one JSON object", "as an object of JSON",
         "in JSON form"]  # fmt: skip
_FROM = ["", "", " from this", " from the sentence", " from the text", " from what follows", " of this text"]
_KEYS = ["A JSON object with {names}", "JSON that has {names}", "JSON with the keys {names}", "An object with {names}",
         "JSON with {names}", "One JSON object: {names}", "The keys are {names}", "Fill {keys}", "Complete {keys}",
         "Fill in {keys}", "Use {keys}"]  # fmt: skip


def _asked(d: Drawer) -> str:
    """One of some thousand ways to ask, and none of those held out."""
    r = d.random.random()
    if r < 0.35:
        asked = f"{d.pick(_DO)} {{names}}{d.pick(_FROM)} {d.pick(_FORM)}"
    elif r < 0.75:
        asked = f"{d.pick(_MAKE)} {d.pick(_OBJECT)} {d.pick(_WITH)} {{names}}{d.pick(_OF)}"
    else:
        asked = d.pick(_KEYS)
    if d.chance(0.5):
        return asked + d.pick([": ", ". ", ". Text: ", ". Sentence: ", ". Here it is: "]) + "{text}"
    return (
        "{text} " + (d.pick(["Now ", "So ", "From this: "]) if d.chance(0.2) else "") + asked + d.pick([".", "", ":"])
    )


def filling(d: Drawer) -> Example:
    fields, text = d.pick([_person, _product, _meeting, _generic, _generic])(d)
    chosen = d.some(list(fields), d.number(2, len(fields)) if len(fields) > 2 else len(fields))
    if d.chance(0.7):
        chosen = [key for key in fields if key in chosen]
    names = ", ".join(chosen[:-1]) + " and " + chosen[-1]
    blank = json.dumps({key: 0 if isinstance(fields[key], int) else "" for key in chosen})
    asked = d.pick(d.split(ASK)) if d.held or d.chance(0.3) else _asked(d)
    question = asked.format(keys=blank, names=names, text=text)
    answer = json.dumps({key: fields[key] for key in chosen})
    return Example("filling", ({"role": "user", "content": question}, {"role": "assistant", "content": answer}))


def _person(d: Drawer) -> tuple[dict[str, str | int], str]:
    f: dict[str, str | int] = {"name": d.person(), "age": d.number(5, 99), "city": d.place(), "job": d.pick(JOBS)}
    text = d.pick([
        "{name} is {age} years old, lives in {city} and works as a {job}.",
        "{name} is a {job} in {city} and is {age}.",
        "At {age}, {name} is a {job} and lives in {city}.",
        "In {city} lives {name}, a {job} of {age} years.",
    ]).format(**f)  # fmt: skip
    return f, text


def _product(d: Drawer) -> tuple[dict[str, str | int], str]:
    f: dict[str, str | int] = {"product": d.thing(), "price": d.number(1, 500), "colour": d.pick(COLOURS),
                               "shop": d.made_up().capitalize()}  # fmt: skip
    text = d.pick([
        "The {product} in {colour} costs {price} euros at {shop}.",
        "{shop} sells a {colour} {product} for {price} euros.",
        "For {price} euros you get a {colour} {product} from {shop}.",
    ]).format(**f)  # fmt: skip
    return f, text


def _meeting(d: Drawer) -> tuple[dict[str, str | int], str]:
    f: dict[str, str | int] = {"who": d.person(), "day": d.pick(DAYS), "hour": d.number(1, 12), "place": d.place()}
    text = d.pick([
        "We meet {who} on {day} at {hour} in {place}.",
        "{who} comes to {place} on {day} at {hour}.",
        "On {day} at {hour}, {who} waits in {place}.",
    ]).format(**f)  # fmt: skip
    return f, text


def _generic(d: Drawer) -> tuple[dict[str, str | int], str]:
    """Keys that nobody has seen: what matters is which value stands beside which key."""
    keys = [d.pick([d.made_up, d.made_up, d.coined, d.thing])() for _ in range(d.number(2, 4))]
    keys = list(dict.fromkeys(keys)) if len(set(keys)) > 1 else ["size", "owner"]
    f: dict[str, str | int] = {}
    for key in keys:
        f[key] = d.number(0, 999) if d.chance(0.4) else d.pick([d.thing, d.person, d.made_up, d.coined, d.date])()
    shape = d.pick(["the {k} is {v}", "{k} is {v}", "{k}: {v}"])
    parts = [shape.format(k=key, v=value) for key, value in f.items()]
    d.random.shuffle(parts)
    text = ", ".join(parts) + "."
    return f, text[:1].upper() + text[1:] if shape.startswith("the") else text
