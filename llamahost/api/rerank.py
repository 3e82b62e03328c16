"""Rerank: documents in the order in which they answer a query, as Jina, Cohere and TEI shape it.

The scores are in [0, 1], as those services give them: a head's raw number goes through the logistic function, unless
`raw_scores` asks for the number itself, which is what llama-server gives.
"""

from __future__ import annotations

import math
import secrets
from typing import Annotated, Literal, TypeAlias

import msgspec
from starlette.types import ASGIApp

from llamahost.api.affinity import key_of
from llamahost.api.body import Reading
from llamahost.api.embeddings import InputUsage
from llamahost.api.openai_answers import Answer
from llamahost.api.openai_types import Name
from llamahost.api.pieces import InPieces
from llamahost.api.service import Service
from llamahost.api.whole import Whole
from llamahost.core.errors import InvalidRequest
from llamahost.core.vectors import Ranking, RerankRequest
from llamahost.fleet.settings.manifest import ServerSettings


class DocumentBody(msgspec.Struct):
    text: str


Document: TypeAlias = str | DocumentBody


class RerankBody(msgspec.Struct, kw_only=True):
    """POST /v1/rerank. `texts` in place of `documents` asks for TEI's answer, a bare list."""

    query: str
    documents: list[Document] | None = None
    texts: list[str] | None = None
    model: Name | None = None
    top_n: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    return_documents: bool | None = None
    return_text: bool | None = None
    raw_scores: bool | None = None
    truncate: bool | None = None
    user: str | None = None
    timeout: float | None = None


class RankedDocument(Answer):
    text: str


class RankedAnswer(Answer):
    index: int
    relevance_score: float
    document: RankedDocument | msgspec.UnsetType = msgspec.UNSET


class RerankAnswer(Answer):
    """Best first. A request with `texts` is answered with a list of {index, score, text} alone."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RankedAnswer]
    usage: InputUsage


class RankedText(Answer):
    index: int
    score: float
    text: str | msgspec.UnsetType = msgspec.UNSET


RERANK = InPieces(RerankBody, "documents", Document)


def rerank_route(service: Service, settings: ServerSettings, reading: Reading) -> ASGIApp:
    return Whole(RERANK, parse_rerank, service.rerank, encoded, _n_numbers, settings, reading)


def _n_numbers(found: Ranking) -> int:
    return len(found.scores)


def parse_rerank(body: RerankBody) -> RerankRequest:
    """Raises InvalidRequest."""
    if body.texts is not None and body.documents is not None:
        raise InvalidRequest("give `documents` or `texts`, not both", param="texts")
    given = body.texts if body.texts is not None else body.documents
    if given is None:
        raise InvalidRequest("`documents` is required", param="documents")
    documents = tuple(item if isinstance(item, str) else item.text for item in given)
    return RerankRequest(
        query=body.query,
        documents=documents,
        model=body.model or "",
        is_cut=bool(body.truncate),
        user=key_of(body.user),
        timeout_s=body.timeout,
        param="documents" if body.texts is None else "texts",
    )


def encoded(body: RerankBody, request: RerankRequest, found: Ranking) -> bytes:
    """The answer's JSON."""
    documents = request.documents
    is_raw = bool(body.raw_scores) or found.is_probability
    scores = found.scores if is_raw else tuple(map(logistic, found.scores))
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[: body.top_n]
    if body.texts is not None:
        texts = [
            RankedText(index=index, score=scores[index], text=documents[index] if body.return_text else msgspec.UNSET)
            for index in order
        ]
        return msgspec.json.encode(texts)
    results = [
        RankedAnswer(
            index=index,
            relevance_score=scores[index],
            document=RankedDocument(text=documents[index]) if body.return_documents else msgspec.UNSET,
        )
        for index in order
    ]
    answer = RerankAnswer(
        id="rerank-" + secrets.token_hex(12),
        object="list",
        model=found.model,
        results=results,
        usage=InputUsage(prompt_tokens=found.n_tokens, total_tokens=found.n_tokens),
    )
    return msgspec.json.encode(answer)


def logistic(score: float) -> float:
    """1 / (1 + exp(-score)), for scores of any size."""
    if score >= 0:
        return 1.0 / (1.0 + math.exp(-score))
    power = math.exp(max(score, -700.0))
    return power / (1.0 + power)
