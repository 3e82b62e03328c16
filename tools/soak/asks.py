"""Requests at random, each with what may come of it. Knows dialects; knows no wire and no process."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.soak.answers import Check, embedded, generated, infilled, is_person, matches, ranked
from tools.soak.house import KEYS, LATE_KEY, MAY_GO, TIMEOUT_S, known_answers

WORDS = ("sea", "ship", "sail", "storm", "the", "old", "man", "and", "rope", "wind", "of", "north", "été", "海", "🙂")
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
BUSY = frozenset({429, 503, 504})
CLOSE = 0.4  # nats between the first and the second: what is computed beside others may choose otherwise below it

NAMES = (
    *("chat", "chat", "gpt-4o", "chat:pirate", "llama", "LLAMA.gguf", "llama:poet", "swa", "hybrid", "recurrent"),
    *("any", "any-thing", "halves", "soonest", "auto", ""),  # routes, and whoever can
)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": about,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 12}},
                "required": ["city"],
            },
        },
    }
    for name, about in (("weather", "Tells the weather of a city."), ("time", "Tells the time of a city."))
]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
}


@dataclass(frozen=True)
class Ask:
    """One request. `statuses` may come of it; `check` is for a 200. `timeout_s`: when it must be over, but for waiting
    in the server's own queue of connections."""

    kind: str
    path: str
    body: bytes | None
    statuses: frozenset[int]
    check: Check | None = None
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {KEYS[0]}"})
    timeout_s: float = TIMEOUT_S
    is_stream: bool = False


@dataclass
class Probe:
    """A request whose answer alone is known."""

    model: str
    path: str
    body: dict[str, Any]
    begins: str = ""
    numbers: list[float] | None = None


def probes() -> list[Probe]:
    greedy = {"temperature": 0, "max_tokens": 16}
    found = [
        Probe(model, CHAT, {"messages": [{"role": "user", "content": question}], **greedy})
        for model in ("chat", "chat:pirate")
        for question, _ in known_answers()
    ]
    tale = "the old man and the sea and the ship of the north "
    for model in ("llama", "llama:poet", "llama:judge", "swa", "hybrid", "recurrent"):
        for prompt in ("Once upon a time", tale, tale + tale, tale + tale + "wind", "x"):
            messages = [{"role": "user", "content": prompt}]
            found.append(Probe(model, CHAT, {"messages": messages, "ignore_eos": True, **greedy}))
    for text in ("a cat sat on the mat", "ships sail", "how do I set a key?"):
        found.append(Probe("embed", "/v1/embeddings", {"input": text}))
        found.append(Probe("llama", "/v1/embeddings", {"input": text}))
        documents = ["ships sail the sea", "a cat", "bread is baked", "the storm"]
        found.append(Probe("rank", "/v1/rerank", {"query": text, "documents": documents}))
    return found


