"""Facts from small tables: capitals, planets, units, opposites, days, months, animals. Knows the tables."""

from __future__ import annotations

from tools.train_builtin.draw import Drawer, Example
from tools.train_builtin.kinds.words import DAYS, MONTHS

CAPITALS = dict(
    pair.split(":")
    for pair in [
        "France:Paris",
        "Germany:Berlin",
        "Italy:Rome",
        "Spain:Madrid",
        "Portugal:Lisbon",
        "Austria:Vienna",
        "Norway:Oslo",
        "Sweden:Stockholm",
        "Denmark:Copenhagen",
        "Finland:Helsinki",
        "Poland:Warsaw",
        "Greece:Athens",
        "Ireland:Dublin",
        "Hungary:Budapest",
        "Belgium:Brussels",
        "Switzerland:Bern",
        "Russia:Moscow",
        "Ukraine:Kyiv",
        "Turkey:Ankara",
        "Egypt:Cairo",
        "Kenya:Nairobi",
        "Japan:Tokyo",
        "China:Beijing",
        "India:Delhi",
        "Thailand:Bangkok",
        "Vietnam:Hanoi",
        "Iran:Tehran",
        "Iraq:Baghdad",
        "Canada:Ottawa",
        "Cuba:Havana",
        "Peru:Lima",
        "Chile:Santiago",
        "Brazil:Brasilia",
        "Australia:Canberra",
        "Iceland:Reykjavik",
        "Romania:Bucharest",
        "Bulgaria:Sofia",
        "Croatia:Zagreb",
        "Serbia:Belgrade",
        "Jordan:Amman",
    ]
)
ASK_CAPITAL = [
    "What is the capital of {}?", "Which city is the capital of {}?", "Name the capital of {}.", "The capital of {}?",
    "Tell me the capital of {}.", "What city is the capital of {}?", "{}: what is its capital?", "Capital of {}",
    "Do you know the capital of {}?", "I need the capital of {}.", "{} has which capital?", "Which capital has {}?", "Give me the capital of {}.",
    "{}: the capital?", "Which is the capital city of {}?", "I want to know the capital of {}.", "The capital city of {}?",
    "{}'s capital", "Where is the government of {}?", "Please name the capital of {}.", "What city is {}'s capital?",
    "Tell me {}'s capital.", "Name {}'s capital.", "What is {}'s capital?",
    "Can you tell me which city is the capital of {}?", "Say the capital city of {}.",
]  # fmt: skip
ASK_COUNTRY = [
    "Of which country is {} the capital?", "{} is the capital of which country?", "What country has the capital {}?",
    "Which country has {} as its capital?", "Whose capital is {}?",
]  # fmt: skip
PLANETS = ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"]
ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
OPPOSITES = [
    pair.split(":")
    for pair in [
        "hot:cold",
        "big:small",
        "up:down",
        "left:right",
        "day:night",
        "good:bad",
        "fast:slow",
        "old:young",
        "open:closed",
        "full:empty",
        "light:dark",
        "high:low",
        "hard:soft",
        "wet:dry",
        "long:short",
        "rich:poor",
        "early:late",
        "strong:weak",
        "happy:sad",
        "near:far",
    ]
]
UNITS = [
    ("metres", "a kilometre", 1000), ("grams", "a kilogram", 1000), ("centimetres", "a metre", 100),
    ("minutes", "an hour", 60), ("seconds", "a minute", 60), ("hours", "a day", 24), ("days", "a week", 7),
    ("months", "a year", 12), ("bytes", "a kilobyte", 1000), ("bits", "a byte", 8), ("cents", "a euro", 100),
    ("years", "a century", 100), ("millimetres", "a centimetre", 10), ("weeks", "a year", 52),
    ("kilograms", "a tonne", 1000), ("eggs", "a dozen", 12),
]  # fmt: skip
ASK_UNIT = [
    "How many {} are in {}?", "How many {} has {}?", "How many {} are there in {}?", "How many {} make {}?",
    "{} in {}?", "Tell me how many {} {} has.", "What number of {} is in {}?",
]  # fmt: skip
SAYS = [
    pair.split(":")
    for pair in ["dog:woof", "cat:meow", "cow:moo", "sheep:baa", "duck:quack", "horse:neigh", "pig:oink", "bee:buzz"]
]
MIXED = [
    (["What colour is the sky?", "Which colour has the sky?", "The sky has what colour?", "Tell me the colour of the sky."],
     "The sky is blue."),
    (["What colour is grass?", "Which colour has grass?", "Grass has what colour?", "Tell me the colour of grass."],
     "Grass is green."),
    (["How many legs has a spider?", "How many legs does a spider have?", "A spider has how many legs?",
      "Number of legs of a spider?"], "A spider has 8 legs."),
    (["How many legs has a dog?", "How many legs does a dog have?", "A dog has how many legs?",
      "Number of legs of a dog?"], "A dog has 4 legs."),
    (["At what temperature does water boil?", "When does water boil?", "What is the boiling point of water?",
      "How hot is boiling water?"], "Water boils at 100 degrees Celsius."),
    (["At what temperature does water freeze?", "When does water freeze?", "What is the freezing point of water?",
      "How cold is freezing water?"], "Water freezes at 0 degrees Celsius."),
    (["What is the largest planet?", "Which planet is the largest?", "Name the largest planet.", "Which is the biggest planet?"],
     "The largest planet is Jupiter."),
    (["How many planets are there?", "How many planets has the sun?", "Tell me how many planets there are.",
      "What is the number of planets?"], "There are 8 planets."),
    (["How many continents are there?", "How many continents has the earth?", "Tell me how many continents there are.",
      "What is the number of continents?"], "There are 7 continents."),
]  # fmt: skip


