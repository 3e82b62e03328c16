"""Every number that reaches C through a public door, at its edges, against a process of its own: each is refused with
its name or means what it says, no slot is lost, and the process lives.
"""

from __future__ import annotations

import http.client
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import numbers
from tests.fuzz.numbers import FLOATS, INTS, Range
from tests.fuzz.opening import opener
from tests.fuzz.rest import assert_at_rest
from tests.gguf_models import write_model
from tests.on_loop import LIMIT_S
from tests.processes import Server, serving

pytestmark = pytest.mark.slow

N_MIXED = 150
ROUTES: dict[str, tuple[dict[str, Any], dict[str, Range]]] = {
    "/v1/chat/completions": ({"messages": [{"role": "user", "content": "Hi"}]}, numbers.CHAT_BODY),
    "/v1/completions": ({"prompt": "Hi"}, numbers.COMPLETION_BODY),
}
WHOLE = {
    *("n", "max_tokens", "max_completion_tokens", "n_predict", "logit_bias", "seed", "top_k", "mirostat", "prompt"),
    *("dry_allowed_length", "dry_penalty_last_n", "repeat_last_n", "min_keep", "n_probs", "t_max_predict_ms"),
    *("reasoning_budget_tokens", "thinking_budget_tokens", "thinking_budget", "top_logprobs", "logprobs", "best_of"),
    *("priority", "n_indent"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("numbers") / "tiny.gguf", "llama", n_ctx=128)


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serving")
    flags = ("--n-ctx", "128", "--slots", "4", "--threads", "1", "--log-level", "error")
    with serving(folder, tiny, *flags) as server:
        server.line("ready: ")
        yield server


class Asker:
    """One connection, kept open."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=LIMIT_S)

    def close(self) -> None:
        self._connection.close()

    def ask(self, path: str, body: str) -> tuple[int, Any]:
        self._connection.request("POST", path, body.encode(), {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.fixture
def asker(server: Server) -> Iterator[Asker]:
    asker = Asker(server)
    yield asker
    asker.close()


def spelled(value: float) -> str:
    """As JSON; what is infinite as a number too large, since JSON has no other way."""
    return ("-" if value < 0 else "") + "1e999" if math.isinf(value) else json.dumps(value)


def body_of(whole: dict[str, Any], fields: dict[str, str]) -> str:
    """JSON of these fields, whose values are JSON already; every answer is short."""
    short = {} if fields.keys() & {"max_tokens", "max_completion_tokens", "n_predict"} else {"max_tokens": "2"}
    if "top_logprobs" in fields:
        short["logprobs"] = "true"
    parts = {**{name: json.dumps(value) for name, value in whole.items()}, **short, **fields}
    return "{" + ", ".join(f'"{name}": {value}' for name, value in parts.items()) + "}"


def values_of(name: str) -> list[float]:
    return [value for value in (INTS if name in WHOLE else (*INTS, *FLOATS)) if not math.isnan(value)]


def check(asker: Asker, path: str, whole: dict[str, Any], name: str, row: Range, value: float) -> None:
    status, told = asker.ask(path, body_of(whole, {name: row.form.format(spelled(value))}))
    is_taken = row.takes(value) and not math.isinf(value)  # which JSON cannot say
    case = (path, name, value, told)
    if status == 400:
        assert not is_taken, case
        assert told["error"]["param"].startswith(name) or told["error"]["param"] == "max_tokens", case
    elif status == 504:
        assert name == "timeout", case
    else:
        assert status == 200, case
        assert is_taken is not False, case


@pytest.mark.parametrize("path", ROUTES)
def test_each_number_of_a_body_is_taken_or_refused_by_its_name(path: str, server: Server, asker: Asker) -> None:
    whole, rows = ROUTES[path]
    for name, row in rows.items():
        for value in values_of(name):
            check(asker, path, whole, name, row, value)
    for bias in FLOATS:
        if not math.isnan(bias):
            check(asker, path, whole, "logit_bias", numbers.BIASES, bias)
    assert_at_rest(server, n_slots=4)


@pytest.mark.parametrize("seed", range(2))
def test_what_is_taken_alone_is_survived_together(seed: int, server: Server, asker: Asker) -> None:
    """Edges of many samplers at once: the chain chooses, or the request is refused; nothing else."""
    dice = random.Random(seed)
    known = {name: [v for v in values_of(name) if row.takes(v)] for name, row in numbers.SAMPLING.items()}
    for _ in range(N_MIXED):
        fields = {name: spelled(dice.choice(known[name])) for name in dice.sample(list(known), dice.randint(2, 8))}
        if dice.random() < 0.3:
            banned = [f'"{token}": {dice.choice(("false", "1e6", "-1e308", "0"))}' for token in range(480)]
            fields["logit_bias"] = "{" + ", ".join(banned) + "}"
        if dice.random() < 0.3:
            names = [
                "penalties",
                "dry",
                "top_n_sigma",
                "top_k",
                "typ_p",
                "top_p",
                "min_p",
                "xtc",
                "temperature",
                "infill",
            ]
            fields["samplers"] = json.dumps(dice.choices(names, k=dice.randint(0, 12)))
        body = body_of({"prompt": "the sea the sea the sea"}, {**fields, "max_tokens": "6", "logprobs": "3"})
        status, told = asker.ask("/v1/completions", body)
        assert status == 200, (body, told)
        assert told["usage"]["completion_tokens"] >= 1
    assert_at_rest(server, n_slots=4)


@pytest.mark.parametrize("name", [name for name in numbers.SPEC if name.startswith("n_")])
def test_each_number_of_a_spec_loads_or_is_refused(name: str, tiny: Path) -> None:
    """What the manifest takes, in a process for each: the model is served, or the load fails with a reason."""
    with opener() as process:
        for value in INTS:
            outcome = process.open(tiny, {name: value, **({"kv_layout": "unified"} if name == "n_cells" else {})})
            assert outcome.how in ("served", "loader", "manifest"), (name, value, outcome)
            assert (outcome.how == "manifest") == (not numbers.SPEC[name].takes(value)), (name, value, outcome)
            if outcome.how != "served":
                assert outcome.why
