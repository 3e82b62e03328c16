"""Calling functions: choose among several whose names nobody has seen, fill the arguments, answer from the result.

The nouns of held-out functions appear in no training function; made-up names are new each time.
"""

from __future__ import annotations

import json
import re
import sysconfig
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tools.train_builtin.draw import Drawer, Example, Turn
from tools.train_builtin.kinds import talk
from tools.train_builtin.kinds.words import COLOURS, DAYS, HELD_NOUNS

# The verb in names, the verb in descriptions, how people ask.
VERBS = [
    ("get", "Get", ["Get", "Show me", "Tell me", "What is", "Give me"]),
    ("find", "Find", ["Find", "Look for", "Search"]),
    ("search", "Search", ["Search", "Look for", "Find"]),
    ("create", "Create", ["Create", "Make", "Add"]),
    ("add", "Add", ["Add", "Create", "Put in"]),
    ("delete", "Delete", ["Delete", "Remove"]),
    ("remove", "Remove", ["Remove", "Delete"]),
    ("update", "Update", ["Update", "Change"]),
    ("set", "Set", ["Set", "Change"]),
    ("send", "Send", ["Send", "Please send"]),
    ("book", "Book", ["Book", "Reserve"]),
    ("cancel", "Cancel", ["Cancel", "Stop"]),
    ("start", "Start", ["Start", "Begin"]),
    ("stop", "Stop", ["Stop", "End"]),
    ("open", "Open", ["Open", "Please open"]),
    ("close", "Close", ["Close", "Shut"]),
    ("play", "Play", ["Play", "I want to hear"]),
    ("check", "Check", ["Check", "Look at"]),
    ("list", "List", ["List", "Show all of"]),
    ("count", "Count", ["Count", "How many are in"]),
    ("order", "Order", ["Order", "Buy"]),
    ("print", "Print", ["Print", "Please print"]),
    ("convert", "Convert", ["Convert", "Turn over"]),
    ("move", "Move", ["Move", "Bring"]),
]
NOUNS = (
    "weather price news song music email message letter invoice order ticket flight hotel room table seat taxi meal "
    "recipe report file folder image photo video note task reminder alarm timer event meeting calendar contact user "
    "account password payment bill refund parcel package stock currency exchange distance route map traffic bus "
    "window light lamp heater fan lock engine robot printer camera radio channel film game score team player garden "
    "tree flower animal patient doctor medicine lesson course exam grade student teacher library page chapter "
    "translation word sentence quote poem story survey vote poll badge key box shelf shop cart coupon gift card "
    "server backup database log job queue container branch issue comment review sensor battery salary candle rocket "
    "planet harbour island mountain valley desert forest castle temple palace tower statue painting sculpture gallery "
    "theatre cinema stadium airport station platform vehicle bicycle scooter truck trailer wagon ferry submarine "
    "helicopter balloon parachute compass anchor engineer surgeon lawyer plumber electrician carpenter tailor butcher "
    "gardener janitor secretary manager director president minister soldier sailor captain detective journalist "
    "editor publisher magazine newspaper article headline column paragraph dictionary alphabet grammar spelling "
    "vocabulary pronunciation laptop keyboard monitor speaker microphone headphone charger cable adapter router modem "
    "firewall browser website domain address certificate signature contract agreement proposal budget expense revenue "
    "profit discount warranty insurance mortgage deposit withdrawal transaction receipt statement balance portfolio "
    "investment dividend inventory catalogue supplier customer delivery carrier tracking customs tariff quota permit "
    "visa itinerary reservation booking luggage suitcase backpack umbrella jacket sweater trousers pyjamas slipper "
    "necklace bracelet earring perfume shampoo toothbrush razor blanket mattress wardrobe drawer cupboard "
    "refrigerator freezer oven stove microwave dishwasher laundry vacuum broom bucket hammer screwdriver wrench drill "
    "ladder paint brick cement timber fence gate balcony chimney basement attic kitchen bathroom bedroom corridor "
    "staircase humidity pressure altitude velocity acceleration gravity voltage current resistance frequency "
    "wavelength radiation molecule electron neutron protein vitamin vaccine bacteria virus symptom diagnosis therapy "
    "operation ambulance pharmacy dentist optician clinic hospital laboratory experiment hypothesis conclusion "
    "lecture seminar tutorial semester scholarship diploma university faculty curriculum textbook notebook pencil "
    "eraser ruler calculator orchestra violin trumpet saxophone melody chorus lyrics album podcast broadcast subtitle "
    "episode season character dialogue scene costume tournament referee goalkeeper championship medal trophy marathon "
    "racket"
).split()


