"""Chat beside embeddings, by the real scheduler, embedder and worker, on devices that only take time."""

import threading
from array import array

import pytest

from llamahost.core.work import Embedded, EmbedJob, News
from llamahost.engine.embedder import Embedder
from llamahost.engine.engine import Engine
from llamahost.engine.scheduler import Scheduler
from llamahost.engine.worker import Worker
from tests.engine.driving import job_of
from tests.fake_embedder import FakeEmbedBackend
from tests.fakes import FakeBackend, one_by_one, per_token
from tests.on_loop import LIMIT_S

N_STREAMS = 8


class Beside:
    """Streams of chat from their prompts to their ends, while clients of embeddings ask again as soon as answered."""

    def __init__(self, *, n_tokens: int, text_s: float, n_clients: int) -> None:
        self._left = set(range(1, N_STREAMS + 1))
        self._are_done = threading.Event()
        self._chat = FakeBackend(n_slots=N_STREAMS, cost=per_token(0.001, 0.0003))
        self._vectors = FakeEmbedBackend(n_batch=256, token_s=text_s / 26)
        self._engine = Engine(self._chat, Scheduler.for_backend(self._chat), self._heard, clock=self._clock)
        self._embedder = Embedder(self._vectors, self._embedded, clock=self._clock)
        self._worker = Worker("test", clock=self._clock)
        for engine in (self._engine, self._embedder):
            self._worker.attach(engine)
        for number in self._left:
            self._worker.submit(self._engine, job_of(number, n_prompt=48, n_max=n_tokens))
        for number in range(n_clients):
            self._ask(number)
        self._worker.start()
        assert self._are_done.wait(LIMIT_S)
        assert self._worker.close(LIMIT_S)

    def _clock(self) -> float:
        return self._chat.now + self._vectors.now

    def _ask(self, number: int) -> None:
        self._worker.submit(self._embedder, EmbedJob(id=number, inputs=(array("i", [1]) * 26,)))

    def _heard(self, news: list[News]) -> None:
        self._left -= {each.job_id for each in one_by_one(news) if each.finish is not None}
        if not self._left and not self._are_done.is_set():
            self.chat_s, self.embed_s = self._chat.now, self._vectors.now
            self._are_done.set()

    def _embedded(self, embedded: Embedded) -> None:
        if not self._are_done.is_set():
            self._ask(embedded.job_id)

    @property
    def longest_s(self) -> float:
        return max(len(step) for step in self._vectors.steps) * self._vectors.token_s * 26


@pytest.mark.parametrize("n_tokens", [8, 64])
@pytest.mark.parametrize("text_s", [0.002, 0.011, 0.2])
def test_chat_keeps_half_of_its_speed_beside_embeddings_less_a_step(n_tokens: int, text_s: float) -> None:
    alone = Beside(n_tokens=n_tokens, text_s=text_s, n_clients=0)
    beside = Beside(n_tokens=n_tokens, text_s=text_s, n_clients=4)
    assert beside.chat_s + beside.embed_s <= 2 * alone.chat_s + beside.longest_s
    assert beside.embed_s >= beside.chat_s - beside.longest_s, "nor do embeddings lose more"
