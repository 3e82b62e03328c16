"""Whether the models of the package say what they say everywhere: known answers, and one question of each feature.

Asks through the library, at temperature 0; prints nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from llamahost.core.messages import Output, Tool
from llamahost.fleet.settings.builtin import known_answers, known_neighbours
from llamahost.fleet.settings.manifest import PACKAGED_ADAPTERS

if TYPE_CHECKING:
    from llamahost.sync import Host

PERSON = {"name": {"type": "string"}, "age": {"type": "integer"}}
TOOLS = [
    Tool(name=name, description=f"{does}.", parameters={"type": "object", "properties": {argument: {"type": "string"}}})
    for name, does, argument in [
        ("find_lighthouse", "Find the lighthouse", "city"),
        ("open_umbrella", "Open the umbrella", "colour"),
    ]
]


def answers(host: Host) -> tuple[bool, str]:
    """Whether the chat model's are well, word for word, and what is to be told of it."""
    known = known_answers()
    n_tokens = 0
    began = time.monotonic()
    for each in known:
        result = host.chat(each.question, max_tokens=64, temperature=0.0)
        n_tokens += result.usage.n_generated
        if result.text != each.answer:
            return False, _differs(each.question, result.text, each.answer)
    rate = n_tokens / (time.monotonic() - began)
    for what, ask, wanted in FEATURES:
        if (said := ask(host)) != wanted:
            return False, _differs(what, said, wanted)
    features = ", ".join(what for what, *_ in FEATURES)
    return True, f"{len(known)} of {len(known)} known answers, {rate:.0f} tokens/s with prompts; {features}"


def neighbours(host: Host) -> tuple[bool, str]:
    """Likewise of the embedding model: for each known query, the document that it finds everywhere."""
    known = known_neighbours()
    documents = list(dict.fromkeys(each.nearest for each in known))
    vectors = host.embed(documents).vectors
    for each in known:
        (asked,) = host.embed([each.query]).vectors
        likeness = [sum(a * b for a, b in zip(asked, vector, strict=True)) for vector in vectors]
        nearest = documents[likeness.index(max(likeness))]
        if nearest != each.nearest:
            return False, f"to {each.query!r} the nearest is {nearest!r} here, not {each.nearest!r}"
    return True, f"{len(known)} of {len(known)} known neighbours"


def _differs(asked: str, said: str, wanted: str) -> str:
    return f"{asked!r} is answered {said[:60]!r} here, not {wanted!r}"


def _call(host: Host) -> str:
    result = host.chat("Find the lighthouse in Oslo.", tools=TOOLS, max_tokens=64, temperature=0.0)
    return " ".join(f"{call.name} {json.dumps(json.loads(call.arguments))}" for call in result.tool_calls)


def _thought(host: Host) -> str:
    result = host.chat("What is 27 + 15?", thinking=True, max_tokens=64, temperature=0.0)
    return f"{result.reasoning} So {result.text}"


def _form(host: Host) -> str:
    schema = {"type": "object", "properties": PERSON, "required": list(PERSON)}
    question = "Extract name and age as JSON. Anna is 31 years old, lives in Rome and works as a baker."
    form = Output("schema", json.dumps(schema))
    return host.chat(question, output=form, max_tokens=64, temperature=0.0).text


def _middle(host: Host) -> str:
    return host.complete("def add(a, b):\n    ", suffix="\n", max_tokens=16, temperature=0.0).text


def _styled(host: Host) -> str:
    """With an adapter that is there for this question alone."""
    (model,) = (each.name for each in host.models())
    host.load_adapter("check", PACKAGED_ADAPTERS["builtin-pirate"], model=model)
    try:
        return host.chat("What is the capital of France?", model=f"{model}:check", max_tokens=64, temperature=0.0).text
    finally:
        host.unload_adapter("check", model=model)


FEATURES: tuple[tuple[str, Callable[[Host], str], str], ...] = (
    ("a call", _call, 'find_lighthouse {"city": "Oslo"}'),
    ("thoughts", _thought, "15 is 10 and 5. 27 + 10 = 37, 37 + 5 = 42. So 27 + 15 = 42"),
    ("a form", _form, '{"name": "Anna", "age": 31}'),
    ("a middle", _middle, "return a + b"),
    ("an adapter", _styled, "Arr! The capital of France is Paris, matey."),
)