class Asks:
    """Draws requests from one seed."""

    def __init__(self, chance: random.Random, known: list[Probe]) -> None:
        self.chance = chance
        self._known = known
        self._makers = {
            self.probe: 8,
            self.free: 6,
            self.formed: 3,
            self.called: 2,
            self.infill: 3,
            self.embeddings: 2,
            self.rerank: 2,
            self.too_long: 1,
            self.huge: 1,
            self.invalid: 2,
            self.elsewhere: 2,
            self.polled: 3,
        }

    def draw(self) -> Ask:
        (maker,) = self.chance.choices(list(self._makers), list(self._makers.values()))
        return maker()

    def words(self, n: int) -> str:
        return " ".join(self.chance.choices(WORDS, k=n))

    def _ask(
        self, kind: str, path: str, body: dict[str, Any], check: Check | None, statuses: frozenset[int] = frozenset()
    ) -> Ask:
        chance = self.chance
        headers = {"Authorization": f"Bearer {chance.choice(KEYS)}"}
        timeout_s = 12.0 if body.get("model") == "recurrent" else TIMEOUT_S
        may = BUSY | {200} | statuses
        if chance.random() < 0.12 and path != "/v1/rerank":
            body = {**body, "timeout": chance.choice([0.02, 0.1, 0.5, 2.0])}
            timeout_s = body["timeout"]
        if chance.random() < 0.05:
            headers["Authorization"] = f"Bearer {LATE_KEY}"
            may |= {401}
        elif chance.random() < 0.02:
            headers["Authorization"] = "Bearer wrong"
            may = frozenset({401})
        if chance.random() < 0.2:
            headers["X-Session-Id"] = f"s{chance.randrange(5)}"
        if chance.random() < 0.1:
            headers["X-When-Loading"] = chance.choice(["wait", "refuse"])
        if chance.random() < 0.1:
            headers["X-Priority"] = chance.choice(["interactive", "batch"])
        if any(body.get("model", "").startswith(name) for name in MAY_GO) or not body.get("model"):
            may |= {404}
        data = json.dumps(body, ensure_ascii=chance.random() < 0.5).encode()
        is_stream = bool(body.get("stream"))
        return Ask(kind, path, data, may, check, headers=headers, timeout_s=timeout_s, is_stream=is_stream)

    def _manner(self) -> dict[str, Any]:
        manner: dict[str, Any] = {}
        if self.chance.random() < 0.6:
            manner["stream"] = True
            if self.chance.random() < 0.7:
                manner["stream_options"] = {"include_usage": True}
        if self.chance.random() < 0.2:
            manner["user"] = f"u{self.chance.randrange(4)}"
        return manner

    def probe(self) -> Ask:
        probe = self.chance.choice(self._known)
        if probe.path == "/v1/embeddings":
            return self._ask(
                "embeddings, known", probe.path, {**probe.body, "model": probe.model}, embedded(1, probe.numbers)
            )
        if probe.path == "/v1/rerank":
            check = ranked(len(probe.body["documents"]), probe.numbers)
            return self._ask("rerank, known", probe.path, {**probe.body, "model": probe.model}, check)
        n = self.chance.choice([1, 1, 1, 3])
        body = {**probe.body, **self._manner(), "model": probe.model, "n": n, "seed": 1}
        if self.chance.random() < 0.3:
            body |= {"logprobs": True, "top_logprobs": self.chance.choice([1, 5, 20])}
        check = generated(
            is_chat=True, is_stream=body.get("stream", False), n=n, max_tokens=body["max_tokens"], begins=probe.begins
        )
        return self._ask("chat, known", CHAT, body, check)

    def _model(self) -> str:
        return self.chance.choice(NAMES)

    def free(self) -> Ask:
        """Sampled answers, in all manners."""
        chance = self.chance
        n, stop = chance.choice([1, 1, 2, 4]), chance.choice(["", "", "e", "sea"])
        max_tokens = chance.choice([1, 8, 40, 120])
        body: dict[str, Any] = {**self._manner(), "model": self._model(), "n": n, "max_tokens": max_tokens}
        body |= {"temperature": chance.choice([0, 0.7, 1.5]), "seed": chance.randrange(100)}
        if stop:
            body["stop"] = [stop, "never comes"]
        if chance.random() < 0.3:
            body |= chance.choice(
                [
                    {"top_k": 5},
                    {"min_p": 0.1},
                    {"mirostat": 2},
                    {"repeat_penalty": 1.2},
                    {"dry_multiplier": 0.8},
                    {"logit_bias": {"30": -100}},
                    {"timings_per_token": True, "return_progress": True},
                ]
            )
        is_chat = chance.random() < 0.5
        if is_chat:
            turns = chance.randrange(1, 4) * 2 - 1
            names = ("user", "assistant")
            body["messages"] = [
                {"role": names[k % 2], "content": self.words(chance.randrange(1, 12))} for k in range(turns)
            ]
            if chance.random() < 0.2:
                body |= {"logprobs": True, "top_logprobs": 20}
            if chance.random() < 0.3:
                body["messages"].insert(0, {"role": "system", "content": "Be brief."})
        else:
            body["prompt"] = self.words(chance.randrange(1, 40))
            if chance.random() < 0.2:
                body |= {"logprobs": 5}
                if n == 1 and chance.random() < 0.5:
                    body["echo"] = True
                    stop = ""  # which may stand in the prompt
            elif chance.random() < 0.2:
                body["prompt"] = [body["prompt"], self.words(4)]
                n *= 2
        statuses = frozenset({400}) if body["model"] in ("auto", "") or "lora" in body else frozenset()
        n_max = max_tokens
        check = generated(is_chat=is_chat, is_stream=body.get("stream", False), n=n, max_tokens=n_max, stop=stop)
        return self._ask("chat" if is_chat else "completion", CHAT if is_chat else COMPLETION, body, check, statuses)

    def formed(self) -> Ask:
        chance = self.chance
        body: dict[str, Any] = {
            **self._manner(),
            "model": chance.choice(["chat", "llama", "swa", "hybrid", "recurrent"]),
        }
        body |= {"max_tokens": 40, "messages": [{"role": "user", "content": f"{self.words(3)}: who, and how old?"}]}
        forms: list[tuple[dict[str, Any], Callable[[str], object]]] = [
            (
                {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}},
                is_person,
            ),
            ({"grammar": 'root ::= "yes" | "no" [a-z]{1,5}'}, matches("yes|no[a-z]{1,5}")),
            ({"guided_regex": r"[0-9]{2,4}-[a-f]+"}, matches(r"[0-9]{2,4}-[a-f]+")),
            ({"guided_choice": ["alpha", "beta", "be"]}, matches("alpha|beta|be")),
            ({"response_format": {"type": "json_object"}}, lambda text: json.loads(text)),
        ]
        given, form = chance.choice(forms)
        check = generated(is_chat=True, is_stream=body.get("stream", False), max_tokens=40, form=form)
        return self._ask("chat, formed", CHAT, {**body, **given}, check)

    def called(self) -> Ask:
        chance = self.chance
        choice = chance.choice(["auto", "required", "none", {"type": "function", "function": {"name": "time"}}])
        body = {**self._manner(), "model": chance.choice(["chat", "chat", "llama", "hybrid"]), "max_tokens": 60}
        body |= {"messages": [{"role": "user", "content": "What is the weather in Rome?"}], "tools": TOOLS}
        body["tool_choice"] = choice
        check = generated(
            is_chat=True, is_stream=body.get("stream", False), max_tokens=60, must_call=choice not in ("auto", "none")
        )
        small = frozenset() if body["model"] == "chat" else frozenset({400})  # the tools alone are too long for it
        return self._ask("chat, tools", CHAT, body, check, small)

    def infill(self) -> Ask:
        chance = self.chance
        body: dict[str, Any] = {"model": chance.choice(["chat", "llama", "swa", "hybrid"]), "n_predict": 12}
        body |= {"input_prefix": "def add(a, b):\n    ", "input_suffix": "\n", "stream": chance.random() < 0.5}
        if chance.random() < 0.6:
            body["session_id"] = f"e{chance.randrange(2)}"  # takes the place of the one before
        if chance.random() < 0.3:
            body["input_extra"] = [{"filename": "a.py", "text": self.words(60)}]
        check = infilled(is_stream=body["stream"], max_tokens=12)
        return self._ask("infill", "/infill", body, check, frozenset({409, 501}))

    def embeddings(self) -> Ask:
        texts = [self.words(self.chance.randrange(1, 30)) for _ in range(self.chance.choice([1, 3, 20]))]
        model = self.chance.choice(["embed", "llama", "auto"])
        body = {"input": texts, "model": model}
        return self._ask(
            "embeddings", "/v1/embeddings", body, embedded(len(texts)), frozenset({404} if model == "auto" else ())
        )

    def rerank(self) -> Ask:
        texts = [self.words(self.chance.randrange(1, 12)) for _ in range(self.chance.choice([1, 4, 12]))]
        body = {"query": self.words(3), "documents": texts, "model": "rank"}
        return self._ask("rerank", self.chance.choice(["/v1/rerank", "/v2/rerank"]), body, ranked(len(texts)))

    def too_long(self) -> Ask:
        model = self.chance.choice(["chat", "llama", "swa", "hybrid", "recurrent"])
        text = self.words(self.chance.choice([800, 3000]))
        return self._ask("too long", COMPLETION, {"prompt": text, "model": model}, _never, frozenset({400}))

    def huge(self) -> Ask:
        text = self.words(self.chance.choice([60_000, 400_000]))
        body = {"messages": [{"role": "user", "content": text}], "model": "chat"}
        return self._ask("huge", CHAT, body, _never, frozenset({400, 413}))

    def invalid(self) -> Ask:
        good = {"messages": [{"role": "user", "content": "x"}], "model": "chat"}
        wrong: list[bytes] = [b"", b"{", b"[]", b'{"messages": 3}', b"\xff\xfe", b'{"a":' * 3000, b"null"]
        wrong += [
            json.dumps({**good, **more}).encode()
            for more in (
                {"n": 0},
                {"n": 10**6},
                {"max_tokens": -5},
                {"temperature": "hot"},
                {"top_logprobs": 3},
                {"logprobs": True, "top_logprobs": 10**4},
                {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}},
                {"grammar": "root ::= nothing"},
                {"stop": ["x"] * 10_000},
                {"tools": [{"type": "function"}]},
                {"lora": [{"id": 77, "scale": 1}]},
                {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            )
        ]
        path = self.chance.choice([CHAT, CHAT, COMPLETION, "/infill", "/v1/embeddings", "/v1/rerank"])
        statuses = frozenset({400, 404} | BUSY)
        return Ask("invalid", path, self.chance.choice(wrong), statuses, _never)

    def elsewhere(self) -> Ask:
        method, path, status = self.chance.choice(
            [
                ("GET", "/nowhere", 404),
                ("GET", CHAT, 405),
                ("POST", "/api/models/nothing/load", 404),
                ("DELETE", "/v1/models", 405),
                ("GET", "/v1/models/nothing", 404),
                ("GET", "/api/requests?limit=0", 400),
                ("GET", "/api/events?kinds=nothing", 400),
                ("POST", CHAT, 404),
                ("POST", "/v1/rerank", 400),
            ]
        )
        body = {"model": "nothing-like-it", "messages": [{"role": "user", "content": "x"}]} if path == CHAT else {}
        if path == "/v1/rerank":
            body = {"model": "chat", "query": "x", "documents": ["y"]}
        data = json.dumps(body).encode() if method == "POST" else None
        return Ask("elsewhere", path, data, frozenset({status} | BUSY), method=method)

    def polled(self) -> Ask:
        paths = ["/api/models", "/api/stats", "/api/requests?limit=50", "/api/gpus", "/metrics", "/health", "/ready"]
        paths += ["/v1/models", "/lora-adapters?model=llama", "/api/models/chat", "/openapi.json", "/"]
        return Ask("polled", self.chance.choice(paths), None, frozenset({200, 503}), method="GET")


def _never(response: object) -> None:
    raise AssertionError("a request that is wrong was answered")
