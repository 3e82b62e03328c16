"""Hold an answer to a grammar: which tokens may come next, which must. The only place that imports llguidance.

Knows one vocabulary, compiled grammars and bytes; knows no row, slot or step, and not what a schema is.

What ends the process, and why it cannot happen here: the tokenizer keeps the address of the model's vocabulary, so the
model closes its `Grammars` before it frees itself; the library goes down one level of its stack for each level of a
grammar, so what is compiled is bounded in its levels (`MAX_LEVELS`) and compiled on a stack that is large enough for
them; a panic in it arrives as a BaseException that is no Exception, and is caught as one.
"""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from llamahost.core.errors import BackendError, InvalidRequest
from llamahost.core.turn import apart
from llamahost.core.work import Constraint

if TYPE_CHECKING:
    from llamahost.native.library import Library
    from llamahost.native.vocab import Vocab

MAX_GRAMMARS = 128
"""Compiled grammars that are kept; a typical one takes some tens of KiB, and one of many small rules 400 bytes for each
of its characters."""

MAX_KEPT = 1 << 20
"""Characters of all grammars that are kept; the last one is kept in any case."""

MAX_GRAMMAR_BYTES = 1 << 20
MAX_LEVELS = 16000
"""Signs in a grammar that may each be a level of the compiler's stack: ( [ { and :"""

_STACK_BYTES = 256 << 20  # address space alone until it is used; a level takes up to 12 KiB
_SPECIAL = b"\xff"  # llguidance's mark of a token that is not text

Words = npt.NDArray[np.int32]
"""A mask: one bit a token, 1 where it may come."""

Result = TypeVar("Result")


class ConstraintFailed(BackendError):
    """A matcher gave up: its limits on states or steps, or a token that its grammar forbids."""


class Grammars:
    """Compiled grammars of one vocabulary. Thread-safe; its tokenizer is built at `prepare`, or for the first of them.

    law: who has what `compile` gave begins an answer without waiting, whoever compiles meanwhile
    """

    def __init__(
        self, library: Library, vocab: Vocab, *, n_kept: int = MAX_GRAMMARS, n_kept_characters: int = MAX_KEPT
    ) -> None:
        self._n_kept = n_kept
        self._n_kept_characters = n_kept_characters
        self.n_words = (vocab.n_tokens + 31) // 32
        self._library = library
        self._vocab = vocab
        self.pieces = vocab.pieces
        self._compiling = threading.Lock()  # taken before the other one, and held while C works
        self._lock = threading.Lock()  # held for a few operations at a time: workers wait for it
        self._tokenizer: Any = None
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._n_characters = 0  # of the grammars in it
        self._is_closed = False

    def prepare(self) -> None:
        """Begin to build the tokenizer, in a thread of its own, so that the first answer need not wait for it.

        It keeps the GIL for 0.2 s where there are 152,000 tokens: better while a model loads than while it answers.
        """
        threading.Thread(target=self._prepare, name="grammar", daemon=True).start()

    def _prepare(self) -> None:
        with self._compiling, suppress(InvalidRequest):  # whoever asks for a grammar is told
            if not self._is_closed:
                self._build()

    def compile(self, grammar: str) -> object:
        """What `matcher` wants in `Constraint.compiled`. Raises InvalidRequest with llguidance's complaint. Takes
        milliseconds to seconds: never on the loop or a worker.
        """
        with apart():  # outside of the lock: whoever waits for the turn must not keep what its holder may wait for
            return self._prototype(grammar)

    def matcher(self, constraint: Constraint) -> Matcher:
        """A new one at the beginning of an answer; quick where the grammar was compiled before."""
        prototype = constraint.compiled or self._prototype(constraint.grammar)
        return Matcher(self, constraint, prototype, self._vocab)

    def tokenize(self, data: bytes) -> list[int]:
        tokens: list[int] = self._tokenizer.tokenize_bytes(data)
        return tokens

    def close(self) -> None:
        """Let the vocabulary go, before the model is freed; no matcher may be used afterwards. Idempotent."""
        with self._compiling, self._lock:  # what is being compiled tokenises with the vocabulary
            self._is_closed = True
            self._compiled.clear()
            self._tokenizer = None

    def _prototype(self, grammar: str) -> Any:
        """Never changed once it is made: it is copied by whoever answers."""
        found = self._recall(grammar)
        if found is not None:
            return found
        with self._compiling:  # one at a time: a burst with one new schema compiles it once
            found = self._recall(grammar)
            if found is not None:
                return found
            if self._is_closed:
                raise InvalidRequest("the model was closed")
            _check_size(grammar)
            made = _on_a_large_stack(lambda: self._made(grammar))
            self._keep(grammar, made)
            return made

    def _recall(self, grammar: str) -> Any:
        with self._lock:
            found = self._compiled.get(grammar)
            if found is not None:
                self._compiled.move_to_end(grammar)
            return found

    def _keep(self, grammar: str, made: Any) -> None:
        with self._lock:
            self._compiled[grammar] = made
            self._n_characters += len(grammar)
            while len(self._compiled) > 1 and (
                len(self._compiled) > self._n_kept or self._n_characters > self._n_kept_characters
            ):
                self._n_characters -= len(self._compiled.popitem(last=False)[0])

    def _build(self) -> Any:
        """The tokenizer. Called by whoever holds `_compiling`."""
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self._library, self._vocab)
        return self._tokenizer

    def _made(self, grammar: str) -> Any:
        from llguidance import LLMatcher

        made = LLMatcher(self._build(), grammar, log_level=0)
        if made.is_error():
            raise InvalidRequest(_complaint(made.get_error()))
        tokens = made.compute_ff_tokens()  # what every copy would compute first
        trial = made.deep_copy()
        if not tokens:
            words = np.frombuffer(trial.compute_bitmask(), np.int32)
            tokens = np.flatnonzero(allowed(words, self._vocab.n_tokens))[:1].tolist()
        if not trial.consume_tokens(tokens):  # what is too ambiguous to begin with is told by the first token alone
            raise InvalidRequest(_complaint(trial.get_error()))
        return made