@dataclass(frozen=True)
class Argument:
    """`asks` name the value in a request; "" among them would be a value that stands alone."""

    names: tuple[str, ...]
    type: str
    description: str
    asks: tuple[str, ...]
    value: str  # which maker
    choices: tuple[str, ...] = ()


ARGUMENTS = [
    Argument(("city", "town", "location"), "string", "Name of the city.", ("in {}", "for {}", "at {}"), "place"),
    Argument(("name", "person", "customer", "guest"), "string", "Name of the person.", ("for {}", "of {}"), "person"),
    Argument(("date", "day", "when"), "string", "The day.", ("on {}", "for {}"), "day"),
    Argument(("date", "start_date"), "string", "The date.", ("on {}", "from {}"), "date"),
    Argument(("recipient", "to", "receiver"), "string", "Who gets it.", ("to {}",), "person"),
    Argument(("origin", "source", "from_city"), "string", "Where it starts.", ("from {}",), "place"),
    Argument(("destination", "target", "to_city"), "string", "Where it ends.", ("to {}",), "place"),
    Argument(("count", "number", "quantity"), "integer", "How many.", ("{} times", "with {} pieces"), "small"),
    Argument(("limit", "max_results"), "integer", "At most so many.", ("at most {}", "no more than {}"), "small"),
    Argument(("id", "number", "code"), "integer", "The number.", ("number {}", "with number {}"), "large"),
    Argument(("colour", "color"), "string", "The colour.", ("in {}", "in the colour {}"), "colour"),
    Argument(("unit", "units"), "string", "The unit.", ("in {}", "as {}"), "choice", ("celsius", "fahrenheit")),
    Argument(("size",), "string", "The size.", ("in {}", "of size {}"), "choice", ("small", "medium", "large")),
    Argument(("title", "subject", "label"), "string", "The title.", ("called {}", "with the title {}"), "title"),
    Argument(("text", "message", "body", "content"), "string", "The text.", ("saying '{}'", "with the text '{}'"), "title"),
    Argument(("minutes", "duration"), "integer", "Minutes.", ("for {} minutes", "of {} minutes"), "small"),
    Argument(("hour", "time"), "integer", "The hour.", ("at {}", "at {} o'clock"), "hour"),
    Argument(("item", "product", "object"), "string", "The thing.", ("of a {}", "with a {}", "for the {}"), "thing"),
    Argument(("urgent", "loud", "private", "quiet"), "boolean", "Whether it is so.", ("", ""), "flag"),
]  # fmt: skip


@dataclass(frozen=True)
class Function:
    schema: dict[str, Any]
    verb: tuple[str, str, list[str]]
    noun: str
    arguments: tuple[tuple[str, Argument], ...]


def call(d: Drawer) -> Example:
    functions = _functions(d, d.pick([1, 2, 2, 3, 3, 4]) if not d.held else d.number(2, 4))
    turns: list[Turn] = []
    if d.chance(0.1):
        turns.append({"role": "system", "content": "You are a helpful assistant."})
    n_calls = 1 if d.held else d.number(2, 5)
    for _ in range(n_calls):
        r = d.random.random()
        if not d.held and r < 0.06:
            made = talk.small_talk(d)
            turns += made.turns
            continue
        if not d.held and r < 0.12:
            other = _functions(d, 1)[0]
            if all(other.noun != each.noun for each in functions):
                turns += [{"role": "user", "content": _request(d, other).text},
                          {"role": "assistant", "content": "None of my functions can do that."}]  # fmt: skip
                continue
        function = d.pick(functions)
        is_plain = [each.noun for each in functions].count(function.noun) == 1
        asked = _request(d, function, is_plain=is_plain)
        one = {"name": function.schema["name"], "arguments": asked.values}
        turns += [{"role": "user", "content": asked.text}, {"role": "assistant", "content": "", "tool_calls": [one]}]
        if not d.held:
            turns += _answered(d, function)
    tools = tuple(function.schema for function in functions)
    return Example("calls", tuple(turns), tools=tools, n_graded=n_calls)


