"""Laws of the embedder: each input its own vector, each job its end, one with many inputs in nobody's way."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from llamahost.core.errors import BackendError, BackendLost
from llamahost.core.work import Embedded, EmbedJob
from llamahost.engine.embedder import FIRST_TOKENS, MIN_PIECE, TARGET_STEP_S, Embedder
from tests.fake_embedder import FakeEmbedBackend, vector_of


def job_of(number: int, *lengths: int, priority: int = 0) -> EmbedJob:
    inputs = tuple(array("i", [number * 1000 + k] * n) for k, n in enumerate(lengths))
    return EmbedJob(id=number, inputs=inputs, priority=priority)


def embedder_on(backend: FakeEmbedBackend) -> tuple[Embedder, dict[int, Embedded]]:
    ends: dict[int, Embedded] = {}

    def publish(embedded: Embedded) -> None:
        assert embedded.job_id not in ends, "a job ends once"
        ends[embedded.job_id] = embedded

    return Embedder(backend, publish, clock=lambda: backend.now), ends


def finish(embedder: Embedder) -> None:
    while embedder.step():
        pass


@given(
    st.lists(st.lists(st.integers(1, 64), max_size=20), max_size=6),
    st.integers(1, 64),
    st.integers(1, 8),
)
def test_every_input_of_every_job_gets_its_own_vector(jobs: list[list[int]], n_batch: int, n_inputs: int) -> None:
    embedder, ends = embedder_on(FakeEmbedBackend(n_batch=n_batch, n_inputs=n_inputs))
    for number, lengths in enumerate(jobs):
        embedder.submit(job_of(number, *lengths))
    finish(embedder)
    for number, lengths in enumerate(jobs):
        expected = [vector_of(tokens) for tokens in job_of(number, *lengths).inputs]
        assert [list(vector) for vector in ends[number].vectors] == expected
        assert ends[number].error == ""
    assert embedder.stats.n_running == 0
    assert embedder.stats.n_tokens_in == sum(map(sum, jobs))


def test_one_input_does_not_wait_for_a_thousand() -> None:
    backend = FakeEmbedBackend()
    embedder, ends = embedder_on(backend)
    embedder.submit(job_of(1, *[8] * 1000))
    embedder.step()
    embedder.submit(job_of(2, 8))
    embedder.step()
    assert 2 in ends
    assert 1 not in ends


def test_an_input_that_found_no_room_is_not_overtaken_for_ever() -> None:
    backend = FakeEmbedBackend(n_batch=32)
    embedder, ends = embedder_on(backend)
    embedder.submit(job_of(1, *[2] * 100))
    embedder.submit(job_of(2, 32))
    for _ in range(2):
        embedder.step()
    assert 2 in ends


def test_a_higher_priority_goes_first() -> None:
    embedder, ends = embedder_on(FakeEmbedBackend())
    embedder.submit(job_of(1, 8, 8))
    embedder.submit(job_of(2, 8, priority=1))
    embedder.step()
    assert set(ends) == {2}


def test_a_step_takes_no_longer_than_the_target_once_its_price_is_known() -> None:
    backend = FakeEmbedBackend(n_ctx=512, n_batch=512, n_inputs=64, token_s=TARGET_STEP_S / 100)
    embedder, _ = embedder_on(backend)
    embedder.submit(job_of(1, *[10] * 500))
    finish(embedder)
    assert sum(map(len, backend.steps[0])) <= FIRST_TOKENS
    assert all(sum(map(len, step)) <= 110 for step in backend.steps[1:])
    assert all(sum(map(len, step)) >= 80 for step in backend.steps[1:-1])


def test_a_step_holds_no_more_than_is_enough_but_an_input_that_is_longer() -> None:
    backend = FakeEmbedBackend(n_ctx=512, n_batch=512, n_inputs=64, n_enough=100)
    embedder, ends = embedder_on(backend)
    embedder.submit(job_of(1, *[30] * 10))
    embedder.submit(job_of(2, 300))
    finish(embedder)
    assert {1, 2} <= set(ends)
    assert all(sum(map(len, step)) <= 100 or len(step) == 1 for step in backend.steps)
    assert any(len(step) == 3 for step in backend.steps)


def test_a_long_input_has_a_step_for_each_piece_and_holds_up_nobody_when_it_is_aborted_or_fails() -> None:
    backend = FakeEmbedBackend(n_ctx=4096, n_batch=512, token_s=TARGET_STEP_S / 100)
    embedder, ends = embedder_on(backend)
    embedder.submit(job_of(1, 8, 2000, 8))
    finish(embedder)
    assert [list(vector) for vector in ends[1].vectors] == [
        vector_of(tokens) for tokens in job_of(1, 8, 2000, 8).inputs
    ]
    pieces = backend.steps[1:-1]
    assert all(MIN_PIECE <= len(piece[0]) <= 110 for piece in pieces[:-1])
    assert sum(len(piece[0]) for piece in pieces) == 2000
    embedder.submit(job_of(2, 2000))
    embedder.submit(job_of(3, 8))
    embedder.step()
    embedder.abort(2)
    embedder.submit(job_of(2, 1000))  # the id is free again: what was computed of the other is not this one's
    finish(embedder)
    assert [list(vector) for vector in ends[2].vectors] == [vector_of(job_of(2, 1000).inputs[0])]
    embedder.submit(job_of(4, 2000))
    embedder.submit(job_of(5, 8))
    backend.failures[len(backend.steps) + 2] = BackendError("no")
    finish(embedder)
    assert (ends[4].error, ends[5].error) == ("no", "")


def test_pieces_are_larger_while_nobody_else_has_work() -> None:
    backend = FakeEmbedBackend(n_ctx=4096, n_batch=512, token_s=TARGET_STEP_S / 50)
    embedder = Embedder(backend, lambda end: None, is_sole=lambda: backend.now > 1.0, clock=lambda: backend.now)
    embedder.submit(job_of(1, 8, 2000))
    finish(embedder)
    sizes = [len(piece[0]) for piece in backend.steps[1:-1]]
    assert 40 <= sizes[1] <= 50
    assert 180 <= sizes[-1] <= 200


def test_a_step_may_be_longer_where_it_holds_up_nobody_else() -> None:
    backend = FakeEmbedBackend(n_ctx=512, n_batch=512, n_inputs=64, token_s=TARGET_STEP_S / 20)
    ends: dict[int, Embedded] = {}
    embedder = Embedder(
        backend, lambda end: ends.update({end.job_id: end}), is_alone=lambda: True, clock=lambda: backend.now
    )
    embedder.submit(job_of(1, *[10] * 500))
    finish(embedder)
    assert all(360 <= sum(map(len, step)) <= 440 for step in backend.steps[1:-1])


def test_an_aborted_job_is_forgotten_and_told_nothing() -> None:
    backend = FakeEmbedBackend()
    embedder, ends = embedder_on(backend)
    embedder.submit(job_of(1, *[8] * 100))
    embedder.submit(job_of(2, 8))
    embedder.step()
    embedder.abort(1)
    embedder.abort(1)
    embedder.abort(7)
    n_steps = len(backend.steps)
    finish(embedder)
    assert len(backend.steps) == n_steps
    assert set(ends) == {2}


def test_a_failed_step_costs_only_the_jobs_that_were_in_it() -> None:
    backend = FakeEmbedBackend(n_batch=8, failures={0: BackendError("no")})
    embedder, ends = embedder_on(backend)
    embedder.submit(job_of(1, 8))
    embedder.submit(job_of(2, 8))
    finish(embedder)
    assert (ends[1].error, ends[2].error) == ("no", "")
    assert embedder.stats.n_failed_steps == 1
    embedder.submit(job_of(1, 3))  # the id is free again


def test_a_backend_that_gives_too_few_vectors_has_failed_its_step() -> None:
    backend = FakeEmbedBackend(n_batch=8, n_lost=1)
    embedder, ends = embedder_on(backend)
    embedder.submit(job_of(1, 4, 4))
    finish(embedder)
    assert ends[1].error == "1 vectors came for 2 inputs"
    assert embedder.stats.n_failed_steps == 1


def test_a_lost_backend_costs_all_and_later_jobs_are_told() -> None:
    lost: list[str] = []
    backend = FakeEmbedBackend(n_batch=8, failures={0: BackendLost("gone")})
    ends: dict[int, Embedded] = {}
    embedder = Embedder(
        backend, lambda end: ends.update({end.job_id: end}), on_lost=lost.append, clock=lambda: backend.now
    )
    embedder.submit(job_of(1, 8))
    embedder.submit(job_of(2, 8))
    finish(embedder)
    embedder.submit(job_of(3, 8))
    assert [ends[k].error for k in (1, 2, 3)] == ["gone"] * 3
    assert lost == ["gone"]


def test_time_of_the_thread_is_that_of_the_steps_failed_ones_too_and_of_their_news() -> None:
    backend = FakeEmbedBackend(n_batch=8, token_s=0.5, failures={1: BackendError("no")})

    def tell(end: Embedded) -> None:
        backend.now += 0.25

    embedder = Embedder(backend, tell, clock=lambda: backend.now)
    for number in range(4):
        embedder.submit(job_of(number, 8))
    finish(embedder)
    assert embedder.stats.backend_s == 4 * 8 * 0.5
    assert embedder.stats.thread_s == backend.now


def test_closing_fails_what_is_left_and_frees_the_backend() -> None:
    backend = FakeEmbedBackend()
    embedder, ends = embedder_on(backend)
    embedder.submit(job_of(1, 8))
    embedder.close()
    embedder.close()
    embedder.submit(job_of(2, 8))
    assert backend.is_closed
    assert [ends[k].error for k in (1, 2)] == ["the model was closed"] * 2
    assert not embedder.step()


def test_what_can_never_run_is_told_at_once() -> None:
    embedder, ends = embedder_on(FakeEmbedBackend(n_ctx=64))
    embedder.submit(job_of(1, 65))
    embedder.submit(job_of(2, 0))
    embedder.submit(job_of(3))
    assert ends[1].error
    assert ends[2].error
    assert ends[3] == Embedded(3)
