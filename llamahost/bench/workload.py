"""Make the requests of a round. Pure: equal arguments give equal bytes; knows no server and no clock.

Lengths are meant in tokens and made of words: `Calibration`, measured on a server once, says how many words those are.
Everything that is sent is known before the round begins. That holds for the agent's history too: the assistant's turns
in it are written here, not taken from the server, so that every server is asked exactly the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

import orjson

Endpoint = Literal["completions", "chat"]

PATHS: dict[Endpoint, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}

_WORDS = """
    about after again all also always and another any around ask back because been before began being below best
    better big book both bring but call came can carry change city close cold come could cut day did different does
    done door down each early eat end even every eye face family far feel few find fire first five follow food for
    found four friend from garden gave get girl give good great green grow had half hand hard has have head hear help
    her here high him his home hot house how idea into just keep kind king knew know land large last late learn leave
    left letter life light like line list little live long look made make man many may mean men might more morning
    most mother mountain move much must name near need never new next night north nothing now number off often old
    once one only open other our out over own page paper part people place plant play point read river said same saw
    say school sea second see seem sentence set she short should show side small some song soon sound stand start
    still stop story such sun table take talk tell than that the their them then there these they thing think this
    thought three time together told took tree turn two under until upon use very voice walk want was watch water way
    well went were what when where which while white who why will wind with without wood word work world would write
    year you young your
"""
WORDS = tuple(_WORDS.split())


@dataclass(frozen=True, slots=True)
class Calibration:
    """A prompt of n words has about `base + n * per_word` tokens."""

    per_word: float = 1.0
    base: float = 0.0

    def n_words(self, n_tokens: int) -> int:
        return max(1, round((n_tokens - self.base) / self.per_word))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What every request of a run has in common."""

    model: str
    endpoint: Endpoint = "completions"
    temperature: float = 0.0
    seed: int = 1
    ignore_eos: bool = True
    n_prompt: int | None = None  # tokens; None: the workload's own
    n_max: int | None = None
    calibration: Calibration = Calibration()


