"""Texts to the tokens that are embedded or scored. Knows a vocabulary; knows no thread and no context.

Nothing is cut silently: what is too long is refused by its place, or cut where the request asks for that, and told.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from llamahost.core.backend import Vocabulary
from llamahost.core.errors import ContextTooLong, InvalidRequest
from llamahost.core.vectors import EmbedRequest, InputKind, RerankRequest
from llamahost.core.work import EmbedJob, PairMarks, Tokens

_job_ids = itertools.count(1)

_ADVICE = "shorten it, or have it cut by `truncate: true`"


@dataclass(frozen=True, slots=True)
class PreparedInputs:
    """A job, and the indices of the inputs that had to be cut."""

    job: EmbedJob
    cut: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.job.inputs))


class Inputs:
    """Turns requests for one model into jobs. Never changes; may be called in several threads at once, off the loop.

    `rerank_template` is the model's own text with {query} and {document} in it; empty: the two between `marks`.
    """

    __slots__ = ("_marks", "_prefixes", "_rerank_template", "_vocabulary", "model", "n_ctx")

    def __init__(
        self,
        *,
        model: str,
        n_ctx: int,
        vocabulary: Vocabulary,
        query_prefix: str = "",
        document_prefix: str = "",
        marks: PairMarks | None = None,
        rerank_template: str = "",
    ) -> None:
        self.model = model
        self.n_ctx = n_ctx
        self._vocabulary = vocabulary
        self._prefixes: dict[InputKind, str] = {"": "", "query": query_prefix, "document": document_prefix}
        self._marks = marks or PairMarks()
        self._rerank_template = rerank_template

    def embed(self, request: EmbedRequest) -> PreparedInputs:
        """Raises InvalidRequest or ContextTooLong, which name the input."""
        prefix = self._prefixes[request.kind]
        is_one = len(request.inputs) == 1
        inputs: list[Tokens] = []
        cut: list[int] = []
        for k, given in enumerate(request.inputs):
            param = "input" if is_one else f"input[{k}]"
            if isinstance(given, str):
                tokens = self._vocabulary.encode(prefix + given, add_special=True, parse_special=False)
            else:
                tokens = self._known(given, param)
            inputs.append(self._fitting(tokens, k, param, cut, is_cut=request.is_cut))
        return self._job(inputs, cut, request.priority)

    def rank(self, request: RerankRequest) -> PreparedInputs:
        """Each document with the query, as the model was trained to read them. Raises as `embed`."""
        query = None if self._rerank_template else self._bare(request.query)
        inputs: list[Tokens] = []
        cut: list[int] = []
        for k, document in enumerate(request.documents):
            pair = self._pair(request.query, query, document)
            if request.is_cut and len(pair) > self.n_ctx:
                pair = self._cut_pair(request.query, query, document, len(pair))
                cut.append(k)
            inputs.append(self._fitting(pair, k, f"{request.param}[{k}]", cut, is_cut=False))
        return self._job(inputs, cut, request.priority)

    def _pair(self, query: str, query_tokens: Tokens | None, document: str) -> Tokens:
        if query_tokens is None:
            return self._marked("".join(self._written(query, document)))
        marks = self._marks
        return marks.begin + query_tokens + marks.between + self._bare(document) + marks.end

    def _cut_pair(self, query: str, query_tokens: Tokens | None, document: str, n: int) -> Tokens:
        """All of it but the document's end, since what follows that is what the score is read from."""
        if query_tokens is None:
            before, document, after = self._written(query, document)
            head, tail = self._marked(before), self._marked(after)
            body = self._marked(before + document)
        else:
            head, tail = self._marks.begin + query_tokens + self._marks.between, self._marks.end
            body = head + self._bare(document)
        if len(head) + len(tail) >= self.n_ctx:
            raise ContextTooLong(n_prompt=n, n_ctx=self.n_ctx, model=self.model, param="query")
        return body[: self.n_ctx - len(tail)] + tail

    def _written(self, query: str, document: str) -> tuple[str, str, str]:
        """The template's text up to the document's last place, the document, and what follows it."""
        before, _, after = self._rerank_template.partition("{query}")
        if "{document}" in after:
            middle, _, last = after.rpartition("{document}")
            return (
                before.replace("{document}", document) + query + middle.replace("{document}", document),
                document,
                last,
            )
        if "{document}" not in before:
            return before + query + after, "", ""
        first, _, middle = before.rpartition("{document}")
        return first.replace("{document}", document), document, middle + query + after

    def _marked(self, text: str) -> Tokens:
        return self._vocabulary.encode(text, add_special=False, parse_special=True)

    def _bare(self, text: str) -> Tokens:
        return self._vocabulary.encode(text, add_special=False, parse_special=False)

    def _fitting(self, tokens: Tokens, k: int, param: str, cut: list[int], *, is_cut: bool) -> Tokens:
        if not tokens:
            raise InvalidRequest(f"`{param}` is empty, and this model has no token to begin with", param=param)
        if len(tokens) <= self.n_ctx:
            return tokens
        if not is_cut:
            raise ContextTooLong(n_prompt=len(tokens), n_ctx=self.n_ctx, model=self.model, param=param, advice=_ADVICE)
        cut.append(k)
        last = tokens[-1:]
        if self._vocabulary.is_control[last[0]]:  # the token that ends an input is read by some poolings
            return tokens[: self.n_ctx - 1] + last
        return tokens[: self.n_ctx]

    def _known(self, given: Sequence[int], param: str) -> Tokens:
        n_tokens = self._vocabulary.n_tokens
        for token in given:
            if not 0 <= token < n_tokens:
                raise InvalidRequest(f"token {token} is not in the vocabulary of {n_tokens}", param=param)
        return array("i", given)

    def _job(self, inputs: list[Tokens], cut: list[int], priority: int) -> PreparedInputs:
        return PreparedInputs(EmbedJob(id=next(_job_ids), inputs=tuple(inputs), priority=priority), tuple(cut))
