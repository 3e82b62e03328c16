"""What a loader hands over: all that a replica is made of. Names alone; `loader` has the real ones, tests others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from llamahost.core.backend import Backend, EmbedBackend, Vocabulary
from llamahost.core.messages import ChatRequest, CompletionRequest
from llamahost.core.sampling import SamplingOptions
from llamahost.core.vectors import EmbedRequest, RerankRequest
from llamahost.fleet.memory.residents import Measured
from llamahost.fleet.replica.card import ModelCard
from llamahost.fleet.request.inputs import PreparedInputs
from llamahost.fleet.request.prepared import Prepared
from llamahost.fleet.settings.manifest import ModelSpec
from llamahost.text.remembered import Heard


class OpensAdapters(Protocol):
    """Puts adapters beside a model. Thread-safe."""

    def open(self, path: Path, /) -> int:
        """Blocking; the id that jobs name it by. Raises LoadFailed."""
        ...

    def is_as_opened(self, id_: int, path: Path, /) -> bool:
        """Blocking; whether the file there is still the one that was opened, or is gone."""
        ...


class OpenModel(Protocol):
    """A model's file in memory: its vocabulary lives until it is closed."""

    @property
    def vocab(self) -> Vocabulary: ...

    @property
    def adapters(self) -> OpensAdapters: ...

    def forsake(self) -> None:
        """Its device is broken: it and its contexts are asked for nothing any more, and `close` frees nothing."""
        ...

    def close(self) -> None: ...


class Prepares(Protocol):
    """Words to jobs. Thread-safe; raises InvalidRequest."""

    @property
    def heard(self) -> Heard: ...

    def chat(self, request: ChatRequest, /) -> Prepared: ...

    def complete(self, request: CompletionRequest, /) -> Prepared: ...

    def with_sampling(self, sampling: SamplingOptions, most: Mapping[str, float], /) -> Prepares: ...


class PreparesInputs(Protocol):
    """Texts to tokens. Thread-safe; raises InvalidRequest."""

    def embed(self, request: EmbedRequest, /) -> PreparedInputs: ...

    def rank(self, request: RerankRequest, /) -> PreparedInputs: ...


class Opened(Protocol):
    """What a loader hands over: all that a replica is made of. A model generates, or embeds, or does both."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def model(self) -> OpenModel: ...

    @property
    def backend(self) -> Backend | None: ...

    @property
    def preparer(self) -> Prepares: ...

    @property
    def embedder(self) -> EmbedBackend | None: ...

    @property
    def inputs(self) -> PreparesInputs: ...

    @property
    def adapter_ids(self) -> Sequence[int]:
        """Of the spec's adapters, in their order."""
        ...

    @property
    def card(self) -> ModelCard: ...

    def measured(self, devices: tuple[str, ...], /) -> Measured | None:
        """What it takes of each of these, where that is known."""
        ...