class _Free(NamedTuple):
    """Where free text stands: quiet until `closing` comes, if that is not empty; `tail` are the last bytes, in which a
    marker may have begun. Once it `has_triggered`, the grammar goes on with `rest`.
    """

    closing: bytes = b""
    tail: bytes = b""
    has_words: bool = False  # something was said that no marker begins with
    has_triggered: bool = False
    rest: bytes = b""


class _Marks(NamedTuple):
    """What free text is looked through for: triggers and openings, these with what closes them; and the starts."""

    anywhere: tuple[tuple[bytes, bytes], ...]
    starts: tuple[bytes, ...]
    all: tuple[bytes, ...]
    n_longest: int

    @classmethod
    def of(cls, constraint: Constraint) -> _Marks:
        anywhere = [(trigger.encode(), b"") for trigger in constraint.triggers]
        anywhere += [(opening.encode(), closing.encode()) for opening, closing in constraint.quiet]
        starts = tuple(start.encode() for start in constraint.starts)
        marks = (*(mark for mark, _ in anywhere), *starts)
        return cls(tuple(anywhere), starts, marks, max(map(len, marks), default=1))


class Matcher:
    """Owned by the worker thread. Where one answer stands in its grammar.

    law: in `mask` is every token that may come, and at least one, unless it `is_free`
    law: after `accept` of a token that was in the mask there is no error but for want of resources
    """

    __slots__ = ("_constraint", "_free", "_grammars", "_ll", "_marks", "_pieces", "_prototype", "is_complete")

    def __init__(self, grammars: Grammars, constraint: Constraint, prototype: Any, vocab: Vocab) -> None:
        self._grammars = grammars
        self._constraint = constraint
        self._pieces = vocab.pieces
        self._prototype = prototype
        self._ll: Any = None  # None: free
        self._free = _Free()
        self._marks = _Marks.of(constraint)
        self.is_complete = False  # nothing may follow: the answer ends
        if constraint.starts_quiet and constraint.quiet:
            self._free = _Free(closing=constraint.quiet[0][1].encode())
        elif not constraint.is_lazy:
            self._begin()

    @property
    def is_free(self) -> bool:
        """Anything may come next; `mask` must not be called."""
        return self._ll is None

    def mask(self, words: Words) -> None:
        """Write which tokens may come next. Raises ConstraintFailed."""
        self._ll.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        self.check()

    @property
    def compiled(self) -> Any:
        """llguidance's own matcher, for what computes many masks at once."""
        return self._ll

    def forced(self) -> tuple[int, ...]:
        """The tokens that must come next, spelled as the tokeniser spells them; empty where there is a choice."""
        if self._ll is None or self.is_complete:
            return ()
        tokens = tuple(self._ll.compute_ff_tokens())
        self.check()
        return tokens

    def stands(self, token: int) -> bool:
        """Whether a token chosen while free can stand: what it holds beyond a trigger must fit the grammar."""
        if self._ll is not None:
            return True
        rest = self._read(token).rest
        return not rest or _begins_with(self._prototype, self._grammars.tokenize(rest))

    def accept(self, *tokens: int) -> None:
        """One token came, or those that were forced. Raises ConstraintFailed."""
        for n, token in enumerate(tokens):
            if self._ll is not None:
                self._ll.consume_tokens(list(tokens[n:]))
                self.check()
                if self._ll.is_stopped():
                    self._end()
                return
            self._accept_free(token)

    def _accept_free(self, token: int) -> None:
        self._free = free = self._read(token)
        if not free.has_triggered:
            return
        self._begin()
        if free.rest:
            self._ll.consume_tokens(self._grammars.tokenize(free.rest))
            self.check()
            if self._ll.is_stopped():
                self._end()

    def _read(self, token: int) -> _Free:
        """Where free text stands with this token."""
        marks = self._marks
        closing, data, has_words = self._free.closing, self._free.tail + self._pieces[token], self._free.has_words
        at = 0
        while True:
            if closing:
                found = data.find(closing, at)
                if found < 0:
                    return _Free(closing, data[max(at, len(data) - len(closing) + 1) :], has_words)
                at = found + len(closing)
                closing = b""
                if not self._constraint.is_lazy:
                    return _Free(has_triggered=True, rest=data[at:])
            said = data[at:].lstrip()
            if not has_words and said.startswith(marks.starts):
                return _Free(has_triggered=True, rest=said)
            ends = [(found, mark, end) for mark, end in marks.anywhere if (found := data.find(mark, at)) >= 0]
            if not ends:
                has_words = has_words or not any(mark.startswith(said) for mark in marks.all)
                return _Free(b"", data[max(at, len(data) - marks.n_longest + 1) :], has_words)
            found, mark, closing = min(ends, key=lambda end: (end[0], -len(end[1])))
            has_words = has_words or bool(data[at:found].strip())
            at = found + len(mark)
            if not closing:
                return _Free(has_triggered=True, rest=data[at:])

    def _begin(self) -> None:
        self._ll = self._prototype.deep_copy()

    def _end(self) -> None:
        """The grammar is complete."""
        if self._constraint.is_lazy and self._constraint.repeats:
            self._ll, self._free = None, _Free(has_words=True)
        else:
            self.is_complete = True

    def check(self) -> None:
        """Raise ConstraintFailed if the matcher has given up."""
        if self._ll is not None and self._ll.is_error():
            raise ConstraintFailed(f"the grammar could not be followed: {_complaint(self._ll.get_error())}")


