"""A model that writes what the test tells it to: the fake backend with a script, the real preparer, any template."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from llamahost.core.machine import Machine
from llamahost.core.work import Job, Sampled, Span, Tokens
from llamahost.fleet.request.preparer import Preparer
from llamahost.fleet.settings.manifest import ModelSpec
from llamahost.text.template import Template
from tests.fakes import FakeBackend
from tests.fleet.fakes import FakeModel, FakeOpened, SlowVocabulary, open_fake
from tests.text.vocabulary import EOS


class MarkedVocabulary(SlowVocabulary):
    """Bytes, and a control token for each of these marks."""

    def __init__(self, marks: Iterable[str] = ()) -> None:
        super().__init__()
        added = tuple(mark.encode() for mark in marks)
        self.n_before = self.n_tokens
        self.pieces = (*self.pieces, *added)
        self.n_tokens = len(self.pieces)
        self.is_control += bytes([1] * len(added))

    def tokens_of(self, text: str) -> tuple[int, ...]:
        """As a model would write it: marks are one token."""
        tokens: list[int] = []
        data = text.encode()
        while data:
            mark = next((t for t in range(self.n_before, self.n_tokens) if data.startswith(self.pieces[t])), data[0])
            tokens.append(mark)
            data = data[len(self.pieces[mark]) :]
        return tuple(tokens)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        head = array("i", [self.bos] if add_special and self.adds_bos else [])
        return head + array("i", self.tokens_of(text))


@dataclass
class ScriptedBackend(FakeBackend):
    """Every job is answered with `answer`, then with the token that ends; `prompts` are what was asked."""

    n_ctx: int = 8192
    n_batch: int = 512
    answer: tuple[int, ...] = ()
    prompts: list[Job] = field(default_factory=list)

    def _sample(self, span: Span) -> Sampled:
        sampler = self._samplers[span.job_id]
        if sampler.n_sampled == 0:
            self.prompts.append(sampler.job)
        token = self.answer[sampler.n_sampled] if sampler.n_sampled < len(self.answer) else EOS
        sampler.n_sampled += 1
        return Sampled(span.job_id, (token,))


@dataclass
class Scripted:
    """A loader. `answer` may be set again between requests."""

    template: str
    marks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.vocabulary = MarkedVocabulary(self.marks)
        self.backend = ScriptedBackend()

    def __call__(self, spec: ModelSpec, machine: Machine, on_progress: Callable[[float], None]) -> FakeOpened:
        opened = open_fake(spec, self.backend)
        opened.model = FakeModel(self.backend, self.vocabulary)
        opened.preparer = Preparer(
            model=spec.name,
            n_ctx=self.backend.n_ctx,
            vocabulary=self.vocabulary,
            template=Template(self.template, bos="<s>", eos="</s>"),
            draw_seed=lambda: 0,
        )
        return opened

    def says(self, text: str) -> None:
        self.backend.answer = self.vocabulary.tokens_of(text)

    @property
    def last_prompt(self) -> str:
        tokens = self.backend.prompts[-1].tokens
        return b"".join(self.vocabulary.pieces[token] for token in tokens).decode()