def choosing(d: Drawer) -> Example:
    """Many functions with little to fill in, asked for one after the other: which of them is what is learned."""
    functions = _functions(d, d.number(3, 6), is_short=True)
    turns: list[Turn] = []
    n = d.number(3, 8)
    for _ in range(n):
        function = d.pick(functions)
        asked = _request(d, function)
        one = {"name": function.schema["name"], "arguments": asked.values}
        turns += [{"role": "user", "content": asked.text}, {"role": "assistant", "content": "", "tool_calls": [one]}]
        if not d.held and d.chance(0.1):
            turns += _answered(d, function)
    if turns[-1].get("content"):
        del turns[-2:]  # the last turn is a call
    return Example("choosing", tuple(turns), tools=tuple(function.schema for function in functions), n_graded=n)


def answer_from_result(d: Drawer) -> Example:
    functions = _functions(d, d.number(1, 2))
    function = d.pick(functions)
    asked = _request(d, function)
    one = {"name": function.schema["name"], "arguments": asked.values}
    turns: list[Turn] = [{"role": "user", "content": asked.text},
                         {"role": "assistant", "content": "", "tool_calls": [one]}]  # fmt: skip
    turns += _answered(d, function)
    return Example("results", tuple(turns), tools=tuple(f.schema for f in functions))


def _answered(d: Drawer, function: Function) -> list[Turn]:
    keys = ["status", "result", "value", "total", "price", "state", "id", "answer", "time", "temperature", "level"]
    result: dict[str, str | int] = {}
    for key in d.some([*keys, d.made_up(), d.made_up()], d.number(1, 2)):
        result[key] = d.number(0, 999) if d.chance(0.5) else d.pick([d.made_up, d.thing, d.person])()
    if not d.held and d.chance(0.15):  # in plain words
        text = " ".join(d.pick([d.thing, d.made_up, lambda: d.pick(words())])() for _ in range(d.number(1, 6)))
        return [{"role": "tool", "content": text}, {"role": "assistant", "content": f"The result is: {text}"}]
    said = " and ".join(f"the {key} is {value}" for key, value in result.items())
    return [
        {"role": "tool", "content": json.dumps(result)},
        {"role": "assistant", "content": said[:1].upper() + said[1:] + "."},
    ]


@lru_cache
def words() -> tuple[str, ...]:
    """Some thousand words as people write them, from what CPython ships with itself; no held-out noun begins one."""
    n_seen: Counter[str] = Counter()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        n_seen.update(re.findall(r"\b[a-z]{4,12}\b", path.read_text(encoding="utf-8", errors="ignore")))
    often = sorted(word for word, n in n_seen.items() if n >= 4)
    return tuple(word for word in often if not any(word.startswith(noun) for noun in HELD_NOUNS))


def _spliced(d: Drawer) -> str:
    """The beginning of one word and the end of another: pieces in an order that no word has."""
    one, other = d.pick(words()), d.pick(words())
    word = one[: d.number(2, 5)] + other[-d.number(2, 5) :]
    return word if word not in HELD_NOUNS else one


def _functions(d: Drawer, n: int, *, is_short: bool = False) -> list[Function]:
    nouns = d.some(HELD_NOUNS if d.held else sorted(set(NOUNS)), n)
    if not d.held:  # most are words that nobody has heard, so that what is learned is to compare, not to know
        nouns = [
            d.pick([noun, d.pick(words()), _spliced(d), d.pieced(), d.pieced(), d.coined(), d.made_up(1, 3)])
            for noun in nouns
        ]
    if n > 1 and d.chance(0.25 if d.held else 0.45):
        nouns[1] = nouns[0]  # the verb decides
    verbs = d.some(VERBS, n)
    if n > 1 and nouns[0] == nouns[1]:
        if set(verbs[0][2]) & set(verbs[1][2]):
            verbs[0], verbs[1] = VERBS[0], VERBS[5]
    elif n > 1 and not d.held and d.chance(0.6):
        alike = [verb for verb in VERBS if set(verb[2]) & set(verbs[0][2])]
        verbs[1:] = [d.pick(alike) if d.chance(0.6) else verb for verb in verbs[1:]]  # the noun decides
    used: set[str] = set()
    made = []
    for noun, verb in zip(nouns, verbs, strict=True):
        while (function := _function(d, verb, noun, is_short=is_short)).schema["name"] in used:
            pass
        used.add(function.schema["name"])
        made.append(function)
    return made