def executor(n_threads: int) -> Any:
    """What computes many masks at once, in threads."""
    from llguidance import LLExecutor

    return LLExecutor(num_threads=n_threads)


def allows(words: Words, token: int) -> bool:
    return bool((int(words[token >> 5]) >> (token & 31)) & 1)


def allowed(words: Words, n_vocab: int) -> npt.NDArray[np.bool_]:
    """The mask, a byte a token."""
    return np.unpackbits(words.view(np.uint8), bitorder="little", count=n_vocab).view(np.bool_)


def _begins_with(prototype: Any, tokens: list[int]) -> bool:
    """Whether what the grammar derives can begin with all of these."""
    return bool(prototype.deep_copy().try_consume_tokens(tokens) == len(tokens))


def _tokenizer(library: Library, vocab: Vocab) -> Any:
    """llguidance's view of the vocabulary: 0.4 s and 40 MiB for 152,000 tokens.

    It tokenises by llama.cpp's own function, at the address of the model's vocabulary. Control tokens alone are special
    (a grammar names them, as <|name|>). User-defined ones such as <tool_call> are text to it, since whenever that
    stands in a text, llama.cpp reads it as the token.
    """
    from llguidance import LLTokenizer

    tokens = [
        _SPECIAL + piece if control else piece for piece, control in zip(vocab.pieces, vocab.is_control, strict=True)
    ]
    ends = sorted(vocab.end_ids) or ([vocab.eos] if vocab.eos >= 0 else [])
    if not ends:
        raise InvalidRequest("this model has no token that ends an answer, so its answers cannot be constrained")
    function = ctypes.cast(library.c._lib.llama_tokenize, ctypes.c_void_p).value
    try:
        return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # it is there, and not in the stub
            tokens=tokens, vocab_ptr=vocab.pointer, tokenize_fptr=function, eos_token=ends, slices=None
        )
    except ValueError as error:
        raise InvalidRequest(f"answers of this model cannot be constrained: {error}") from error


def _check_size(grammar: str) -> None:
    n_levels = sum(grammar.count(sign) for sign in "([{:")
    if len(grammar) > MAX_GRAMMAR_BYTES or n_levels > MAX_LEVELS:
        raise InvalidRequest("the grammar is too large")


def _complaint(text: str) -> str:
    """The first part of an error, without the dump of the parser's state and of the grammar that may follow."""
    head = text.split("\n<state>")[0].split("<backtrace>")[0].strip()
    return head if len(head) <= 600 else head[:600] + " …"


def _on_a_large_stack(work: Callable[[], Result]) -> Result:
    """Do it in a thread with room for the deepest grammar that is let in."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # a panic is no Exception
            errors.append(error)

    with _stack_lock:
        before = threading.stack_size(_STACK_BYTES)
        try:
            thread = threading.Thread(target=run, name="grammar", daemon=True)
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if not errors:
        return results[0]
    error = errors[0]
    if isinstance(error, InvalidRequest):
        raise error
    raise InvalidRequest(f"the grammar cannot be compiled: {_complaint(str(error))}") from error


_stack_lock = threading.Lock()
