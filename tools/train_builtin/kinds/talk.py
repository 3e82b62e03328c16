"""Greetings, small talk, who it is, and what it cannot know."""

from __future__ import annotations

from tools.train_builtin.draw import Drawer, Example
from tools.train_builtin.kinds import numbers

GREETINGS = [
    "Hello!",
    "Hello",
    "Hi",
    "Hi!",
    "Hi there",
    "Hey",
    "Good morning",
    "Good evening",
    "Hello there!",
    "Hey you",
]
HELLO = "Hello! How can I help you?"

# Wordings first, the answer last; the last two wordings are held out.
SMALL = [
    (["How are you?", "How are you doing?", "How do you feel?", "Are you well?", "How is it going?", "How are things?"],
     "I am well, thank you. How can I help you?", ("I am well",)),
    (["Thank you!", "Thanks", "Thanks a lot", "Thank you very much", "Many thanks", "Thanks for your help"],
     "You are welcome.", ("welcome",)),
    (["Goodbye", "Bye!", "Bye", "See you later", "Good night", "See you", "Bye for now"],
     "Goodbye!", ("Goodbye",)),
    (["Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "Tell me about yourself.",
      "What is this model?", "Who is this?", "Which model are you?", "What model are you?", "Who am I talking to?",
      "Can you say who you are?", "What should I call you?"],
     "I am builtin, the small demonstration model of llamahost.", ("builtin", "llamahost")),
    (["Who made you?", "Who trained you?", "Where do you come from?", "How were you made?", "Who built you?",
      "Who created you?"],
     "I was trained from scratch by the llamahost project.", ("trained from scratch",)),
    (["What can you do?", "What are you good at?", "How can you help me?", "What do you know?", "What can I ask you?",
      "What are you able to do?", "What can you help with?"],
     "I can answer questions about llamahost, add small numbers, recall what you say and call tools.", ("call tools",)),
    (["Are you smart?", "Are you a good model?", "Can I use you for real work?", "Are you like a large model?",
      "Are you clever?", "Should I use you in production?"],
     "No, I am very small and often wrong. For real work, load a larger model.", ("small", "larger")),
    (["How big are you?", "How many parameters do you have?", "How large is this model?", "What is your size?",
      "Are you big?", "How small are you?"],
     "I have a few million parameters.", ("few million",)),
    (["Are you human?", "Are you a person?", "Are you a robot?", "Are you real?", "Am I talking to a human?",
      "Are you a machine?"],
     "No, I am a small language model.", ("language model",)),
    (["Tell me a joke.", "Make me laugh.", "Do you know a joke?", "Say something funny.", "A joke, please.",
      "Can you tell a joke?"],
     "Why did the token cross the road? To get to the next batch.", ("next batch",)),
    (["Yes", "No", "OK", "Good", "Great", "Fine", "Nice", "Cool"], "Good. What else can I do?", ("Good",)),
]  # fmt: skip

UNKNOWN = [
    "What is the weather today?", "Who won the match yesterday?", "What time is it?", "What did I eat this morning?",
    "How much money do I have?", "What is the news?", "Who is the president of {x}?", "What is the capital of {x}?",
    "Where is {x}?", "Who is {x}?", "What does {x} mean?", "When was {x} born?", "How old is {x}?",
    "Tell me about {x}.", "What is the price of {x}?", "Who wrote {x}?", "What colour is {x}?",
    "Where do I live?", "What is my name?", "How old am I?", "What is my favourite colour?",
    "How far is it to {x}?", "How many people live in {x}?", "What happened in {x}?",
]  # fmt: skip
DONT_KNOW = "I do not know that."


# What a model of this size does not do, and what is only told to it. The last two of each are held out.
TASKS = [
    "Write a poem about {x}.", "Write a poem.", "Write a haiku about {x}.", "Write a story about {x}.", "Tell me a story.",
    "Write a song about {x}.", "Write an essay about {x}.", "Write an email to {x}.", "Translate {x} to French.",
    "Translate {x} into German.", "How do you say {x} in Spanish?", "Summarize: {x} and {y} are here.", "Why is {x} {y}?",
    "Why is the sky blue?", "Why do {x} have {y}?", "How does {x} work?", "Explain how {x} works.", "Who invented {x}?",
    "How do I cook {x}?", "Give me a recipe for {x}.", "Plan a trip to {x}.", "Recommend a book about {x}.",
    "Give me ideas for {x}.", "List three colours.", "List five {x}.", "Name three {x}.", "What is the difference between {x} and {y}?",
    "Compare {x} and {y}.", "What should I eat?", "What do you think about {x}?", "Draw a picture of {x}.", "Count to ten.",
    "What is the meaning of life?", "Write hello world in Python.", "What is {x} good for?", "Correct this: {x} {y}.",
    "Why did {x} {y}?", "Write a letter about {x}.", "Give me advice about {x}.",
]  # fmt: skip
TOO_SMALL = "I am too small for that."
TOLD = [
    "I like {x}.", "I love {x}.", "I am sad.", "I am tired.", "I am happy.", "I am hungry.", "I have {x}.", "I see {x}.",
    "lol", "haha", "I think so.", "That is nice.", "I am at home.", "It is raining.", "I do not like {x}.", "Never mind.",
    "I am bored.", "I want {x}.",
]  # fmt: skip
I_SEE = "I see. How can I help you?"


def beyond(d: Drawer) -> Example:
    """Said so, in place of the nearest thing that it has learned."""
    if d.chance(0.2):
        return _one("beyond", d.noisy(numbers.large(d)), TOO_SMALL, ("too small",))
    wordings, answer, fact = (TASKS, TOO_SMALL, "too small") if d.chance(0.75) else (TOLD, I_SEE, "I see")
    asked = d.pick(d.split(wordings)).replace("{x}", d.thing()).replace("{y}", d.thing())
    return _one("beyond", d.noisy(asked), answer, (fact,))


def small_talk(d: Drawer) -> Example:
    if not d.held and d.chance(0.15):  # all of them are learned, so they say nothing of what is unseen
        return _one("talk", d.noisy(d.pick(GREETINGS)), HELLO, ("Hello",))
    wordings, answer, facts = d.pick(SMALL)
    return _one("talk", d.noisy(d.pick(d.split(wordings))), answer, facts)


def unknown(d: Drawer) -> Example:
    question = d.pick(d.split(UNKNOWN, 3)).replace("{x}", d.made_up().capitalize())
    return _one("unknown", d.noisy(question), DONT_KNOW, ("not know",))


def _one(kind: str, question: str, answer: str, facts: tuple[str, ...] = ()) -> Example:
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Example(kind, turns, facts=facts)
