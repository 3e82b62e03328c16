"""A server as its users run it, for clients of other makers: a process, a key, strict names.

What it answers is known beforehand: the library gives the same greedy words for the same model.
"""

from __future__ import annotations

import importlib
import re
import time
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llamahost import Host
from tests.processes import serving

NAME = "tiny"
KEY = "sk-of-the-tests"
N_CTX = 8192
TOO_LONG = "word " * N_CTX  # more tokens than that: a word of this vocabulary takes at least one, its space another
LIMIT_S = 300.0  # a client that hangs; starting one takes seconds, more where others compute
N_MANY = 12  # at once, of 4 slots: some wait
ENDLESS = {"max_tokens": N_CTX - 100, "ignore_eos": True}  # seconds of work, unless somebody cancels it


def installed(name: str) -> Any:
    """This module of a client's; the test is skipped, and says why, where it cannot be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a client's import warns of is its makers' affair
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"no {name.partition('.')[0]} ({error}); `make test-clients` brings it")


def stop_within(text: str) -> str:
    """A plain letter from the middle of it on, and not its last: where it stops is seen."""
    return next(letter for letter in text[len(text) // 2 : -1] if letter.isascii() and letter.isprintable())


@dataclass(frozen=True)
class Served:
    """`url` ends in /v1; `host` is the library with the same model."""

    url: str
    host: Host

    def chat(self, text: str, n: int = 12) -> str:
        """The greedy answer of so many tokens."""
        return self.host.chat(text, temperature=0.0, max_tokens=n).text

    def complete(self, text: str, n: int = 12) -> str:
        return self.host.complete(text, temperature=0.0, max_tokens=n).text

    def n_prompt(self, text: str) -> int:
        """Tokens of the prompt that a chat of this one message becomes."""
        return self.host.chat(text, max_tokens=1).usage.n_prompt

    def count(self, metric: str) -> int:
        """The sum of this metric's samples, as `llamahost_requests_total{outcome="cancelled"`."""
        request = urllib.request.Request(
            self.url.removesuffix("/v1") + "/metrics", headers={"Authorization": f"Bearer {KEY}"}
        )
        with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
            text = response.read().decode()
        name, _, label = metric.partition("{")
        samples = re.findall(rf"^{name}(?:{{(.*)}})? ([0-9.e+]+)$", text, re.MULTILINE)
        return int(sum(float(value) for labels, value in samples if label in labels))

    def until_running(self) -> None:
        """Return when an answer is being computed."""
        end = time.monotonic() + LIMIT_S
        while not self.count("llamahost_requests_running"):
            assert time.monotonic() < end, "no request came to a slot"

    def n_cancelled(self) -> int:
        return self.count('llamahost_requests_total{outcome="cancelled"')

    @contextmanager
    def cancelling(self) -> Iterator[None]:
        """What happens inside must leave exactly one request cancelled, and no slot taken."""
        before = self.n_cancelled()
        yield
        end = time.monotonic() + LIMIT_S
        while self.n_cancelled() == before or self.count("llamahost_requests_running"):
            assert time.monotonic() < end, "the request that the client left is still running, or ended by itself"
        assert self.n_cancelled() == before + 1


@contextmanager
def served(model: Path, folder: Path, *more: str) -> Iterator[Served]:
    """A process of its own that serves this model, strict about names, keys and length."""
    arguments = ("--alias", NAME, "--strict-model", "--api-key", KEY)
    size = ("--n-ctx", str(N_CTX), "--slots", "4", "--threads", "1")
    # Warnings alone are logged: nobody reads the pipe while clients are tried, and it must not fill.
    with (
        serving(folder, model, *arguments, *size, *more, "--log-level", "warning") as process,
        Host(model, n_ctx=N_CTX, n_slots=1, n_threads=1, embeddings="--embeddings" in more) as host,
    ):
        process.line("ready: ")
        yield Served(f"{process.url}/v1", host)
