"""A loader that opens models of nothing: the fake backend, a byte vocabulary, the real preparer."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamahost.core.errors import LoadFailed
from llamahost.core.machine import Machine
from llamahost.core.work import Tokens
from llamahost.fleet.memory.residents import Measured
from llamahost.fleet.replica.card import ModelCard
from llamahost.fleet.request.inputs import Inputs
from llamahost.fleet.request.preparer import Preparer
from llamahost.fleet.settings.manifest import ModelSpec
from llamahost.text.template import CHATML, Template
from tests.fake_embedder import FakeEmbedBackend
from tests.fakes import FakeBackend
from tests.on_loop import LIMIT_S
from tests.text.vocabulary import ByteVocabulary


class SlowVocabulary(ByteVocabulary):
    """Encodes only when the gate is open, and sees whether its model was closed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False
        self.n_uses_after_close = 0
        self.thread = 0  # that encoded last
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        self.entered.set()
        self.thread = threading.get_ident()
        assert self.gate.wait(LIMIT_S)
        self.n_uses_after_close += self.is_closed
        return super().encode(text, add_special=add_special, parse_special=parse_special)


class FakeAdapters:
    """Opens whatever is not called bad, when its gate is open. What is `replaced` is not as it was opened."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.bad = {"bad"}
        self.replaced: set[str] = set()

    def open(self, path: Path) -> int:
        self.entered.set()
        assert self.gate.wait(LIMIT_S)
        if path.stem in self.bad:
            raise LoadFailed(f"{path} cannot be used as an adapter: it is bad")
        return next(self._ids)

    def is_as_opened(self, id_: int, path: Path) -> bool:
        return path.stem not in self.replaced


@dataclass
class FakeModel:
    """Asserts the order of closing: the context first."""

    backend: FakeBackend
    vocab: SlowVocabulary = field(default_factory=SlowVocabulary)
    embedder: FakeEmbedBackend | None = None
    adapters: FakeAdapters = field(default_factory=lambda: FakeAdapters())
    is_forsaken: bool = False

    def forsake(self) -> None:
        self.is_forsaken = True

    @property
    def is_closed(self) -> bool:
        return self.vocab.is_closed

    def close(self) -> None:
        assert self.backend.is_closed, "a model must outlive its context"
        assert self.embedder is None or self.embedder.is_closed, "and the other one"
        self.vocab.is_closed = True


@dataclass
class FakeOpened:
    spec: ModelSpec
    model: FakeModel
    backend: FakeBackend
    preparer: Preparer
    card: ModelCard
    embedder: FakeEmbedBackend | None = None
    taken: Measured | None = None
    adapter_ids: tuple[int, ...] = ()
    inputs: Inputs = field(default_factory=lambda: Inputs(model="none", n_ctx=0, vocabulary=ByteVocabulary()))

    def measured(self, devices: tuple[str, ...]) -> Measured | None:
        return self.taken


class FakeLoader:
    """Opens with `make`, one backend after another, from several threads at once where several load; the k-th load
    raises `failures[k]` where there is one.

    `gate` holds loads until it is set. Failures are raised after the progress has been told.
    """

    def __init__(
        self, make: Callable[[], FakeBackend] = FakeBackend, failures: Sequence[Exception | None] = ()
    ) -> None:
        self.opened: list[FakeOpened] = []
        self.n_loads = 0
        self.gate = threading.Event()
        self.gate.set()
        self._make = make
        self._failures = failures
        self._counting = threading.Lock()

    def __call__(self, spec: ModelSpec, machine: Machine, on_progress: Callable[[float], None]) -> FakeOpened:
        with self._counting:
            k, self.n_loads = self.n_loads, self.n_loads + 1
        on_progress(0.5)
        assert self.gate.wait(LIMIT_S)
        on_progress(0.75)
        failure = self._failures[k] if k < len(self._failures) else None
        if failure is not None:
            raise failure
        opened = open_fake(spec, self.made_for(spec))
        self.opened.append(opened)
        return opened

    def made_for(self, spec: ModelSpec) -> FakeBackend:
        return self._make()

    @property
    def backend(self) -> FakeBackend:
        return self.opened[-1].backend

    @property
    def vocabulary(self) -> SlowVocabulary:
        return self.opened[-1].model.vocab

    @property
    def is_all_closed(self) -> bool:
        models = all(opened.model.is_closed or opened.model.is_forsaken for opened in self.opened)
        return models and all(opened.backend.is_closed for opened in self.opened)


def open_fake(spec: ModelSpec, backend: FakeBackend) -> FakeOpened:
    model = FakeModel(backend)
    preparer = Preparer(
        model=spec.name,
        n_ctx=backend.n_ctx,
        vocabulary=model.vocab,
        template=Template(CHATML, bos="<s>", eos="</s>"),
        draw_seed=lambda: 0,
    )
    card = ModelCard(
        name=spec.name,
        aliases=spec.aliases,
        n_ctx=backend.n_ctx,
        n_slots=backend.n_slots,
        layout="split",
        n_cells=backend.n_cells,
        description="nothing",
        n_params=0,
        n_bytes=0,
        architecture="fake",
        created=0,
    )
    ids = tuple(model.adapters.open(adapter.path) for adapter in spec.adapters)
    return FakeOpened(spec, model, backend, preparer, card, adapter_ids=ids)


def spec_of(name: str = "fake", **options: Any) -> ModelSpec:
    return ModelSpec(name=name, path=Path(f"{name}.gguf"), **options)