Turn: TypeAlias = bytes
"""The body of one request."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Requests that follow each other, each sent when the one before is answered."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """A named way to make conversations. `in_waves`: as many as there are clients start at once, and all end first."""

    name: str
    about: str
    n_prompt: int
    n_max: int
    build: Callable[[Maker, int], Conversation]
    in_waves: bool = False


class Maker:
    """Writes the prompts of one round of one workload."""

    def __init__(self, workload: Workload, shape: Shape, *, round_no: int, n_clients: int) -> None:
        self.n_clients = n_clients
        self.n_prompt = shape.n_prompt or workload.n_prompt
        self.n_max = shape.n_max or workload.n_max
        self._shape = shape
        self._round = f"{shape.seed}/{workload.name}/{round_no}"

    def random(self, *what: object) -> Random:
        """A generator for one purpose within this round."""
        return Random("/".join([self._round, *map(str, what)]))

    def fixed(self, *what: object) -> Random:
        """A generator for what stays the same in all rounds, like a tool list."""
        return Random("/".join([str(self._shape.seed), *map(str, what)]))

    def text(self, random: Random, n_tokens: int) -> str:
        return " ".join(random.choices(WORDS, k=self._shape.calibration.n_words(n_tokens)))

    def plain(self, prompt: str, *, n_max: int, system: str = "") -> Turn:
        """One question."""
        if self._shape.endpoint == "completions":
            return self._body(f"{system}\n\n{prompt}" if system else prompt, n_max)
        messages = [{"role": "system", "content": system}] if system else []
        return self._body([*messages, {"role": "user", "content": prompt}], n_max)

    def dialogue(self, system: str, said: list[str], *, n_max: int) -> Turn:
        """A question with its history: `said` alternates between user and assistant and ends with the user."""
        roles = ["user" if i % 2 == 0 else "assistant" for i in range(len(said))]
        if self._shape.endpoint == "completions":
            lines = [f"{role}: {text}" for role, text in zip(roles, said, strict=True)]
            return self._body("\n".join([system, *lines, "assistant:"]), n_max)
        turns = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
        return self._body([{"role": "system", "content": system}, *turns], n_max)

    def _body(self, prompt: str | list[dict[str, str]], n_max: int) -> Turn:
        shape = self._shape
        key = "prompt" if isinstance(prompt, str) else "messages"
        body: dict[str, object] = {
            "model": shape.model,
            key: prompt,
            "max_tokens": n_max,
            "temperature": shape.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if shape.temperature > 0:
            body["seed"] = shape.seed
        if shape.ignore_eos:
            body["ignore_eos"] = True  # beyond OpenAI; llamahost and llama-server know it
        return orjson.dumps(body)


def _short(maker: Maker, index: int) -> Conversation:
    return Conversation((maker.plain(maker.text(maker.random(index), maker.n_prompt), n_max=maker.n_max),))


def _shared_prefix(maker: Maker, index: int) -> Conversation:
    """Each wave has a prefix of its own, so nothing of it is cached when the wave comes."""
    wave = index // maker.n_clients
    prefix = maker.text(maker.random("prefix", wave), maker.n_prompt)
    own = maker.text(maker.random("own", index), 16)
    return Conversation((maker.plain(own, system=prefix, n_max=maker.n_max),))


N_AGENT_TURNS = 6


def _agent(maker: Maker, index: int) -> Conversation:
    """The tool list is the same for all; the history grows turn by turn."""
    tools = []
    random = maker.fixed("tools")
    for _ in range(12):
        first, second = random.sample(WORDS, 2)
        tools.append(f"- {first}_{second}({random.choice(WORDS)}): {maker.text(random, maker.n_prompt // 14)}")
    system = "You may call these tools:\n" + "\n".join(tools)
    random = maker.random(index)
    said: list[str] = []
    turns = []
    for _ in range(N_AGENT_TURNS):
        said.append(maker.text(random, 40))
        turns.append(maker.dialogue(system, said, n_max=maker.n_max))
        said.append(maker.text(random, maker.n_max))
    return Conversation(tuple(turns))


def _mixed(maker: Maker, index: int) -> Conversation:
    """Six in ten short, two under a system prompt that all share, two with eight times the prompt."""
    random = maker.random(index)
    draw = random.random()
    n_max = max(1, round(maker.n_max * random.choice((0.25, 0.5, 1.0))))
    if draw < 0.6:
        return Conversation((maker.plain(maker.text(random, maker.n_prompt), n_max=n_max),))
    if draw < 0.8:
        system = maker.text(maker.fixed("system"), 4 * maker.n_prompt)
        return Conversation((maker.plain(maker.text(random, maker.n_prompt), system=system, n_max=n_max),))
    return Conversation((maker.plain(maker.text(random, 8 * maker.n_prompt), n_max=n_max),))


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("short", "a short question, a longer answer", 32, 128, _short),
        Workload("long-prompt", "a long question, a short answer", 1024, 32, _short),
        Workload("shared-prefix", "all at once, sharing a long prefix", 900, 32, _shared_prefix, in_waves=True),
        Workload("agent", f"{N_AGENT_TURNS} turns under a tool list, growing history", 560, 48, _agent),
        Workload("mixed", "short, long and shared prompts together", 64, 128, _mixed),
    )
}


def script(
    workload: Workload, shape: Shape, *, round_no: int, n_clients: int, n_conversations: int
) -> list[Conversation]:
    """The conversations of one round, in the order in which they start."""
    maker = Maker(workload, shape, round_no=round_no, n_clients=n_clients)
    return [workload.build(maker, index) for index in range(n_conversations)]


def probe(shape: Shape, n_words: int) -> Turn:
    """A question of exactly so many words, to be answered with one token: what calibration asks."""
    words = [WORDS[i * 7 % len(WORDS)] for i in range(n_words)]  # 7 and the list's length share no factor
    workload = WORKLOADS["short"]
    return Maker(workload, shape, round_no=0, n_clients=1).plain(" ".join(words), n_max=1)


def arrivals(rate: float, n: int, *, seed: int, round_no: int) -> list[float]:
    """Poisson arrivals at `rate` a second: seconds from the start, ascending."""
    random = Random(f"{seed}/arrivals/{round_no}")
    times: list[float] = []
    now = 0.0
    for _ in range(n):
        now += random.expovariate(rate)
        times.append(now)
    return times
