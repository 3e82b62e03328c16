"""Texts to vectors, and texts to scores: what is asked and what is answered, in words. Knows no model and no JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llamahost.core.errors import InvalidRequest
from llamahost.core.messages import MOST_S
from llamahost.core.sampling import is_number
from llamahost.core.work import Vector

InputKind = Literal["", "query", "document"]
"""What an input is to a search: some models want a prefix before each kind. Empty: taken as it is."""

MAX_INPUTS = 8192
"""Of one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """Inputs to be embedded by the model named `model` (empty: the only one): texts, or the tokens themselves.

    `dimensions` keeps the first of each vector, which is made a unit again: for models trained so (Matryoshka).
    What is longer than the context is refused, unless `is_cut`.
    """

    inputs: tuple[str | tuple[int, ...], ...]
    model: str = ""
    kind: InputKind = ""
    dimensions: int | None = None
    is_cut: bool = False
    priority: int = 0
    waits: bool | None = None  # as Generation's, and so is
    user: str = ""
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        _check_count(len(self.inputs), "input")
        _check_timeout(self.timeout_s)
        n = self.dimensions
        if n is not None and not (is_number(n, is_whole=True) and n >= 1):
            raise InvalidRequest(f"dimensions must be at least 1, not {n!r:.40}", param="dimensions")


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """Documents to be scored by how well each answers the query. `param` names the field that holds them."""

    query: str
    documents: tuple[str, ...]
    model: str = ""
    is_cut: bool = False
    priority: int = 0
    waits: bool | None = None  # as Generation's, and so is
    user: str = ""
    timeout_s: float | None = None
    param: str = "documents"

    def __post_init__(self) -> None:
        _check_count(len(self.documents), self.param)
        _check_timeout(self.timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """A vector for each input, in order. `cut` are the indices of those that were too long and had been cut.

    With an `n_token_dim`, which pooling `none` has, a vector for each token: so many numbers each, one after the other.
    """

    vectors: tuple[Vector, ...]
    model: str
    n_tokens: int
    cut: tuple[int, ...] = ()
    n_token_dim: int = 0
    replica: str = ""  # of the model, the last of so many that were asked
    n_tries: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The model's raw score for each document, in the order of the documents; higher is better.

    `is_probability`: the scores are in [0, 1] already; others become so by the logistic function.
    """

    scores: tuple[float, ...]
    model: str
    n_tokens: int
    is_probability: bool = False
    cut: tuple[int, ...] = ()
    replica: str = ""
    n_tries: int = 1


def _check_count(n: int, param: str) -> None:
    if not 1 <= n <= MAX_INPUTS:
        raise InvalidRequest(f"{param} must hold 1 to {MAX_INPUTS} items, not {n}", param=param)


def _check_timeout(timeout_s: float | None) -> None:
    if timeout_s is not None and not (is_number(timeout_s, is_whole=False) and 0 < timeout_s < MOST_S):
        raise InvalidRequest(
            f"timeout must be above 0 and below {MOST_S:.0f} s, not {timeout_s!r:.40}", param="timeout"
        )
