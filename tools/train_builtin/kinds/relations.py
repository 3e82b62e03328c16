"""Sentences about people and things, and wordings of the questions that they answer. Knows the table."""

from __future__ import annotations

# A sentence, and wordings of the question that it answers. The last two of each are held out of all training.
RELATIONS: list[tuple[str, list[str]]] = [
    ("{a} lives in {place}.", ["Where does {a} live?", "In which city does {a} live?", "What is the home of {a}?",
     "{a} lives where?", "Which town does {a} live in?", "Tell me where {a} lives."]),
    ("The {thing} costs {n} euros.", ["How much is the {thing}?", "What does the {thing} cost?", "The price of the {thing}?",
     "What is the price of the {thing}?", "How expensive is the {thing}?", "For how much is the {thing} sold?"]),
    ("{a} works as a {made}.", ["What is the job of {a}?", "What does {a} do?", "As what does {a} work?", "The profession of {a}?",
     "Which job has {a}?", "What is {a}'s work?"]),
    ("We meet {a} on {day}.", ["When do we meet {a}?", "On which day is the meeting with {a}?", "The day of the meeting with {a}?",
     "What day do we see {a}?", "When is {a} to be met?", "Which day do we meet {a}?"]),
    ("The {thing} is in the {made}.", ["Where is the {thing}?", "In what is the {thing}?", "Where can I find the {thing}?",
     "Where did you put the {thing}?", "What holds the {thing}?", "Where do I look for the {thing}?"]),
    ("The code of {place} is {n}.", ["Which code has {place}?", "What is the code of {place}?", "Tell me the code of {place}.",
     "The number of {place}?", "I need the code for {place}.", "Which number belongs to {place}?"]),
    ("{a} sent the {thing} to {b}.", ["Who got the {thing} from {a}?", "To whom did {a} send the {thing}?",
     "Who received the {thing} of {a}?", "The {thing} of {a} went to whom?", "Whom did {a} send the {thing}?",
     "Who was sent the {thing} by {a}?"]),
    ("{a} is {n} years old.", ["How old is {a}?", "What is the age of {a}?", "The age of {a}?", "How many years has {a}?",
     "Tell me how old {a} is.", "What age has {a}?"]),
]  # fmt: skip
