"""The fake backend is a fake of the real one: both keep the same laws, on every kind of memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from llamahost.core.backend import Backend
from llamahost.core.errors import NoRoom
from llamahost.core.sampling import Sampling
from llamahost.core.work import Copy, Job, Plan, Restore, RowLogprobs, Save, Span, Truncation
from llamahost.engine.limits import Limits
from llamahost.engine.scheduler import Scheduler
from llamahost.native.backend import LlamaBackend
from llamahost.native.context import ContextOptions
from llamahost.native.model import Model
from tests.fakes import FakeBackend, one_by_one

N_CTX, N_SLOTS, N_BATCH = 256, 4, 128
GREEDY = Sampling(temperature=0.0)

KINDS = [
    "fake-split",
    "fake-unified",
    "fake-whole",
    "tiny_llama-split",
    "tiny_llama-unified",
    "tiny_swa-split",
    "tiny_swa-unified",
    "tiny_recurrent-split",
    "tiny_hybrid-split",
    "tiny_hybrid-unified",
]


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, model_of: Callable[[Path], Model]) -> Iterator[Backend]:
    name, layout = request.param.split("-")
    if name == "fake":
        yield FakeBackend(
            n_ctx=N_CTX,
            n_slots=N_SLOTS,
            n_batch=N_BATCH,
            n_rows=64,
            is_unified=layout == "unified",
            can_truncate=layout != "whole",
        )
        return
    path: Path = request.getfixturevalue(name)
    options = ContextOptions(
        n_ctx=N_CTX,
        n_slots=N_SLOTS,
        n_batch=N_BATCH,
        is_unified=layout == "unified",
        n_threads=1,
        # Random weights come near to ties; in f32 the order of a sum moves a logit less than that.
        kv_type_k="f32",
        kv_type_v="f32",
        flash_attention="off",
    )
    made = LlamaBackend(model_of(path), options)
    yield made
    made.close()


def text(n: int, seed: int = 0) -> list[int]:
    return [3 + (seed * 17 + i * i * 7 + i * 3) % 60 for i in range(n)]


def job(number: int, tokens: list[int], n_max: int = 8, n_prompt_logprobs: int | None = None) -> Job:
    return Job(id=number, tokens=array("i", tokens), n_max=n_max, sampling=GREEDY, n_prompt_logprobs=n_prompt_logprobs)


def span(number: int, slot: int, start: int, tokens: list[int], n_rows: int = 1) -> Span:
    return Span(number, slot, start, array("i", tokens), n_rows)


def run(backend: Backend, plan: Plan) -> list[tuple[int, ...]]:
    backend.launch(plan)
    return [sampled.tokens for sampled in backend.collect()]


def go_on(backend: Backend, number: int, slot: int, n_held: int, token: int, n: int) -> list[int]:
    """Decode `n` more tokens one by one, the first of them after `token`."""
    answer = []
    for i in range(n):
        ((token,),) = run(backend, Plan(spans=(span(number, slot, n_held + i, [token]),)))
        answer.append(token)
    return answer


def answer_alone(backend: Backend, tokens: list[int], n: int, *, slot: int = 0, number: int = 900) -> list[int]:
    """What an empty slot answers; the slot is empty before and after."""
    begin = Plan(begins=(job(number, tokens),), spans=(span(number, slot, 0, tokens),))
    ((first,),) = run(backend, begin)
    answer = [first, *go_on(backend, number, slot, len(tokens), first, n - 1)]
    run(backend, Plan(truncations=(Truncation(slot, 0),), ends=(number,)))
    return answer


def test_a_slot_answers_as_any_other_and_as_before(backend: Backend) -> None:
    answers = [answer_alone(backend, text(40), 6, slot=slot) for slot in (0, 3, 0)]
    assert answers[0] == answers[1] == answers[2]


def test_chunks_answer_as_the_whole(backend: Backend) -> None:
    alone = answer_alone(backend, text(60), 4)
    first = Plan(begins=(job(1, text(60)),), spans=(span(1, 0, 0, text(60)[:25], 0),))
    assert run(backend, first) == []
    ((token,),) = run(backend, Plan(spans=(span(1, 0, 25, text(60)[25:]),)))
    assert [token, *go_on(backend, 1, 0, 60, token, 3)] == alone


def test_neighbours_change_nothing(backend: Backend) -> None:
    lengths = [30, 7, 41, 18]
    alone = [answer_alone(backend, text(n, seed), 1) for seed, n in enumerate(lengths)]
    begins = tuple(job(seed, text(n, seed)) for seed, n in enumerate(lengths))
    spans = tuple(span(seed, seed, 0, text(n, seed)) for seed, n in enumerate(lengths))
    assert [list(tokens) for tokens in run(backend, Plan(begins=begins, spans=spans))] == alone


def test_a_whole_copy_continues_as_its_source(backend: Backend) -> None:
    alone = answer_alone(backend, [*text(50), *text(9, 1)], 3)
    run(backend, Plan(begins=(job(1, text(50)),), spans=(span(1, 0, 0, text(50), 0),)))
    copied = Plan(
        begins=(job(2, text(59)),),
        copies=(Copy(0, 2, 50),),
        spans=(span(1, 0, 50, text(4, 2), 0), span(2, 2, 50, text(9, 1))),  # the source goes on in the same plan
    )
    ((token,),) = run(backend, copied)
    assert [token, *go_on(backend, 2, 2, 59, token, 2)] == alone


def test_one_source_serves_many(backend: Backend) -> None:
    alone = [answer_alone(backend, [*text(50), 5 + slot], 1) for slot in (1, 2, 3)]
    run(backend, Plan(begins=(job(0, text(50)),), spans=(span(0, 0, 0, text(50), 0),)))
    plan = Plan(
        begins=tuple(job(slot, text(50)) for slot in (1, 2, 3)),
        copies=tuple(Copy(0, slot, 50) for slot in (1, 2, 3)),
        spans=tuple(span(slot, slot, 50, [5 + slot]) for slot in (1, 2, 3)),
    )
    assert [list(tokens) for tokens in run(backend, plan)] == alone


def test_a_copy_replaces_all_that_was_there(backend: Backend) -> None:
    alone = answer_alone(backend, [*text(20), 9], 3)
    begins = (job(0, text(20)), job(1, text(70, 1)))
    run(backend, Plan(begins=begins, spans=(span(0, 0, 0, text(20), 0), span(1, 1, 0, text(70, 1), 0))))
    ((token,),) = run(backend, Plan(copies=(Copy(0, 1, 20),), spans=(span(1, 1, 20, [9]),)))
    assert [token, *go_on(backend, 1, 1, 21, token, 2)] == alone


def test_a_copy_outlives_its_source(backend: Backend) -> None:
    alone = answer_alone(backend, [*text(30), 9], 3)
    run(backend, Plan(begins=(job(0, text(30)),), spans=(span(0, 0, 0, text(30), 0),)))
    plan = Plan(
        begins=(job(1, text(30)),),
        copies=(Copy(0, 1, 30),),
        truncations=(Truncation(0, 0),),
        spans=(span(1, 1, 30, [9]),),
    )
    ((token,),) = run(backend, plan)
    run(backend, Plan(spans=(span(0, 0, 0, text(80, 4), 0),)))
    assert [token, *go_on(backend, 1, 1, 31, token, 2)] == alone


def test_a_part_is_copied_and_cut_where_memory_can_be_cut(backend: Backend) -> None:
    if not backend.can_truncate:
        pytest.skip("this memory is copied whole and cut to nothing only")
    alone = answer_alone(backend, [*text(50)[:33], *text(9, 1)], 3)
    run(backend, Plan(begins=(job(1, text(50)),), spans=(span(1, 0, 0, text(50), 0),)))
    copied = Plan(begins=(job(2, text(42)),), copies=(Copy(0, 2, 33),), spans=(span(2, 2, 33, text(9, 1)),))
    ((token,),) = run(backend, copied)
    assert [token, *go_on(backend, 2, 2, 42, token, 2)] == alone
    ((token,),) = run(backend, Plan(truncations=(Truncation(0, 33),), spans=(span(1, 0, 33, text(9, 1)),)))
    assert [token, *go_on(backend, 1, 0, 42, token, 2)] == alone


def test_a_saved_sequence_resumes_in_another_slot(backend: Backend) -> None:
    alone = answer_alone(backend, text(50), 6)
    ((first,),) = run(backend, Plan(begins=(job(1, text(50)),), spans=(span(1, 0, 0, text(50)),)))
    answer = [first, *go_on(backend, 1, 0, 50, first, 2)]
    other = Plan(begins=(job(2, text(90, 3)),), saves=(Save(1, 0),), spans=(span(2, 0, 0, text(90, 3), 0),))
    run(backend, other)
    ((token,),) = run(backend, Plan(restores=(Restore(1, 3),), spans=(span(1, 3, 52, [answer[-1]]),)))
    answer += [token, *go_on(backend, 1, 3, 53, token, 2)]
    assert answer == alone


def scores_of(backend: Backend, number: int, slot: int, tokens: list[int], cuts: list[int]) -> list[RowLogprobs]:
    """Compute tokens in chunks that end at `cuts`, and score every one but the first; nothing is sampled."""
    scores: list[RowLogprobs] = []
    for start, end in pairwise([0, *cuts, len(tokens)]):
        part = Span(
            number, slot, start, array("i", tokens[start:end]), 0, scored=array("i", tokens[start + 1 : end + 1])
        )
        backend.launch(Plan(spans=(part,)))
        for sampled in backend.collect():
            assert sampled.tokens == ()
            scores += sampled.scored
    return scores


def near(scores: Iterable[RowLogprobs]) -> list[object]:
    return [pytest.approx((row.logprob, *(logprob for _, logprob in row.top)), abs=1e-3) for row in scores]


def flat(scores: Iterable[RowLogprobs]) -> list[tuple[float, ...]]:
    return [(row.logprob, *(logprob for _, logprob in row.top)) for row in scores]


def test_scores_do_not_depend_on_how_the_prompt_is_cut(backend: Backend) -> None:
    tokens = text(70)
    run(backend, Plan(begins=(job(1, tokens, n_prompt_logprobs=3),)))
    whole = scores_of(backend, 1, 0, tokens[:64], [])
    assert len(whole) == 63
    assert all(len(row.top) == 3 for row in whole)
    for cuts in ([1, 2, 33], [10, 40, 50]):
        run(backend, Plan(truncations=(Truncation(0, 0),)))
        assert flat(scores_of(backend, 1, 0, tokens[:64], cuts)) == near(whole)


def test_the_last_chunk_is_scored_and_sampled_beside_who_decodes_and_who_is_scored(backend: Backend) -> None:
    tokens, other = text(40), text(30, 2)
    run(backend, Plan(begins=(job(1, tokens, n_prompt_logprobs=1), job(2, other, n_prompt_logprobs=2))))
    alone, other_alone = scores_of(backend, 1, 0, tokens, []), scores_of(backend, 2, 2, other, [])
    run(backend, Plan(truncations=(Truncation(0, 0), Truncation(2, 0))))
    answer, decoded = answer_alone(backend, tokens, 2), answer_alone(backend, text(20, 5), 2)
    ((token,),) = run(backend, Plan(begins=(job(3, text(20, 5)),), spans=(span(3, 1, 0, text(20, 5)),)))
    backend.launch(
        Plan(
            spans=(
                Span(1, 0, 0, array("i", tokens), 1, scored=array("i", tokens[1:])),
                span(3, 1, 20, [token]),
                Span(2, 2, 0, array("i", other[:20]), 0, scored=array("i", other[1:21])),
                span(2, 3, 0, text(9, 3), 0),
            )
        )
    )
    first, second, third = backend.collect()
    assert first.tokens == (answer[0],)
    assert flat(first.scored) == near(alone)
    assert (token, *second.tokens) == tuple(decoded)
    assert second.scored == ()
    assert third.tokens == ()
    assert flat(third.scored) == near(other_alone[:20])
    assert go_on(backend, 1, 0, 40, answer[0], 1) == answer[1:]


def test_a_prompt_saved_in_its_middle_is_scored_on_in_another_slot(backend: Backend) -> None:
    tokens = text(50)
    run(backend, Plan(begins=(job(1, tokens, n_prompt_logprobs=2),)))
    alone = scores_of(backend, 1, 0, tokens, [])
    run(backend, Plan(truncations=(Truncation(0, 0),)))
    backend.launch(Plan(spans=(Span(1, 0, 0, array("i", tokens[:21]), 0, scored=array("i", tokens[1:22])),)))
    (began,) = backend.collect()
    run(backend, Plan(begins=(job(2, text(60, 3)),), saves=(Save(1, 0),), spans=(span(2, 0, 0, text(60, 3), 0),)))
    rest = Span(1, 3, 21, array("i", tokens[21:]), 0, scored=array("i", tokens[22:]))
    backend.launch(Plan(restores=(Restore(1, 3),), spans=(rest,)))
    (ended,) = backend.collect()
    assert flat([*began.scored, *ended.scored]) == near(alone)


def test_to_end_twice_or_a_stranger_does_no_harm(backend: Backend) -> None:
    alone = answer_alone(backend, text(20), 2)
    run(backend, Plan(ends=(900, 900, 12345)))
    assert answer_alone(backend, text(20), 2) == alone


def test_the_last_position_of_the_context_can_be_used(backend: Backend) -> None:
    first = Plan(begins=(job(1, text(10)),), spans=(span(1, 0, 0, text(N_CTX)[:N_BATCH], 0),))
    run(backend, first)
    ((_,),) = run(backend, Plan(spans=(span(1, 0, N_BATCH, text(N_CTX)[N_BATCH:]),)))


def test_no_room_changes_nothing(tiny_llama: Path) -> None:
    model = Model.open(tiny_llama)
    options = ContextOptions(n_ctx=N_CTX, n_slots=N_SLOTS, n_cells=N_CTX, is_unified=True, n_batch=N_BATCH, n_threads=1)
    real = LlamaBackend(model, options)
    fake = FakeBackend(n_ctx=N_CTX, n_slots=N_SLOTS, n_cells=N_CTX, is_unified=True, n_batch=N_BATCH)
    for backend in (real, fake):
        alone = answer_alone(backend, [*text(100), 9], 3)
        begins = (job(0, text(100)), job(1, text(100, 1)), job(2, text(100, 2)))
        run(backend, Plan(begins=begins, spans=(span(0, 0, 0, text(100), 0),)))
        run(backend, Plan(spans=(span(1, 1, 0, text(100, 1), 0),)))
        with pytest.raises(NoRoom):
            backend.launch(Plan(spans=(span(2, 2, 0, text(100, 2), 0),)))
        ((token,),) = run(backend, Plan(spans=(span(0, 0, 100, [9]),)))
        run(backend, Plan(truncations=(Truncation(1, 0),), spans=(span(2, 2, 0, text(100, 2), 0),)))
        assert [token, *go_on(backend, 0, 0, 101, token, 2)] == alone
        backend.close()
    model.close()


def test_a_scheduler_answers_everybody_as_if_alone(backend: Backend) -> None:
    prompts = [[*text(90), 3 + seed, *text(8, seed)] for seed in range(6)] + [text(90), text(90), text(120, 7)]
    alone = [answer_alone(backend, tokens, 10) for tokens in prompts]
    scheduler = Scheduler.for_backend(backend)
    answers: dict[int, list[int]] = {}
    n_cached = 0
    for is_checked in (True, False):  # the second time the slots hold what the first time left, and no stream is told
        scheduler.is_checked = is_checked
        for number, tokens in enumerate(prompts):
            answers[number] = []
            scheduler.add(job(number, tokens, n_max=10), 0.0)
        while (plan := scheduler.plan(0.0)) is not None:
            backend.launch(plan)
            for emission in one_by_one(scheduler.commit(plan, backend.collect(), 0.0, 0.01)):
                answers[emission.job_id] += emission.tokens
                n_cached += emission.n_cached if emission.finish else 0
        assert [answers[number] for number in range(len(prompts))] == alone
    assert n_cached > 600


def test_a_scheduler_scores_everybody_as_if_alone(backend: Backend) -> None:
    """Beside others, more rows than a step has, the second time on slots that hold the very prompts."""
    prompts = [[*text(90), 3 + seed] for seed in range(4)] + [text(5), text(1)]
    scored_alone = []
    for number, tokens in enumerate(prompts):
        run(backend, Plan(begins=(job(900 + number, tokens, n_prompt_logprobs=1),)))
        scored_alone.append(near(scores_of(backend, 900 + number, 0, tokens, [50] if len(tokens) > 50 else [])))
        run(backend, Plan(truncations=(Truncation(0, 0),), ends=(900 + number,)))
    scheduler = Scheduler.for_backend(backend, is_checked=True)
    for n_max in (0, 1):
        scores: list[list[RowLogprobs]] = [[] for _ in prompts]
        for number, tokens in enumerate(prompts):
            scheduler.add(job(10 * number + n_max, tokens, n_max, n_prompt_logprobs=1), 0.0)
            scheduler.add(job(10 * number + 5 + n_max, tokens, n_max), 0.0)
        n_tokens = 0
        while (plan := scheduler.plan(0.0)) is not None:
            backend.launch(plan)
            for emission in one_by_one(scheduler.commit(plan, backend.collect(), 0.0, 0.01)):
                assert emission.finish in (None, "length")
                n_tokens += len(emission.tokens)
                if emission.job_id % 10 < 5:
                    scores[emission.job_id // 10] += emission.prompt_logprobs
                    assert emission.n_cached == 0
        assert n_tokens == 2 * len(prompts) * n_max
        assert [flat(rows) for rows in scores] == scored_alone


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_swa", "tiny_hybrid"])
def test_who_gives_way_in_a_tight_unified_kv_resumes_as_if_nothing_had_been(
    name: str, request: pytest.FixtureRequest
) -> None:
    model = Model.open(request.getfixturevalue(name))
    options = ContextOptions(
        n_ctx=N_CTX,
        n_slots=N_SLOTS,
        n_batch=N_BATCH,
        n_cells=N_CTX,
        is_unified=True,
        n_threads=1,
        kv_type_k="f32",
        kv_type_v="f32",
        flash_attention="off",
    )
    backend = LlamaBackend(model, options)
    prompts = [text(30, seed) for seed in range(6)]
    alone = [answer_alone(backend, tokens, 90) for tokens in prompts]
    scheduler = Scheduler(Limits.of(backend), n_reserve=16, is_checked=True)
    answers: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
    for number, tokens in enumerate(prompts):
        scheduler.add(job(number, tokens, n_max=90), 0.0)
    n_saves = n_restores = 0
    while (plan := scheduler.plan(0.0)) is not None:
        n_saves += len(plan.saves)
        n_restores += len(plan.restores)
        backend.launch(plan)
        for emission in one_by_one(scheduler.commit(plan, backend.collect(), 0.0, 0.01)):
            answers[emission.job_id] += emission.tokens
            assert emission.finish in (None, "length")
    backend.close()
    model.close()
    assert n_saves == n_restores > 0
    assert list(answers.values()) == alone
