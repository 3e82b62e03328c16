"""Embeddings and scores from end to end: real models through the library and over a socket."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from llamahost import Host, create_app
from llamahost.core.errors import ContextTooLong, InvalidRequest
from llamahost.core.events import Delta
from llamahost.core.messages import CompletionRequest, Generation
from llamahost.core.vectors import EmbedRequest, RerankRequest
from llamahost.core.work import Vector
from llamahost.host import AsyncHost
from tests.api.fakes import client_of
from tests.api.sockets import listening
from tests.gguf_encoders import write_encoder
from tests.gguf_models import write_model
from tests.on_loop import on_loop, turns


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "mean.gguf", "mean", n_ctx=64)


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("ranker") / "rank.gguf", "rank", n_ctx=64)


def close(a: Vector | Sequence[float], b: Vector | Sequence[float]) -> bool:
    return bool(np.allclose(np.array(a), np.array(b), atol=1e-3))


class TestLibrary:
    def test_each_text_has_its_vector_of_length_one(self, encoder: Path) -> None:
        with Host(encoder, n_threads=1) as host:
            found = host.embed(["one", "two", "", "one"])
            assert len(found.vectors) == 4
            assert all(math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-4) for vector in found.vectors)
            assert close(found.vectors[0], found.vectors[3])
            assert not close(found.vectors[0], found.vectors[1])
            assert close(host.embed("one").vectors[0], found.vectors[0])
            assert found.model == "mean"
            n_tokens = len(host.tokenize("one", add_special=True, parse_special=False))
            assert host.embed("one").n_tokens == n_tokens

    def test_fewer_dimensions_are_the_first_ones_made_a_unit(self, encoder: Path) -> None:
        with Host(encoder, n_threads=1) as host:
            whole = np.array(host.embed("text").vectors[0])
            few = host.embed("text", dimensions=8).vectors[0]
            assert close(few, (whole[:8] / np.linalg.norm(whole[:8])).tolist())
            with pytest.raises(InvalidRequest) as told:  # before anything is computed
                host.embed("x" * 1000, dimensions=33)
            assert told.value.param == "dimensions"

    def test_a_document_that_is_too_long_is_named_as_it_was_given(self, ranker: Path) -> None:
        with Host(ranker, n_threads=1) as host, pytest.raises(ContextTooLong) as told:
            host.rerank("q", ["short", "x" * 1000])
        assert told.value.param == "documents[1]"

    def test_what_is_too_long_is_refused_by_its_place_or_cut_and_told(self, encoder: Path) -> None:
        with Host(encoder, n_threads=1) as host:
            with pytest.raises(ContextTooLong) as told:
                host.embed(["short", "x" * 1000])
            assert told.value.param == "input[1]"
            assert told.value.n_ctx == 64
            found = host.embed(["short", "x" * 1000], is_cut=True)
            assert found.cut == (1,)
            assert len(found.vectors) == 2

    def test_a_kind_of_input_gets_the_models_own_prefix(self, encoder: Path) -> None:
        with Host(encoder, n_threads=1, query_prefix="ask: ", document_prefix="say: ") as host:
            plain = host.embed(["ask: x", "say: x"]).vectors
            assert close(host.embed("x", kind="query").vectors[0], plain[0])
            assert close(host.embed("x", kind="document").vectors[0], plain[1])

    def test_an_encoder_generates_nothing_and_says_what_it_does(self, encoder: Path, ranker: Path) -> None:
        with Host(encoder, n_threads=1) as host:
            with pytest.raises(InvalidRequest, match="/v1/embeddings"):
                host.chat("Hello")
            with pytest.raises(InvalidRequest, match="no reranker"):
                host.rerank("q", ["d"])
        with Host(ranker, n_threads=1) as host:
            with pytest.raises(InvalidRequest, match="/v1/rerank"):
                host.complete("Hello")
            with pytest.raises(InvalidRequest, match="scores documents"):
                host.embed("q")

    def test_a_model_that_generates_embeds_only_when_told_to(self, tiny_llama: Path) -> None:
        with (
            Host(tiny_llama, n_ctx=64, n_slots=1, n_threads=1) as host,
            pytest.raises(InvalidRequest, match="embeddings"),
        ):
            host.embed("x")
        with Host(tiny_llama, n_ctx=64, n_slots=1, n_threads=1, embeddings=True) as host:
            before = host.complete("Once", temperature=0.0, max_tokens=8).text
            [vector] = host.embed("Once upon a time").vectors
            assert math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-4)
            assert host.complete("Once", temperature=0.0, max_tokens=8).text == before

    def test_a_decoder_made_for_embeddings_takes_the_files_pooling(self, tmp_path: Path) -> None:
        path = write_model(tmp_path / "last.gguf", metadata={"llama.pooling_type": np.uint32(3)})
        with Host(path, n_ctx=64, n_threads=1) as host:
            assert math.isclose(math.hypot(*host.embed("text").vectors[0]), 1.0, abs_tol=1e-4)
            with pytest.raises(InvalidRequest, match="generates no text"):
                host.complete("Hello")

    def test_scores_are_of_the_pair_and_in_the_order_of_the_documents(self, ranker: Path) -> None:
        with Host(ranker, n_threads=1) as host:
            documents = ["a cat", "a dog", "a house of brick"]
            together = host.rerank("pet", documents)
            assert len(together.scores) == 3
            alone = [host.rerank("pet", [document]).scores[0] for document in documents]
            assert close(together.scores, alone)
            assert not close(host.rerank("building", documents).scores, together.scores)
            with pytest.raises(ContextTooLong) as told:
                host.rerank("pet", ["short", "x" * 1000])
            assert told.value.param == "documents[1]"


@asynccontextmanager
async def open_host(path: Path, **options: int | bool) -> AsyncIterator[AsyncHost]:
    host = AsyncHost(path, n_threads=1, **options)  # type: ignore[arg-type]  # a test's shorthand
    async with host:
        yield host


@on_loop
async def test_many_requests_at_once_each_get_their_own(encoder: Path) -> None:
    async with open_host(encoder) as host:
        texts = [f"text number {k}" for k in range(40)]
        alone = [(await host.embed(EmbedRequest(inputs=(text,)))).vectors[0] for text in texts]
        found = await asyncio.gather(*(host.embed(EmbedRequest(inputs=(text,))) for text in texts))
        assert all(close(a, b.vectors[0]) for a, b in zip(alone, found, strict=True))


def n_tokens_in(host: AsyncHost) -> int:
    [status] = host.models()
    return status.stats.n_tokens_in if status.stats is not None else 0


@on_loop
async def test_one_text_overtakes_a_request_of_thousands_which_can_be_cancelled(encoder: Path) -> None:
    async with open_host(encoder) as host:
        many = asyncio.create_task(host.embed(EmbedRequest(inputs=("a longer text of some words",) * 4000)))
        while not n_tokens_in(host):
            await turns()
        await host.embed(EmbedRequest(inputs=("one",)))
        assert not many.done()
        many.cancel()
        with pytest.raises(asyncio.CancelledError):
            await many
        await host.embed(EmbedRequest(inputs=("one",)))
        [status] = host.models()
        assert status.n_in_flight == 0
        assert status.stats is not None
        assert status.stats.n_running == 0


async def text_of(host: AsyncHost) -> str:
    request = CompletionRequest(
        prompts=("Once upon a time",), generation=Generation(max_tokens=40, sampling={"temperature": 0.0})
    )
    return "".join([event.text async for event in host.complete(request) if isinstance(event, Delta)])


@on_loop
async def test_embedding_beside_generating_changes_neither(tiny_llama: Path) -> None:
    async with open_host(tiny_llama, n_ctx=128, n_slots=2, embeddings=True) as host:
        text = await text_of(host)
        vector = (await host.embed(EmbedRequest(inputs=("a text",)))).vectors[0]
        generating = asyncio.create_task(text_of(host))
        found = await asyncio.gather(*(host.embed(EmbedRequest(inputs=("a text", "b"))) for _ in range(8)))
        assert await generating == text
        assert all(close(each.vectors[0], vector) for each in found)


@pytest.mark.openai
@on_loop
async def test_the_official_client_gets_vectors_over_a_socket(encoder: Path) -> None:
    import openai

    async with open_host(encoder) as host, listening(create_app(host)) as port:
        url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            found = await client.embeddings.create(model="any", input=["one", "two"])  # asks for base64 by itself
            floats = await client.embeddings.create(model="any", input=["one", "two"], encoding_format="float")
            library = await host.embed(EmbedRequest(inputs=("one", "two")))
            for k in range(2):
                assert close(found.data[k].embedding, library.vectors[k])
                assert close(floats.data[k].embedding, library.vectors[k])
            assert found.usage.prompt_tokens == library.n_tokens
            with pytest.raises(openai.BadRequestError) as told:
                await client.embeddings.create(model="any", input="x" * 1000)
            assert told.value.code == "context_length_exceeded"


@on_loop
async def test_without_pooling_an_input_has_a_vector_for_each_token(tmp_path: Path) -> None:
    model = write_encoder(tmp_path / "none.gguf", "none", n_ctx=64)
    async with open_host(model) as host, client_of(create_app(host)) as client:
        library = await host.embed(EmbedRequest(inputs=("one", "two words")))
        answer = await client.post("/embeddings", json={"input": ["one", "two words"], "encoding_format": "float"})
        rows = [each["embedding"] for each in answer.json()["data"]]
        assert sum(map(len, rows)) == library.n_tokens == answer.json()["usage"]["prompt_tokens"]
        for row, vector in zip(rows, library.vectors, strict=True):
            assert {len(each) for each in row} == {library.n_token_dim} == {32}
            assert close([number for each in row for number in each], vector)


@on_loop
async def test_a_reranker_answers_over_the_library_as_many_as_are_asked(ranker: Path) -> None:
    async with open_host(ranker) as host:
        request = RerankRequest(query="q", documents=tuple(f"document {k}" for k in range(100)))
        found = await host.rerank(request)
        assert len(found.scores) == 100
        assert not found.is_probability
        with pytest.raises(ContextTooLong) as told:
            await host.rerank(RerankRequest(query="q", documents=("x" * 1000,), param="texts"))
        assert told.value.param == "texts[0]"


def test_a_trained_model_agrees_with_sentence_transformers(shared_models: Path) -> None:
    """`minilm_vectors.json` says how they were made; the file here is quantised to 8 bits, they are not."""
    reference = json.loads((Path(__file__).parent / "data" / "minilm_vectors.json").read_text(encoding="utf-8"))
    with Host(shared_models / "all-MiniLM-L6-v2-q8_0.gguf", n_threads=1) as host:
        found = np.array(host.embed(reference["texts"]).vectors)
    expected = np.array(reference["vectors"])
    assert (found @ expected.T).diagonal().min() >= 0.999
