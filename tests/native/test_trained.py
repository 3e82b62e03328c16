"""On trained weights, what the backend writes is what llama-cpp-python's own class writes."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from llamahost.core.sampling import Sampling
from llamahost.core.work import Job, Plan, Span
from llamahost.engine.scheduler import Scheduler
from llamahost.native.backend import LlamaBackend
from llamahost.native.context import ContextOptions
from llamahost.native.model import Model
from tests.fakes import one_by_one
from tests.native.driver import Driver

PROMPTS = (
    "Once upon a time",
    "The dog ran to the",
    "Lily and Ben like to",
    "One day, a big bear",
    "There was a red ball",
    "Tom was sad because",
    "Mom said to",
    "In the park",
)


@pytest.mark.parametrize("is_unified", [False, True])
def test_eight_that_come_and_go_write_what_llama_writes_alone(shared_models: Path, is_unified: bool) -> None:
    """Through the scheduler: each comes while others decode, in chunks, and the second time on what is left of all."""
    import llama_cpp

    path = shared_models / "stories260K.gguf"
    n = 40
    theirs = llama_cpp.Llama(str(path), n_ctx=256, verbose=False, n_threads=1, n_threads_batch=1)
    with Model.open(path) as model:
        story = " A girl had a cat. The cat liked to sit on the big red mat and look at the sun." * 2
        texts = [*(story + " " + prompt for prompt in PROMPTS[:4]), *PROMPTS[4:]]
        prompts = [model.vocab.encode(text, add_special=True, parse_special=True) for text in texts]
        wanted = []
        for prompt in prompts:
            theirs.reset()
            made = theirs.generate(list(prompt), temp=0.0, repeat_penalty=1.0)
            wanted.append([next(made) for _ in range(n)])
        theirs.close()
        options = ContextOptions(
            n_ctx=256, n_slots=8, n_batch=32, is_unified=is_unified, flash_attention="off", n_threads=1
        )
        backend = LlamaBackend(model, options)
        scheduler = Scheduler.for_backend(backend, is_checked=True)
        out: dict[int, list[int]] = {}
        n_cached = 0
        for turn in range(2):
            jobs = [
                Job(id=100 * turn + i, tokens=prompt, n_max=n, sampling=Sampling(temperature=0.0))
                for i, prompt in enumerate(prompts)
            ]
            out = {job.id: [] for job in jobs}
            while jobs or not scheduler.is_idle:
                if jobs:
                    scheduler.add(jobs.pop(0), 0.0)
                plan = scheduler.plan(0.0)
                if plan is None:
                    continue
                backend.launch(plan)
                for emission in one_by_one(scheduler.commit(plan, backend.collect(), 0.0, 0.01)):
                    out[emission.job_id] += emission.tokens
                    n_cached += emission.n_cached if emission.finish else 0
            assert list(out.values()) == wanted
        backend.close()
        assert n_cached > 4 * 40


@pytest.mark.parametrize("is_unified", [False, True])
def test_eight_at_once_write_what_llama_writes_alone(shared_models: Path, is_unified: bool) -> None:
    import llama_cpp

    path = shared_models / "stories260K.gguf"
    n = 40
    theirs = llama_cpp.Llama(str(path), n_ctx=256, verbose=False, n_threads=1, n_threads_batch=1)
    with Model.open(path) as model:
        tokens = [model.vocab.encode(prompt, add_special=True, parse_special=True) for prompt in PROMPTS]
        wanted = []
        for prompt in tokens:
            theirs.reset()
            made = theirs.generate(list(prompt), temp=0.0, repeat_penalty=1.0)
            wanted.append([next(made) for _ in range(n)])
        theirs.close()
        options = ContextOptions(
            n_ctx=256, n_slots=8, n_batch=256, is_unified=is_unified, flash_attention="off", n_threads=1
        )
        backend = LlamaBackend(model, options)
        driver = Driver.__new__(Driver)
        driver.model, driver.backend, driver._last_job = model, backend, 0
        jobs = [driver.begin() for _ in tokens]
        spans = tuple(Span(jobs[i], i, 0, prompt, 1) for i, prompt in enumerate(tokens))
        out = [[sampled.tokens[0]] for sampled in driver.run(Plan(spans=spans))]
        for step in range(n - 1):
            spans = tuple(
                Span(jobs[i], i, len(tokens[i]) + step, array("i", out[i][-1:]), 1) for i in range(len(tokens))
            )
            for i, sampled in enumerate(driver.run(Plan(spans=spans))):
                out[i].append(sampled.tokens[0])
        backend.close()
        assert out == wanted
        assert model.vocab.decode(array("i", out[0])).startswith(b", there was a little girl named Lily.")


def test_a_quantised_model_runs(shared_models: Path) -> None:
    with Driver(shared_models / "tinytalk-3M-chat-q8_0.gguf") as driver:
        vocab = driver.model.vocab
        assert driver.model.chat_template()
        prompt = vocab.encode("Hello", add_special=True, parse_special=True)
        assert vocab.decode(array("i", driver.answer(0, 0, prompt, 10)))


def test_a_model_that_only_embeds_is_refused(shared_models: Path) -> None:
    from llamahost.core.errors import LoadFailed

    with Model.open(shared_models / "all-MiniLM-L6-v2-q8_0.gguf") as model, pytest.raises(LoadFailed, match="embeds"):
        LlamaBackend(model, ContextOptions(n_ctx=256))
