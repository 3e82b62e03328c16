"""Laws of the embeddings and rerank routes: shapes, encodings, orders, and mistakes that are named."""

from __future__ import annotations

import base64
import math
from array import array
from typing import Any

import msgspec
import pytest

from llamahost.api.embeddings import EmbeddingsAnswer
from llamahost.api.rerank import RankedText, RerankAnswer, logistic
from tests.api.fakes import FakeHost, app_of, client_of, run


def asked(path: str, body: Any, expected: int = 200) -> Any:
    found: list[Any] = []

    async def law() -> None:
        async with client_of(app_of(FakeHost())) as client:
            response = await client.post(path, json=body)
        assert response.status_code == expected, response.text
        found.append(response.content)

    run(law)
    return found[0]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
@pytest.mark.parametrize(
    ("given", "vectors"),
    [
        ("abc", [[3.0, 1.0]]),
        (["abc", "", "de"], [[3.0, 3.0], [0.0, 3.0], [2.0, 3.0]]),
        ([5, 6, 7], [[3.0, 1.0]]),
        ([[5, 6], [7]], [[2.0, 2.0], [1.0, 2.0]]),
        (["abc", [7]], [[3.0, 2.0], [1.0, 2.0]]),
    ],
)
def test_every_form_of_input_gets_a_vector_each(path: str, given: Any, vectors: list[list[float]]) -> None:
    answer = msgspec.json.decode(asked(path, {"input": given, "model": "tiny"}), type=EmbeddingsAnswer)
    assert [item.embedding for item in answer.data] == vectors
    assert [item.index for item in answer.data] == list(range(len(vectors)))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == len(vectors)


def test_base64_holds_the_same_numbers() -> None:
    answer = msgspec.json.decode(
        asked("/v1/embeddings", {"input": ["abc", "de"], "encoding_format": "base64"}), type=EmbeddingsAnswer
    )
    for item, expected in zip(answer.data, ([3.0, 2.0], [2.0, 2.0]), strict=True):
        assert isinstance(item.embedding, str)
        assert list(array("f", base64.b64decode(item.embedding))) == expected


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input[0]"),
        ({"input": 5}, "input"),
        ({"input": ["a", 5]}, "input"),
        ({"input": ["a"] * 8193}, "input"),
        ({"input": [2**31]}, "input[0]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 2**70}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "input_type": "poem"}, "input_type"),
        ({"input": "a", "timeout": 0}, "timeout"),
    ],
)
def test_mistakes_in_embeddings_are_named(body: Any, param: str) -> None:
    error = msgspec.json.decode(asked("/v1/embeddings", body, 400))["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


DOCUMENTS = ["four", "seven77", "a", "seven78"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking", "/v2/rerank"])
def test_the_best_document_comes_first_and_equals_keep_their_order(path: str) -> None:
    answer = msgspec.json.decode(asked(path, {"query": "q", "documents": DOCUMENTS}), type=RerankAnswer)
    assert [result.index for result in answer.results] == [1, 3, 0, 2]
    assert [result.relevance_score for result in answer.results] == [logistic(score) for score in (3.0, 3.0, 0.0, -3.0)]
    assert all(result.document is msgspec.UNSET for result in answer.results)
    assert answer.usage.total_tokens == 4


def test_a_few_documents_come_back_with_raw_scores_and_their_text_when_asked() -> None:
    body = {"query": "q", "documents": [{"text": d} for d in DOCUMENTS], "top_n": 2}
    answer = msgspec.json.decode(
        asked("/v1/rerank", {**body, "return_documents": True, "raw_scores": True}), type=RerankAnswer
    )
    assert [(r.index, r.relevance_score) for r in answer.results] == [(1, 3.0), (3, 3.0)]
    assert [r.document.text for r in answer.results if r.document is not msgspec.UNSET] == ["seven77", "seven78"]


def test_texts_are_answered_in_the_shape_of_tei() -> None:
    answer = msgspec.json.decode(
        asked("/rerank", {"query": "q", "texts": DOCUMENTS, "return_text": True}), type=list[RankedText]
    )
    assert [(r.index, r.text) for r in answer][:2] == [(1, "seven77"), (3, "seven78")]
    assert all(0.0 <= r.score <= 1.0 for r in answer)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "q"}, "documents"),
        ({"query": "q", "documents": []}, "documents"),
        ({"query": "q", "texts": []}, "texts"),
        ({"query": "q", "documents": ["a"], "texts": ["a"]}, "texts"),
        ({"query": "q", "documents": [5]}, "documents[0]"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
    ],
)
def test_mistakes_in_rerank_are_named(body: Any, param: str) -> None:
    assert msgspec.json.decode(asked("/v1/rerank", body, 400))["error"]["param"] == param


@pytest.mark.parametrize("score", [-1e308, -745.0, -1.0, 0.0, 1.0, 745.0, 1e308])
def test_any_score_becomes_one_between_0_and_1(score: float) -> None:
    assert 0.0 <= logistic(score) <= 1.0
    assert math.isclose(logistic(score) + logistic(-score), 1.0, abs_tol=1e-12)
