"""Laws of what is embedded and scored: what is cut keeps what its score is read from."""

from array import array
from typing import Any

import pytest

from llamahost.core.errors import ContextTooLong
from llamahost.core.vectors import RerankRequest
from llamahost.core.work import PairMarks
from llamahost.fleet.request.inputs import Inputs
from tests.text.vocabulary import BOS, EOS, ByteVocabulary

MARKS = PairMarks(array("i", [BOS]), array("i", [EOS]), array("i", [EOS, EOS]))


def ranked(n_ctx: int, query: str, *documents: str, is_cut: bool = True, **options: Any) -> tuple[list[str], list[int]]:
    vocabulary = ByteVocabulary()
    inputs = Inputs(model="m", n_ctx=n_ctx, vocabulary=vocabulary, **options)
    prepared = inputs.rank(RerankRequest(query=query, documents=documents, is_cut=is_cut))
    assert all(len(tokens) <= n_ctx for tokens in prepared.job.inputs)
    texts = ["".join(vocabulary.pieces[t].decode() for t in tokens) for tokens in prepared.job.inputs]
    return texts, list(prepared.cut)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("q: {query} d: {document}<|turn|>yes?", ["q: ab d: c<|turn|>yes?", "q: ab d: cccc<|turn|>yes?"]),
        ("d: {document}<|turn|>q: {query}?", ["d: c<|turn|>q: ab?", "d: cccccccc<|turn|>q: ab?"]),
    ],
)
def test_a_pair_in_a_template_loses_only_its_documents_end(template: str, expected: list[str]) -> None:
    assert ranked(18, "ab", "c", "c" * 50, rerank_template=template) == (expected, [1])


def test_a_pair_between_marks_loses_only_its_documents_end() -> None:
    texts, cut = ranked(8, "ab", "c", "cdefgh", marks=MARKS)
    assert texts == ["<s>ab</s>c</s></s>", "<s>ab</s>cd</s></s>"]
    assert cut == [1]


@pytest.mark.parametrize("options", [{"marks": MARKS}, {"rerank_template": "{query} {document}<|turn|>"}])
def test_a_query_that_leaves_no_room_is_refused_though_documents_may_be_cut(options: dict[str, Any]) -> None:
    with pytest.raises(ContextTooLong) as caught:
        ranked(8, "a long query", "c", **options)
    assert caught.value.param == "query"
    with pytest.raises(ContextTooLong) as caught:
        ranked(8, "a", "a long document", is_cut=False, **options)
    assert caught.value.param == "documents[0]"