def capital(d: Drawer) -> Example:
    country, city = d.pick(list(CAPITALS.items()))
    if not d.held and d.chance(0.2):
        return _one(d, "facts", d.pick(ASK_COUNTRY).format(city), f"{city} is the capital of {country}.", country)
    question = d.pick(d.split(ASK_CAPITAL, 3)).format(country)
    return _one(d, "capitals", question, f"The capital of {country} is {city}.", city)


def fact(d: Drawer) -> Example:
    r = d.number(0, 7)
    if r == 0:
        wordings, answer = d.pick(MIXED)
        return _one(d, "facts", d.pick(d.split(wordings, 1)), answer, answer)
    if r == 1:
        i = d.number(0, 7)
        wordings = ["What is the {} planet from the sun?", "Which planet is the {} from the sun?", "Name the {} planet.",
                    "Tell me the {} planet of the sun.", "What planet is {} from the sun?"]  # fmt: skip
        answer = f"The {ORDINALS[i]} planet is {PLANETS[i]}."
        return _one(d, "facts", d.pick(d.split(wordings)).format(ORDINALS[i]), answer, PLANETS[i])
    if r == 2:
        a, b = d.pick(OPPOSITES)
        if d.chance(0.5):
            a, b = b, a
        wordings = ["What is the opposite of {}?", "The opposite of {}?", "Name the opposite of {}.",
                    "Tell me the opposite of {}.", "Which word is the opposite of {}?"]  # fmt: skip
        return _one(d, "facts", d.pick(d.split(wordings)).format(a), f"The opposite of {a} is {b}.", b)
    if r in (3, 4):
        part, whole, n = d.pick(UNITS)
        question = d.pick(d.split(ASK_UNIT)).format(part, whole)
        return _one(d, "facts", question, f"There are {n} {part} in {whole}.", str(n))
    if r == 5:
        names = d.pick([DAYS, MONTHS])
        i = d.number(0, len(names) - 1)
        word = "day" if names is DAYS else "month"
        if d.chance(0.5):
            other = names[(i + 1) % len(names)]
            wordings = ["Which {w} comes after {x}?", "What {w} follows {x}?", "What is the {w} after {x}?",
                        "Name the {w} after {x}.", "After {x} comes which {w}?"]  # fmt: skip
            answer = f"After {names[i]} comes {other}."
        else:
            other = names[i - 1]
            wordings = ["Which {w} comes before {x}?", "What {w} is before {x}?", "What is the {w} before {x}?",
                        "Name the {w} before {x}.", "Before {x} comes which {w}?"]  # fmt: skip
            answer = f"Before {names[i]} comes {other}."
        return _one(d, "facts", d.pick(d.split(wordings)).format(w=word, x=names[i]), answer, other)
    if r == 6:
        animal, sound = d.pick(SAYS)
        wordings = ["What does a {} say?", "What sound does a {} make?", "Which sound does a {} make?",
                    "How does a {} sound?", "The {} says what?"]  # fmt: skip
        return _one(d, "facts", d.pick(d.split(wordings)).format(animal), f"A {animal} says {sound}.", sound)
    return capital(d)


def _one(d: Drawer, kind: str, question: str, answer: str, fact: str) -> Example:
    question = question[:1].upper() + question[1:]
    turns = ({"role": "user", "content": d.noisy(question)}, {"role": "assistant", "content": answer})
    return Example(kind, turns, facts=(fact,))
