"""Laws of embeddings by llama.cpp: what pooling makes of the tokens' rows, and that no input feels another."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llamahost.core.errors import BackendError, BackendLost, LoadFailed
from llamahost.core.work import Pooling, Tokens
from llamahost.native.embed import EmbedOptions, LlamaEmbedder
from llamahost.native.model import Model
from tests.gguf_encoders import EncoderPooling, head_of, write_encoder
from tests.gguf_models import MIN_VOCAB

N_CTX = 64
Rows = npt.NDArray[np.float32]


def tokens_of(*ids: int) -> Tokens:
    return array("i", ids)


def some_inputs(n: int, *, longest: int = 12, seed: int = 0) -> list[Tokens]:
    random = np.random.default_rng(seed)
    return [array("i", random.integers(8, MIN_VOCAB, random.integers(1, longest + 1)).tolist()) for _ in range(n)]


def vectors(embedder: LlamaEmbedder, inputs: Sequence[Tokens]) -> Rows:
    return np.array([list(vector) for vector in embedder.embed(inputs)], np.float32)


def unit(rows: Rows) -> Rows:
    made: Rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return made


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[EncoderPooling, Model]]:
    folder = tmp_path_factory.mktemp("encoders")
    kinds: tuple[EncoderPooling, ...] = ("none", "mean", "cls", "last", "rank")
    models = {kind: Model.open(write_encoder(folder / f"{kind}.gguf", kind)) for kind in kinds}
    yield models
    for model in models.values():
        model.close()


def embedder_on(
    model: Model, pooling: Pooling | None = None, *, n_ctx: int = N_CTX, n_batch: int = 64
) -> LlamaEmbedder:
    return LlamaEmbedder(model, EmbedOptions(n_ctx=n_ctx, n_batch=n_batch, pooling=pooling, n_threads=1))


@pytest.fixture
def rows_of_tokens(encoders: dict[EncoderPooling, Model]) -> Iterator[list[Rows]]:
    """The rows of each input's tokens, of length 1 each; all encoders have the same weights."""
    embedder = embedder_on(encoders["none"])
    assert embedder.pooling == "none"
    yield [np.array(vector, np.float32).reshape(-1, embedder.n_dim) for vector in embedder.embed(some_inputs(8))]
    embedder.close()


@pytest.mark.parametrize("kind", ["cls", "last"])
def test_pooling_takes_the_row_of_one_token(
    encoders: dict[EncoderPooling, Model], rows_of_tokens: list[Rows], kind: EncoderPooling
) -> None:
    embedder = embedder_on(encoders[kind])
    assert embedder.pooling == kind
    expected = np.array([rows[0 if kind == "cls" else -1] for rows in rows_of_tokens])
    np.testing.assert_allclose(vectors(embedder, some_inputs(8)), expected, atol=1e-5)
    embedder.close()


def test_mean_pooling_of_one_token_is_its_row_and_of_more_is_between_them(
    encoders: dict[EncoderPooling, Model], rows_of_tokens: list[Rows]
) -> None:
    embedder = embedder_on(encoders["mean"])
    assert embedder.pooling == "mean"
    found = vectors(embedder, some_inputs(8))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    for vector, rows in zip(found, rows_of_tokens, strict=True):
        # rows are normalised each, so their mean has not quite the weights of the true one
        assert float(vector @ unit(rows.mean(axis=0))) > 0.99
    embedder.close()


def test_rank_pooling_is_the_head_on_the_first_row(encoders: dict[EncoderPooling, Model]) -> None:
    embedder = embedder_on(encoders["rank"])
    plain = embedder_on(encoders["cls"])
    assert (embedder.pooling, embedder.n_dim) == ("rank", 1)
    inputs = some_inputs(8)
    scores = vectors(embedder, inputs)[:, 0]
    # BERT ends in a LayerNorm with weights of one: the row's length follows from its direction and the bias alone,
    # so the score is checked by its order against the head on rows that are rescaled to the length LayerNorm gives.
    head = head_of(32)
    rows = vectors(plain, inputs) * np.sqrt(32)
    expected = np.tanh(rows @ head.dense.T + head.dense_bias) @ head.out[0] + head.out_bias[0]
    assert np.corrcoef(scores, expected)[0, 1] > 0.99
    embedder.close()
    plain.close()


