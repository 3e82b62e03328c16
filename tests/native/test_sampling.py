"""Every short way of choosing a token chooses what llama.cpp's whole chain does."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llamahost.core.errors import BackendError
from llamahost.core.sampling import Sampling
from llamahost.core.work import Job, Plan, Span
from llamahost.native.library import library
from llamahost.native.model import Model
from llamahost.native.rows import Chooser, Row, row_logprobs, top_candidates
from llamahost.native.sampling import SamplerChain, Samplers, is_argmax
from tests.gguf_models import write_model
from tests.native.driver import GREEDY, Driver, row_of

N_VOCAB = 20000
PROMPT = array("i", [5, 9, 700, 9, 5, 42, 700, 9])


@pytest.fixture(scope="module")
def wide(model_folder: Path) -> Iterator[Model]:
    path = write_model(model_folder / "wide.gguf", n_vocab=N_VOCAB, n_embd=32, n_layer=1, n_head=2, dtype="f16")
    with Model.open(path) as model:
        yield model


@pytest.fixture(scope="module")
def samplers(wide: Model) -> Iterator[Samplers]:
    made = Samplers(library(), wide.vocab, n_ctx=256)
    yield made
    made.close()


@pytest.fixture
def chooser() -> Iterator[Chooser]:
    made = Chooser(library(), n_vocab=N_VOCAB, n_threads=3)
    yield made
    made.close()


def rows(n: int, seed: int = 0) -> Row:
    return (np.random.default_rng(seed).standard_normal((n, N_VOCAB)) * 3).astype(np.float32)


def draw(chooser: Chooser, chain: SamplerChain, matrix: Row) -> list[int]:
    tokens = []
    for row in matrix:
        tokens.append(chooser.choose(chain, row))
        chain.accept(tokens[-1])
    chain.close()
    return tokens


VARIED = {
    "default": Sampling(seed=1),
    "hot": Sampling(seed=2, temperature=3.0, top_p=1.0, min_p=0.0),
    "temperature first": Sampling(seed=3, samplers=("temperature", "top_k", "top_p")),
    "typical": Sampling(seed=4, typical_p=0.8),
    "sigma": Sampling(seed=5, top_n_sigma=1.5, top_k=0),
    "xtc": Sampling(seed=6, xtc_probability=0.9, xtc_threshold=0.05, temperature=0.5, min_p=0.0),
    "dynamic": Sampling(seed=7, dynatemp_range=0.5, dynatemp_exponent=1.2),
    "penalties": Sampling(seed=8, repeat_penalty=1.4, presence_penalty=0.6, frequency_penalty=0.4),
    "rewarding penalties": Sampling(seed=8, repeat_penalty=0.5, presence_penalty=-4.0, frequency_penalty=-1.0),
    "dry": Sampling(seed=9, dry_multiplier=0.8, dry_allowed_length=1, dry_penalty_last_n=16),
    "mirostat 1": Sampling(seed=10, mirostat=1),
    "mirostat 2": Sampling(seed=11, mirostat=2),
    "bias": Sampling(seed=12, logit_bias=((5, 4.0), (9, -math.inf), (9, 2.0))),
    "no samplers": Sampling(seed=13, samplers=()),
    "infill": Sampling(seed=15, temperature=0.3, samplers=("top_k", "temperature", "infill")),
    "min_keep": Sampling(seed=14, min_keep=5, top_p=0.1, min_p=0.9),
    "greedy with penalties": Sampling(temperature=0.0, repeat_penalty=1.3),
}


@pytest.mark.parametrize("sampling", VARIED.values(), ids=VARIED.keys())
def test_a_cut_row_chooses_what_the_whole_row_does(samplers: Samplers, chooser: Chooser, sampling: Sampling) -> None:
    matrix = rows(40)
    before = matrix.copy()
    short, whole = samplers.chain(sampling, PROMPT), samplers.chain(sampling, PROMPT)
    whole.top_k, whole.is_greedy = 0, False
    assert draw(chooser, short, matrix) == draw(chooser, whole, matrix)
    assert np.array_equal(matrix, before)


GREEDIES = {
    "plain": GREEDY,
    "all off": Sampling(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0),
    "narrow": Sampling(temperature=0.0, top_k=1, top_p=0.01, min_p=1.0, top_n_sigma=0.1),
    "temperature first": Sampling(temperature=0.0, samplers=("temperature", "top_k")),
    "bias up": Sampling(temperature=0.0, logit_bias=((77, 40.0),)),
    "ban": Sampling(temperature=0.0, logit_bias=tuple((token, -math.inf) for token in range(0, N_VOCAB, 2))),
}


@pytest.mark.parametrize("sampling", GREEDIES.values(), ids=GREEDIES.keys())
def test_greedy_is_one_argmax_and_equals_the_chain(samplers: Samplers, chooser: Chooser, sampling: Sampling) -> None:
    matrix = rows(30)
    short, whole = samplers.chain(sampling, PROMPT), samplers.chain(sampling, PROMPT)
    assert short.is_greedy
    whole.top_k, whole.is_greedy = 0, False
    chosen = draw(chooser, short, matrix)
    assert chosen == draw(chooser, whole, matrix)
    bias = np.zeros(N_VOCAB, np.float32)
    for token, value in sampling.logit_bias:
        bias[token] += value
    assert chosen == (matrix + bias).argmax(axis=1).tolist()


def test_greedy_ties_go_to_the_lowest_id(samplers: Samplers, chooser: Chooser) -> None:
    row = np.zeros((1, N_VOCAB), np.float32)
    row[0, [300, 200, 100]] = 5.0
    assert draw(chooser, samplers.chain(GREEDY, PROMPT), row) == [100]
    whole = samplers.chain(Sampling(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0), PROMPT)
    whole.is_greedy = False
    assert draw(chooser, whole, row) == [100]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.0, repeat_penalty=1.1),
        Sampling(temperature=0.0, dry_multiplier=1.0),
        Sampling(temperature=0.0, typical_p=0.5),
        Sampling(temperature=0.0, xtc_probability=0.5),
        Sampling(temperature=0.0, dynatemp_range=0.5),
        Sampling(temperature=0.0, mirostat=2),
        Sampling(temperature=0.0, samplers=("top_k",)),
        Sampling(temperature=0.0, samplers=("infill", "temperature")),
        Sampling(),
    ],
    ids=["penalties", "dry", "typical", "xtc", "dynamic", "mirostat", "no temperature", "infill", "default"],
)
def test_what_can_move_the_likeliest_is_not_an_argmax(sampling: Sampling) -> None:
    assert not is_argmax(sampling)


def test_what_is_off_or_left_out_leaves_an_argmax() -> None:
    assert is_argmax(Sampling(temperature=0.0, repeat_penalty=1.5, samplers=("top_k", "temperature")))
    assert is_argmax(Sampling(temperature=0.0, repeat_penalty=1.5, repeat_last_n=0))
    assert is_argmax(Sampling(temperature=0.0, xtc_probability=0.5, xtc_threshold=0.6))


def test_threads_choose_what_one_thread_does(samplers: Samplers, chooser: Chooser) -> None:
    kinds = [Sampling(seed=i, top_k=0) for i in range(9)] + [GREEDY, Sampling(seed=99), *list(VARIED.values())[:8]]
    matrix = rows(len(kinds))
    alone = Chooser(library(), n_vocab=N_VOCAB, n_threads=1)
    for _ in range(5):
        chains = [samplers.chain(sampling, PROMPT) for sampling in kinds]
        others = [samplers.chain(sampling, PROMPT) for sampling in kinds]
        assert chooser.choose_all(chains, matrix) == alone.choose_all(others, matrix)
        for chain in chains + others:
            chain.close()


def test_a_seed_reproduces_and_another_differs(samplers: Samplers, chooser: Chooser) -> None:
    matrix = rows(30)

    def drawn(seed: int | None) -> list[int]:
        return draw(chooser, samplers.chain(Sampling(seed=seed, temperature=2.0), PROMPT), matrix)

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    assert drawn(None) != drawn(None)


def test_a_banned_token_never_comes(samplers: Samplers, chooser: Chooser) -> None:
    row = np.full((200, N_VOCAB), -5.0, np.float32)
    row[:, 10:14] = 5.0
    chain = samplers.chain(Sampling(seed=1, temperature=2.0, logit_bias=((11, -math.inf),)), PROMPT)
    assert set(draw(chooser, chain, row)) == {10, 12, 13}


def test_a_bias_beyond_the_vocabulary_does_nothing(samplers: Samplers, chooser: Chooser) -> None:
    matrix = rows(3)
    chain = samplers.chain(Sampling(temperature=0.0, logit_bias=((N_VOCAB, 100.0), (2**31 - 1, 100.0))), PROMPT)
    assert draw(chooser, chain, matrix) == matrix.argmax(axis=1).tolist()


def test_penalties_remember_the_end_of_the_prompt(samplers: Samplers, chooser: Chooser) -> None:
    row = np.zeros((1, N_VOCAB), np.float32)
    row[0, 700] = 2.0
    row[0, 8] = 1.5
    sampling = Sampling(temperature=0.0, repeat_penalty=2.0, repeat_last_n=2)
    assert draw(chooser, samplers.chain(sampling, PROMPT), row) == [8]
    assert draw(chooser, samplers.chain(sampling, PROMPT[:-2]), row) == [700]
    assert draw(chooser, samplers.chain(sampling, array("i", [-4, N_VOCAB, 700])), row) == [8]


INFILL = Sampling(seed=1, samplers=("top_k", "top_p", "infill"))


def drawn_from(chooser: Chooser, chain: SamplerChain, likely: dict[int, float], n: int = 60) -> set[int]:
    """What is drawn where tokens are as likely as that, and all others as good as never."""
    row = np.full((n, N_VOCAB), -50.0, np.float32)
    for token, p in likely.items():
        row[:, token] = math.log(p)
    return set(draw(chooser, chain, row))


def test_infill_ends_where_that_is_likely_and_leaves_out_what_is_not(wide: Model, chooser: Chooser) -> None:
    end = wide.vocab.eos
    samplers = Samplers(library(), wide.vocab, n_ctx=256)
    several = {1000: 0.5, 1001: 0.3, 1002: 0.1, 1003: 0.1}
    assert drawn_from(chooser, samplers.chain(INFILL, PROMPT), several) == {1000, 1001}
    assert drawn_from(chooser, samplers.chain(INFILL, PROMPT), several | {end: 0.1}) == {end}
    nothing = dict.fromkeys(range(1000, 1020), 0.05)
    assert drawn_from(chooser, samplers.chain(INFILL, PROMPT), nothing) <= wide.vocab.end_ids
    # a form of the answer is not to be ended, and what C would end the process over is never asked of it
    held = samplers.chain(INFILL, PROMPT, is_held=True)
    assert drawn_from(chooser, held, several | {end: 0.1}) == {*several, end}
    samplers.close()
    pieces = (b"x" * 513,)
    strange: Any = SimpleNamespace(pieces=pieces, eos=end, n_tokens=N_VOCAB, pointer=wide.vocab.pointer, suppressed=())
    samplers = Samplers(library(), strange, n_ctx=256)
    assert drawn_from(chooser, samplers.chain(INFILL, PROMPT), several | {end: 0.1}) == {*several, end}
    samplers.close()


def test_dry_stops_a_repetition(samplers: Samplers, chooser: Chooser) -> None:
    row = np.zeros((1, N_VOCAB), np.float32)
    row[0, 950] = 2.0
    row[0, 8] = 1.5
    loop = array("i", [900, 901, 902, 950] * 5 + [900, 901, 902])
    assert draw(chooser, samplers.chain(Sampling(temperature=0.0, dry_multiplier=2.0), loop), row) == [8]
    assert draw(chooser, samplers.chain(Sampling(temperature=0.0, dry_multiplier=0.0), loop), row) == [950]


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(), Sampling(top_k=0), Sampling(repeat_penalty=1.1)],
    ids=["greedy", "cut", "whole", "penalties"],
)
def test_nan_is_an_error_and_not_a_crash(samplers: Samplers, chooser: Chooser, sampling: Sampling) -> None:
    matrix = rows(2)
    matrix[1, 777] = math.nan
    chains = [samplers.chain(sampling, PROMPT) for _ in range(2)]
    with pytest.raises(BackendError, match="NaN"):
        chooser.choose_all(chains, matrix)
    for chain in chains:
        chain.close()
        chain.close()
    with pytest.raises(BackendError, match="ended"):
        _ = chains[0].pointer


@pytest.mark.parametrize("k", [1, 7, 60])
def test_candidates_hold_the_top_k(k: int) -> None:
    for row in (*rows(5), np.zeros(N_VOCAB, np.float32), -np.arange(N_VOCAB, dtype=np.float32)):
        chosen = set(top_candidates(row, k).tolist())
        bound = np.sort(row)[-k]
        assert set(np.flatnonzero(row > bound).tolist()) <= chosen
        assert len(chosen) >= k


@pytest.mark.parametrize("n", [0, 1, 5, 20])
def test_logprobs_are_the_log_softmax_of_the_raw_row(n: int) -> None:
    for row in rows(3):
        exact = row.astype(np.float64) - row.max()
        exact -= math.log(np.exp(exact).sum())
        told = row_logprobs(row, 123, n)
        assert told.logprob == pytest.approx(exact[123], abs=1e-4)
        order = np.argsort(-exact)[:n]
        assert [token for token, _ in told.top] == order.tolist()
        assert [value for _, value in told.top] == pytest.approx(exact[order].tolist(), abs=1e-4)


@pytest.mark.parametrize("is_post_sampling", [False, True])
def test_penalties_know_what_their_job_was_answered_and_no_other(tiny_llama: Path, is_post_sampling: bool) -> None:
    likely = Sampling(temperature=0.0, logit_bias=((20, 100.0),))
    once = replace(likely, presence_penalty=1e4)
    begins = (
        Job(id=0, tokens=array("i", [30]), n_max=2, sampling=once),
        Job(id=1, tokens=array("i", [30]), n_max=2, sampling=likely),
        Job(id=2, tokens=array("i", [30]), n_max=2, sampling=once, n_logprobs=1, is_post_sampling=is_post_sampling),
    )
    with Driver(tiny_llama) as driver:
        first = driver.run(Plan(begins=begins, spans=[Span(k, k, 0, array("i", [30]), 1) for k in range(3)]))
        second = driver.run(Plan(spans=[Span(k, k, 1, array("i", [20]), 1) for k in range(3)]))
    assert [sampled.tokens for sampled in first] == [(20,)] * 3
    assert [sampled.tokens == (20,) for sampled in second] == [False, True, False]


def test_logprobs_know_no_bias(tiny_llama: Path) -> None:
    with Driver(tiny_llama) as driver:
        job = driver.begin(Sampling(temperature=0.0, logit_bias=((20, 100.0),)), n_logprobs=3)
        sampled = driver.run(Plan(spans=(Span(job, 0, 0, array("i", [1, 30, 31]), 1),)))[0]
        assert sampled.tokens == (20,)
        row = row_of(driver.backend, 0)
        assert sampled.logprobs == (row_logprobs(row, 20, 3),)
        assert sampled.logprobs[0].top[0][0] == row.argmax()
        plain = driver.begin(GREEDY)
        assert driver.run(Plan(spans=(Span(plain, 1, 0, array("i", [1, 30]), 1),)))[0].logprobs == ()


def test_a_burst_is_accepted_up_to_the_first_wrong_draft(tiny_llama: Path) -> None:
    with Driver(tiny_llama) as driver:
        prompt = [1, 30, 31, 32]
        told = driver.answer(0, 0, prompt, 5)
        job = driver.begin()
        drafts = [told[0], told[1], told[2], (told[3] + 1) % 512, 9]
        driver.run(Plan(spans=(Span(job, 1, 0, array("i", prompt), 1),)))
        sampled = driver.run(Plan(spans=(Span(job, 1, 4, array("i", drafts), 5),)))[0]
        assert list(sampled.tokens) == told[1:4]


def test_ended_jobs_leave_no_sampler(tiny_llama: Path) -> None:
    with Driver(tiny_llama) as driver:
        jobs = [driver.begin(Sampling(dry_multiplier=1.0), n_logprobs=1) for _ in range(30)]
        driver.run(Plan(ends=tuple(jobs)))
        driver.run(Plan(ends=tuple(jobs)))
        assert driver.backend.n_kept_for_jobs == 0


def test_what_the_samplers_left_is_told_as_they_left_it(samplers: Samplers, chooser: Chooser) -> None:
    row = rows(1)[0]
    order = np.argsort(-row)[:5]
    weights = np.exp(row[order].astype(np.float64) / 0.7)
    wanted = dict(zip(order.tolist(), np.log(weights / weights.sum()).tolist(), strict=True))
    for sampling in (
        Sampling(seed=3, top_k=5, top_p=1.0, min_p=0.0, temperature=0.7),
        # the same, where the whole row goes through the chain
        Sampling(seed=3, top_k=5, top_p=1.0, min_p=0.0, temperature=0.7, samplers=("temperature", "top_k")),
    ):
        chain = samplers.chain(sampling, PROMPT)
        token, told = chooser.choose_and_tell(chain, row, 3)
        assert told.logprob == pytest.approx(wanted[token], abs=1e-4)
        assert [id_ for id_, _ in told.top] == order[:3].tolist()
        assert [logprob for _, logprob in told.top] == pytest.approx(
            [wanted[id_] for id_ in order[:3].tolist()], abs=1e-4
        )
        assert len(chooser.choose_and_tell(chain, row, 20)[1].top) == 5
        chain.close()


def test_who_chooses_the_likeliest_leaves_nothing_else(samplers: Samplers, chooser: Chooser) -> None:
    row = rows(1)[0]
    for sampling in (Sampling(temperature=0.0), Sampling(temperature=0.0, repeat_penalty=1.1)):
        chain = samplers.chain(sampling, PROMPT)
        token, told = chooser.choose_and_tell(chain, row, 3)
        assert (told.logprob, told.top) == (0.0, ((token, 0.0),))
        assert chooser.choose_and_tell(chain, row, 0)[1].top == ()
        chain.close()


def test_a_job_that_asks_what_was_left_changes_nothing_for_its_neighbours(tiny_llama: Path) -> None:
    hot = Sampling(seed=5, temperature=1.5, top_k=4, top_p=1.0, min_p=0.0)
    with Driver(tiny_llama) as driver:
        prompts = [array("i", [30 + i, 40, 50]) for i in range(3)]
        jobs = [
            Job(id=i, tokens=prompt, n_max=1, sampling=hot, n_logprobs=4, is_post_sampling=i == 1)
            for i, prompt in enumerate(prompts)
        ]
        spans = tuple(Span(i, i, 0, prompt, 1) for i, prompt in enumerate(prompts))
        first, asked, last = driver.run(Plan(begins=tuple(jobs), spans=spans))
        assert sum(math.exp(logprob) for _, logprob in asked.logprobs[0].top) == pytest.approx(1.0, abs=1e-5)
        assert sum(math.exp(logprob) for _, logprob in first.logprobs[0].top) < 0.999
        driver.clear(0, 1, 2)
        plain = [Job(id=10 + i, tokens=prompt, n_max=1, sampling=hot) for i, prompt in enumerate(prompts)]
        spans = tuple(Span(10 + i, i, 0, prompt, 1) for i, prompt in enumerate(prompts))
        again = driver.run(Plan(begins=tuple(plain), spans=spans, ends=(0, 1, 2)))
        assert [sampled.tokens for sampled in again] == [first.tokens, asked.tokens, last.tokens]
