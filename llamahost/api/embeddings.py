"""OpenAI's embeddings route: texts to vectors. Bytes to words, vectors to bytes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import orjson
from starlette.types import ASGIApp

from llamahost.api.affinity import key_of
from llamahost.api.body import Reading
from llamahost.api.openai_answers import Answer
from llamahost.api.openai_types import Name, Prompt
from llamahost.api.pieces import InPieces
from llamahost.api.service import Service
from llamahost.api.whole import Whole
from llamahost.core.errors import InvalidRequest
from llamahost.core.vectors import Embeddings, EmbedRequest, InputKind
from llamahost.fleet.settings.manifest import ServerSettings

_KINDS: dict[str | None, InputKind] = {
    None: "",
    "query": "query",
    "document": "document",
    "search_query": "query",
    "search_document": "document",
}


class EmbeddingsBody(msgspec.Struct, kw_only=True):
    """POST /v1/embeddings. `input_type` chooses the model's own prefix; `truncate` cuts what is too long."""

    input: str | list[Prompt]
    model: Name | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    input_type: Literal["query", "document", "search_query", "search_document"] | None = None
    truncate: bool | None = None
    timeout: float | None = None
    user: str | None = None


class EmbeddingAnswer(Answer):
    """`embedding` is numbers, or in base64 the same as 32-bit floats, lowest byte first. Under pooling `none` it has a
    list of numbers for each token.
    """

    object: Literal["embedding"]
    index: int
    embedding: list[float | list[float]] | str
    truncated: bool | msgspec.UnsetType = msgspec.UNSET


class InputUsage(Answer):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Answer):
    object: Literal["list"]
    data: list[EmbeddingAnswer]
    model: str
    usage: InputUsage


EMBEDDINGS = InPieces(EmbeddingsBody, "input", Prompt)


def embeddings_route(service: Service, settings: ServerSettings, reading: Reading) -> ASGIApp:
    return Whole(EMBEDDINGS, parse_embeddings, service.embed, encoded, _n_numbers, settings, reading)


def _n_numbers(found: Embeddings) -> int:
    return sum(map(len, found.vectors))


def parse_embeddings(body: EmbeddingsBody) -> EmbedRequest:
    """Raises InvalidRequest."""
    return EmbedRequest(
        inputs=inputs_of(body.input),
        model=body.model or "",
        kind=_KINDS[body.input_type],
        dimensions=body.dimensions,
        is_cut=bool(body.truncate),
        user=key_of(body.user),
        timeout_s=body.timeout,
    )


def inputs_of(given: str | Sequence[int | str | Sequence[int]]) -> tuple[str | tuple[int, ...], ...]:
    """One text, one list of tokens, or a list of either. Raises InvalidRequest."""
    if isinstance(given, str):
        return (given,)
    if given and all(isinstance(item, int) for item in given):
        return (tuple(item for item in given if isinstance(item, int)),)
    inputs: list[str | tuple[int, ...]] = []
    for k, item in enumerate(given):
        if isinstance(item, int):
            raise InvalidRequest("`input` mixes token ids with texts; put them in a list of their own", param="input")
        if not isinstance(item, str) and not item:  # an empty text still has its marks in most vocabularies
            raise InvalidRequest(f"`input[{k}]` is empty", param=f"input[{k}]")
        inputs.append(item if isinstance(item, str) else tuple(item))
    return tuple(inputs)


def encoded(body: EmbeddingsBody, request: EmbedRequest, found: Embeddings) -> bytes:
    """The answer's JSON, vector by vector: a whole request's at once would hold the GIL for as long as it takes."""
    import numpy as np  # a tenth of a start, which need not wait for it

    is_text = body.encoding_format == "base64"
    cut = frozenset(found.cut)
    items: list[bytes] = []
    for index, vector in enumerate(found.vectors):
        row = np.frombuffer(vector, np.float32).astype("<f4", copy=False)
        row = row.reshape(-1, found.n_token_dim) if found.n_token_dim else row
        value = b'"%s"' % b64encode(row.tobytes()) if is_text else orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
        mark = b',"truncated":true' if index in cut else b""
        items.append(b'{"object":"embedding","index":%d,"embedding":%s%s}' % (index, value, mark))
    usage = {"prompt_tokens": found.n_tokens, "total_tokens": found.n_tokens}
    tail = orjson.dumps({"model": found.model, "usage": usage})
    return b'{"object":"list","data":[%s],%s' % (b",".join(items), tail[1:])