def test_an_input_does_not_feel_its_neighbours(encoders: dict[EncoderPooling, Model]) -> None:
    embedder = embedder_on(encoders["mean"], n_batch=N_CTX)
    inputs = some_inputs(10, longest=6)
    together = vectors(embedder, inputs)
    alone = np.concatenate([vectors(embedder, [tokens]) for tokens in reversed(inputs)])[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    embedder.close()


@pytest.mark.parametrize("pooling", [None, "mean", "cls", "last", "none"])
def test_a_decoder_embeds_too_and_keeps_nothing_from_step_to_step(tiny_llama: Path, pooling: Pooling | None) -> None:
    model = Model.open(tiny_llama)
    embedder = embedder_on(model, pooling)
    assert embedder.pooling == (pooling or "last")
    inputs = some_inputs(6, longest=5)
    first = [list(vector) for vector in embedder.embed(inputs)]
    embedder.embed(some_inputs(4, seed=1))
    again = [list(vector) for vector in embedder.embed(inputs)]
    for a, b, tokens in zip(first, again, inputs, strict=True):
        assert len(a) == embedder.n_dim * (len(tokens) if pooling == "none" else 1)
        np.testing.assert_allclose(a, b, atol=1e-5)
    embedder.close()
    model.close()


def test_the_last_token_of_a_long_input_is_the_same_in_one_piece_and_in_many(tiny_llama: Path) -> None:
    model = Model.open(tiny_llama)
    [tokens] = some_inputs(1, longest=1)
    tokens = array("i", np.random.default_rng(3).integers(8, MIN_VOCAB, 60).tolist())
    whole, pieces = embedder_on(model, n_batch=64), embedder_on(model, n_batch=7)
    assert (whole.n_batch, pieces.n_batch, pieces.can_split) == (64, 7, True)
    with pytest.raises(BackendError, match="60 tokens"):
        pieces.embed([tokens])
    for start in range(0, 56, 7):
        assert pieces.embed_piece(tokens, start, start + 7) is None
    for start, stop in ((0, 8), (49, 56), (57, 60), (56, 61)):  # too many, behind, beyond the gap, and beyond the end
        with pytest.raises(BackendError):
            pieces.embed_piece(tokens, start, stop)
    last = pieces.embed_piece(tokens, 56, 60)
    assert last is not None
    np.testing.assert_allclose(vectors(whole, [tokens]), [list(last)], atol=1e-4)
    np.testing.assert_allclose(vectors(pieces, [tokens[:5]]), vectors(whole, [tokens[:5]]), atol=1e-4)
    assert pieces.embed_piece(tokens, 0, 7) is None
    pieces.embed([tokens[:5]])
    with pytest.raises(BackendError, match="does not follow"):
        pieces.embed_piece(tokens, 7, 14)
    whole.close()
    pieces.close()
    model.close()


def test_what_must_be_computed_in_one_piece_makes_the_batch_that_large(encoders: dict[EncoderPooling, Model]) -> None:
    embedder = embedder_on(encoders["mean"], n_ctx=100, n_batch=10)
    assert embedder.n_batch >= 100
    assert not embedder.can_split
    with pytest.raises(BackendError):
        embedder.embed_piece(array("i", [9] * 20), 0, 10)
    assert vectors(embedder, [array("i", [9] * 100)]).shape == (1, 32)
    embedder.close()


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [tokens_of()],
        [tokens_of(9), tokens_of()],
        [array("i", [9] * (N_CTX + 1))],
        [array("i", [9] * 40), array("i", [9] * 40)],
        [tokens_of(-1)],
        [tokens_of(MIN_VOCAB)],
        [tokens_of(9)] * 65,
    ],
    ids=["nothing", "empty", "one empty", "too long", "too many tokens", "below", "beyond", "too many inputs"],
)
def test_what_would_end_the_process_is_refused_before_c(
    encoders: dict[EncoderPooling, Model], inputs: list[Tokens]
) -> None:
    embedder = embedder_on(encoders["mean"])
    with pytest.raises(BackendError):
        embedder.embed(inputs)
    assert vectors(embedder, [tokens_of(9)]).shape == (1, 32)
    embedder.close()


def test_beyond_the_positions_that_an_encoder_has_no_context_is_made(encoders: dict[EncoderPooling, Model]) -> None:
    with pytest.raises(LoadFailed, match="128"):
        embedder_on(encoders["mean"], n_ctx=129)


def test_scores_are_refused_of_a_model_that_has_no_head_for_them(encoders: dict[EncoderPooling, Model]) -> None:
    with pytest.raises(LoadFailed, match="rank"):
        embedder_on(encoders["mean"], "rank")


def test_a_closed_embedder_says_so(encoders: dict[EncoderPooling, Model]) -> None:
    embedder = embedder_on(encoders["mean"])
    embedder.close()
    embedder.close()
    with pytest.raises(BackendLost):
        embedder.embed([tokens_of(9)])


def test_one_that_was_warmed_up_as_on_a_gpu_with_the_longest_input_embeds_as_any_other(
    encoders: dict[EncoderPooling, Model],
) -> None:
    model = encoders["mean"]
    with contextlib.closing(embedder_on(model)) as plain:
        wanted = vectors(plain, some_inputs(4))
    model.is_on_device = True
    try:
        with contextlib.closing(embedder_on(model)) as warmed:
            assert int(warmed._batch.output.sum()) == min(warmed.n_ctx, warmed.n_batch)
            np.testing.assert_allclose(vectors(warmed, some_inputs(4)), wanted, atol=1e-5)
    finally:
        model.is_on_device = False