def _function(d: Drawer, verb: tuple[str, str, list[str]], noun: str, *, is_short: bool = False) -> Function:
    style = d.random.random()
    if is_short and d.chance(0.7):
        style = 0.6 + 0.4 * style  # a name that says nothing: the description decides
    if style < 0.35:
        name = f"{verb[0]}_{noun}"
    elif style < 0.45:
        name = f"{noun}_{verb[0]}"
    elif style < 0.6:
        name = f"{verb[0]}{noun.capitalize()}"
    elif style < 0.8:
        name = f"{d.made_up()}_{d.made_up()}"
    else:
        name = f"{verb[0]}_{d.made_up()}"
    arguments: list[tuple[str, Argument]] = []
    for one in d.some(ARGUMENTS, d.pick([0, 0, 1] if is_short else [0, 1, 1, 2, 2, 3])):
        called = d.pick(one.names)
        if all(called != other and set(one.asks).isdisjoint(a.asks) for other, a in arguments):
            arguments.append((called, one))
    if not is_short and d.chance(0.3):
        kind = d.pick(["string", "integer"])
        word = d.made_up() if d.chance(0.5) else d.pick(["priority", "level", "topic", "group", "mode", "rank"])
        arguments.append((word, Argument((word,), kind, f"The {word}.", (f"with {word} {{}}", f"{word} {{}}"),
                                         "small" if kind == "integer" else "word")))  # fmt: skip
    properties: dict[str, Any] = {}
    for called, one in arguments:
        properties[called] = {"type": one.type}
        if d.chance(0.6):
            properties[called]["description"] = one.description
        if one.choices:
            properties[called]["enum"] = list(one.choices)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if d.chance(0.7):
        parameters["required"] = [called for called, _ in arguments]
    schema = {"name": name, "description": f"{verb[1]} the {noun}.", "parameters": parameters}
    return Function(schema, verb, noun, tuple(arguments))


@dataclass(frozen=True)
class Request:
    text: str
    values: dict[str, str | int | bool]


def _request(d: Drawer, function: Function, *, is_plain: bool = False) -> Request:
    parts = []
    values: dict[str, str | int | bool] = {}
    for called, one in function.arguments:
        if one.value == "flag":
            is_so = d.chance(0.5)
            values[called] = is_so
            parts.append((f"and {called}" if d.chance(0.5) else f"with {called} on") if is_so else f"not {called}")
            continue
        value = _value(d, one)
        values[called] = value
        ask = d.pick(one.asks)
        if d.chance(0.2):
            ask = d.pick(["with {n} {{}}", "{n} {{}}", "where {n} is {{}}"]).format(n=called)
        parts.append(ask.format(value))
    order = list(range(len(parts)))
    if d.chance(0.4):
        d.random.shuffle(order)
    head = [d.pick(function.verb[2]), d.pick(["the", "the", "a", "my"])]
    if is_plain and not d.held and d.chance(0.08):
        head = []  # its noun alone says which
    text = " ".join([*head, function.noun, *(parts[i] for i in order)])
    r = d.random.random()
    if not text.startswith(("What is", "Please", "I want")) and r < 0.25:
        text = f"Please {text[:1].lower()}{text[1:]}" if r < 0.15 else f"Can you {text[:1].lower()}{text[1:]}?"
    return Request(text if text.endswith("?") or d.chance(0.3) else text + ".", values)


def _value(d: Drawer, one: Argument) -> str | int:
    match one.value:
        case "place":
            return d.place()
        case "person":
            return d.person()
        case "day":
            return d.pick([*DAYS, "today", "tomorrow"])
        case "date":
            return d.date()
        case "small":
            return d.number(1, 60)
        case "large":
            return d.number(100, 9999)
        case "hour":
            return d.number(1, 12)
        case "colour":
            return d.pick(COLOURS)
        case "choice":
            return d.pick(one.choices)
        case "thing":
            return d.thing()
        case "title" if not d.held and d.chance(0.3):
            return " ".join(d.pick(words()) for _ in range(d.number(3, 7))).capitalize()
        case "title":
            return " ".join(d.thing() if d.chance(0.7) else d.coined() for _ in range(d.number(1, 3)))
        case _:
            return d.made_up()
