"""What computes and what spells, as it is asked for: laws that llama.cpp's side and the fakes both keep.

Knows plans and tokens; computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from llamahost.core.work import Plan, Pooling, Sampled, Tokens, Vector


@runtime_checkable
class KeepsSlots(Protocol):
    """A backend whose slots can be kept beyond its life. Called by its worker, between steps."""

    can_cut_kept: bool  # what was put may be cut as what was computed; False: it goes on, or is cleared

    def take_slot(self, slot: int, n: int, n_most: int) -> bytes:
        """The state of a slot that holds [0, n); empty where it cannot be had, or takes more than `n_most` bytes."""
        ...

    def put_slot(self, slot: int, kept: bytes) -> None:
        """Into an empty slot. Raises BackendError where it does not fit."""
        ...


class Backend(Protocol):
    """Owned by one worker thread. What computes: llama.cpp, or a fake that keeps the same laws."""

    n_ctx: int  # positions that one sequence may hold
    n_slots: int
    n_batch: int  # tokens that one plan may hold
    n_rows: int  # rows of logits that one plan may ask for, at least one a slot
    n_cells: int  # positions that all slots may hold together: n_ctx * n_slots when split, less or equal when unified
    is_unified: bool  # slots share one pool of cells, and a copy shares cells instead of doubling them
    can_truncate: bool  # a slot may be cut anywhere; False: only cleared or copied whole (recurrent, sliding window)
    overlaps: bool  # launch returns while the device still computes

    def launch(self, plan: Plan) -> None:
        """Do all of the plan up to and with the decode.

        Raises NoRoom when the decode found no cells: all before the decode is done, the decode changed nothing, and
        `collect` must not be called. Raises BackendError when this plan failed, BackendLost when the context is gone.
        """
        ...

    def collect(self) -> Sequence[Sampled]:
        """Wait for the launched decode, sample its rows in the order of the spans, and finish the plan.

        OneEach, where each of them gave a token and that is all: then the step costs the scheduler least.
        """
        ...

    def free_adapter(self, id_: int) -> None:
        """Let go of an adapter that no job has any more. Between two plans; idempotent."""
        ...

    def close(self) -> None:
        """Free everything. Idempotent."""
        ...


class EmbedBackend(Protocol):
    """Owned by one worker thread. Turns inputs into vectors; what it computed before matters to none of them."""

    n_ctx: int  # tokens that one input may hold
    n_batch: int  # tokens that one step may hold, whichever they are
    can_split: bool  # an input may be computed in pieces; else none has more than n_batch tokens
    n_enough: int  # tokens of a step beyond which each costs no less, and the step only takes longer
    n_inputs: int  # inputs that one step may hold
    n_dim: int  # numbers in a vector; under pooling `none` a token has so many
    pooling: Pooling
    has_probabilities: bool  # scores are in [0, 1], not any number
    overlaps: bool  # there is a device that computes by itself

    def embed(self, inputs: Sequence[Tokens]) -> list[Vector]:
        """The vectors of one step, in order: of length 1 by pooling, but for scores and for pooling `none`.

        Raises BackendError when this step failed, BackendLost when the context is gone.
        """
        ...

    def embed_piece(self, tokens: Tokens, start: int, stop: int) -> Vector | None:
        """[start, stop) of one input; its vector where it ends there. Where `can_split` says so.

        The last thing that was computed is [0, start) of the same. Raises as `embed`, and then what it had is gone.
        """
        ...

    def close(self) -> None:
        """Free everything. Idempotent."""
        ...


class Vocabulary(Protocol):
    """What text needs of a model's vocabulary. Thread-safe until the model is closed; then nothing may be called."""

    n_tokens: int
    pieces: tuple[bytes, ...]  # bytes of each token as text; a control token's own spelling
    is_control: bytes  # one byte a token: 1 where it must never show in text
    end_ids: frozenset[int]  # every token that ends a generation
    bos: int  # -1 where there is none
    eos: int
    adds_bos: bool
    fim_ids: tuple[int, int, int] | None
    """Before a prefix, a suffix and what is between (-1: the suffix stands first); None: it has no such tokens."""
    fim_files: tuple[int, int]  # before the name of a repository, and of a file in it; -1 where there is none

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        """Text to tokens; `parse_special` reads spellings such as <|im_end|> as the tokens that they name."""
        ...

    def decode(self, tokens: Tokens) -> bytes:
        """Tokens to bytes, control tokens left out. Raises InvalidRequest on an id outside the vocabulary."""
        ...
