"""Sentences about people and things, and wordings of the questions that they answer. Knows the table."""

from __future__ import annotations

# A sentence, and wordings of the question that it answers. The last two of each are held out of all training.
RELATIONS: list[tuple[str, list[str]]] = [
    ("{a} lives in {place}.", ["Where does {a} live?", "Where is {a} at home?", "The city of {a}?", "Where can one visit {a}?", "What city does {a} call home?", "Find the home town of {a}.", "In which city does {a} live?", "What is the home of {a}?",
     "{a} lives where?", "Which town does {a} live in?", "Tell me where {a} lives."]),
    ("The {thing} costs {n} euros.", ["How much is the {thing}?", "What must I pay for the {thing}?", "What do they want for the {thing}?", "Tell me the cost of the {thing}.", "How many euros for the {thing}?", "Is the {thing} dear?", "What does the {thing} cost?", "The price of the {thing}?",
     "What is the price of the {thing}?", "How expensive is the {thing}?", "For how much is the {thing} sold?"]),
    ("{a} works as a {made}.", ["What is the job of {a}?", "What work does {a} do?", "How does {a} earn money?", "Tell me the job of {a}.", "{a} is what by profession?", "What does {a} do for a living?", "What does {a} do?", "As what does {a} work?", "The profession of {a}?",
     "Which job has {a}?", "What is {a}'s work?"]),
    ("We meet {a} on {day}.", ["When do we meet {a}?", "When is the meeting with {a}?", "Which day was agreed with {a}?", "Tell me the day we meet {a}.", "When will we see {a}?", "On what day does {a} come?", "On which day is the meeting with {a}?", "The day of the meeting with {a}?",
     "What day do we see {a}?", "When is {a} to be met?", "Which day do we meet {a}?"]),
    ("The {thing} is in the {made}.", ["Where is the {thing}?", "Tell me where the {thing} is.", "Where was the {thing} put?", "Where does the {thing} lie?", "I look for the {thing}.", "Which place has the {thing}?", "In what is the {thing}?", "Where can I find the {thing}?",
     "Where did you put the {thing}?", "What holds the {thing}?", "Where do I look for the {thing}?"]),
    ("The code of {place} is {n}.", ["Which code has {place}?", "What number has {place}?", "Give me the code of {place}.", "The code for {place}?", "Find the code of {place}.", "How is the code of {place}?", "What is the code of {place}?", "Tell me the code of {place}.",
     "The number of {place}?", "I need the code for {place}.", "Which number belongs to {place}?"]),
    ("{a} sent the {thing} to {b}.", ["Who got the {thing} from {a}?", "Who has the {thing} from {a} now?", "Where did {a} send the {thing}?", "Who was given the {thing} by {a}?", "For whom was the {thing} of {a}?", "The {thing} from {a} is for whom?", "To whom did {a} send the {thing}?",
     "Who received the {thing} of {a}?", "The {thing} of {a} went to whom?", "Whom did {a} send the {thing}?",
     "Who was sent the {thing} by {a}?"]),
    ("{a} is {n} years old.", ["How old is {a}?", "Tell me the age of {a}.", "Which age has {a}?", "How many years old is {a}?", "Do you know how old {a} is?", "{a} has what age?", "What is the age of {a}?", "The age of {a}?", "How many years has {a}?",
     "Tell me how old {a} is.", "What age has {a}?"]),
]  # fmt: skip
