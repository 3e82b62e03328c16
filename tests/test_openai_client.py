"""The official client against the whole of it: a real socket, a real model, many at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llamahost.api.app import create_app
from llamahost.host import AsyncHost
from tests.api.sockets import Client
from tests.gguf_models import write_model
from tests.on_loop import LIMIT_S
from tests.openai_clients import ask, serving

if TYPE_CHECKING:
    import openai

pytestmark = pytest.mark.openai

HI: Any = [{"role": "user", "content": "Hi"}]
LONG: Any = [{"role": "user", "content": "Tell me of the sea. " * 10}]
GREEDY: Any = {"temperature": 0.0, "max_tokens": 12, "model": "tiny"}


def test_a_chat_streamed_is_the_chat_whole(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        whole = await client.chat.completions.create(messages=LONG, **GREEDY)
        assert whole.usage is not None
        assert whole.usage.completion_tokens <= 12
        texts: list[str] = []
        last = None
        stream = await client.chat.completions.create(
            messages=LONG, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
        async for chunk in stream:
            last = chunk
            texts += [choice.delta.content or "" for choice in chunk.choices]
        assert "".join(texts) == whole.choices[0].message.content
        assert last is not None
        assert last.usage is not None
        assert last.usage.completion_tokens == whole.usage.completion_tokens
        assert last.usage.prompt_tokens_details is not None
        assert (last.usage.prompt_tokens_details.cached_tokens or 0) > 0  # the first one left its prompt behind

    ask(tiny_llama, law)


def test_completions_take_many_prompts_and_many_answers(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        answer = await client.completions.create(prompt=["one", "two"], n=2, logprobs=2, **GREEDY)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        assert answer.choices[0].text == answer.choices[1].text
        for choice in answer.choices:
            assert choice.logprobs is not None
            assert len(choice.logprobs.tokens or ()) == len(choice.logprobs.token_logprobs or ())
            assert all(logprob <= 0 for logprob in choice.logprobs.token_logprobs or ())

    ask(tiny_llama, law)


def test_an_echo_is_the_prompt_before_the_answer_whole_and_streamed(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        plain = await client.completions.create(prompt="one", **GREEDY)
        echoed = await client.completions.create(prompt="one", echo=True, **GREEDY)
        assert echoed.choices[0].text == "one" + plain.choices[0].text
        assert echoed.usage is not None
        assert plain.usage is not None
        assert echoed.usage.completion_tokens == plain.usage.completion_tokens
        stream = await client.completions.create(prompt="one", echo=True, stream=True, **GREEDY)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == echoed.choices[0].text
        tokens = await client.completions.create(prompt=list(b"no"), echo=True, **GREEDY)
        assert tokens.choices[0].text

    ask(tiny_llama, law)


def test_a_prompt_is_scored_as_evaluation_harnesses_ask_for_it(tiny_llama: Path) -> None:
    """The chosen token is the likeliest where its logprob equals the largest, so both must be the same number."""

    async def law(client: openai.AsyncOpenAI) -> None:
        tokens = list(range(10, 150))
        greedy = await client.completions.create(prompt=tokens, **GREEDY, logprobs=1)
        assert greedy.choices[0].logprobs is not None
        asked: Any = {"model": "tiny", "prompt": [tokens, [20]], "temperature": 0.0, "logprobs": 1, "echo": True}
        for n in (0, 1):
            first, second = (await client.completions.create(**asked, max_tokens=n)).choices
            assert first.logprobs is not None
            assert second.logprobs is not None
            told = first.logprobs.token_logprobs or []
            assert len(told) == len(first.logprobs.tokens or ()) == 140 + n
            assert len(second.logprobs.token_logprobs or ()) == 1 + n
            assert told[0] is None
            assert (first.logprobs.top_logprobs or [{}])[0] is None
            assert all(
                logprob <= max(top.values())
                for logprob, top in zip(told[1:], (first.logprobs.top_logprobs or [])[1:], strict=True)
            )
            if n:
                assert told[-1] == pytest.approx((greedy.choices[0].logprobs.token_logprobs or [])[0], abs=0.1)
                assert told[-1] == max((first.logprobs.top_logprobs or [])[-1].values())
            chunks = [chunk async for chunk in await client.completions.create(**asked, max_tokens=n, stream=True)]
            parts = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == 0]
            streamed = [x for part in parts if part.logprobs for x in part.logprobs.token_logprobs or ()]
            assert streamed[1:] == pytest.approx(told[1:], abs=0.1)  # KV in 16 bits, cut into other chunks
            assert "".join(part.text for part in parts) == first.text

    ask(tiny_llama, law)


def test_what_is_missing_between_a_prompt_and_a_suffix_is_filled_in(model_folder: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        filled = await client.completions.create(prompt="def f(", suffix="):\n    pass", **GREEDY)
        spelled = await client.completions.create(prompt="<before>def f(<after>):\n    pass<between>", **GREEDY)
        assert filled.choices[0].text == spelled.choices[0].text
        assert filled.usage is not None
        assert spelled.usage is not None
        assert filled.usage.prompt_tokens == spelled.usage.prompt_tokens

    ask(write_model(model_folder / "fills-in-too.gguf", has_fim=True), law)


def test_a_stream_tells_how_far_its_prompt_is_and_how_fast_it_goes(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        more = {"return_progress": True, "timings_per_token": True, "n_probs": 2, "post_sampling_probs": True}
        stream = await client.completions.create(prompt=[20] * 300, stream=True, extra_body=more, **GREEDY)
        chunks = [chunk.model_dump() async for chunk in stream]
        told = [chunk["prompt_progress"] for chunk in chunks if chunk.get("prompt_progress")]
        assert [told[0]["processed"], told[-1]["processed"]] == [0, 300]
        assert [part["processed"] for part in told] == sorted(part["processed"] for part in told)
        assert {part["total"] for part in told} == {300}
        texts = [chunk for chunk in chunks if chunk["choices"][0]["text"]]
        assert texts
        assert all(chunk["timings"]["predicted_n"] > 0 for chunk in texts)
        probs = [token["prob"] for chunk in texts for token in chunk["choices"][0]["logprobs"]["content"]]
        assert set(probs) == {1.0}  # greedy

    ask(tiny_llama, law)


def test_best_of_is_the_likeliest_of_so_many(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        asked: Any = {"model": "tiny", "prompt": ["a", "b"], "seed": 5, "max_tokens": 6, "logprobs": 0}
        all_ = (await client.completions.create(n=4, **asked)).choices
        best = (await client.completions.create(best_of=4, **asked)).choices

        def mean(choice: Any) -> float:
            logprobs: list[float] = choice.logprobs.token_logprobs
            return sum(logprobs) / len(logprobs)

        assert [choice.index for choice in best] == [0, 1]
        for k, choice in enumerate(best):
            assert choice.text == max(all_[4 * k : 4 * k + 4], key=mean).text

    ask(tiny_llama, law)


def test_a_message_that_the_assistant_began_is_gone_on_with(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        begun: Any = [*HI, {"role": "assistant", "content": "Once upon"}]
        text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nOnce upon"
        chat = await client.chat.completions.create(messages=begun, **GREEDY)
        completion = await client.completions.create(prompt=text, **GREEDY)
        assert chat.choices[0].message.content == completion.choices[0].text
        assert chat.usage is not None
        assert completion.usage is not None
        assert chat.usage.prompt_tokens == completion.usage.prompt_tokens

    ask(tiny_llama, law)


def test_chat_logprobs_name_the_likeliest_first(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(messages=HI, logprobs=True, top_logprobs=3, **GREEDY)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        for token in logprobs.content or ():
            assert len(token.top_logprobs) == 3
            assert token.logprob == token.top_logprobs[0].logprob  # greedy takes the likeliest

    ask(tiny_llama, law)


def test_a_seed_is_kept(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        texts = [
            (await client.completions.create(model="tiny", prompt="a", seed=seed, max_tokens=12)).choices[0].text
            for seed in (7, 7, 2**40 + 7, 8)
        ]
        assert texts[0] == texts[1] == texts[2]
        assert texts[0] != texts[3]

    ask(tiny_llama, law)


def test_many_at_once_get_what_each_gets_alone(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        async def one(k: int) -> str:
            stream = await client.completions.create(prompt=f"number {k}", stream=True, **GREEDY)
            return "".join([chunk.choices[0].text async for chunk in stream])

        together = await asyncio.gather(*(one(k) for k in range(24)))
        assert all(together)
        assert await one(3) == together[3]

    ask(tiny_llama, law, n_slots=8, n_ctx=256)


def test_errors_are_the_clients_own_classes(tiny_llama: Path) -> None:
    import openai

    async def law(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as long:
            await client.completions.create(model="tiny", prompt="word " * 2000)
        assert long.value.code == "context_length_exceeded"
        assert long.value.type == "exceed_context_size_error"
        assert long.value.param == "prompt"
        with pytest.raises(openai.BadRequestError) as range_:
            await client.chat.completions.create(model="tiny", messages=HI, temperature=-1)
        assert range_.value.param == "temperature"
        with pytest.raises(openai.BadRequestError, match="tool"):
            await client.chat.completions.create(
                model="tiny",
                messages=HI,
                tools=[{"type": "function", "function": {"name": "f"}}],
                tool_choice={"type": "function", "function": {"name": "g"}},
            )
        with pytest.raises(openai.BadRequestError, match="`not` is not supported") as form:
            await client.chat.completions.create(
                model="tiny",
                messages=HI,
                response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}},
            )
        assert form.value.param == "response_format.json_schema.schema/not"
        image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        with pytest.raises(openai.BadRequestError, match="image"):
            await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": [image]}])
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nobody")
        assert [model.id async for model in client.models.list()] == [tiny_llama.stem]

    ask(tiny_llama, law, n_ctx=256)


def test_a_full_queue_a_passed_deadline_and_a_name_misspelt(tiny_llama: Path) -> None:
    import openai

    async def law(client: openai.AsyncOpenAI) -> None:
        long: Any = {"model": tiny_llama.stem, "prompt": "a", "max_tokens": 2000, "extra_body": {"ignore_eos": True}}
        with pytest.raises(openai.InternalServerError) as late:
            await client.completions.create(model=tiny_llama.stem, prompt="a", extra_body={"timeout": 1e-6})
        assert (late.value.status_code, late.value.code) == (504, "deadline_exceeded")
        stream = await client.completions.create(stream=True, **long)
        async for _ in stream:
            break  # the only slot is taken, and nobody may wait
        with pytest.raises(openai.RateLimitError) as full:
            await client.completions.create(model=tiny_llama.stem, prompt="b")
        assert full.value.code == "queue_full"
        assert int(full.value.response.headers["retry-after"]) >= 1
        await stream.close()
        with pytest.raises(openai.NotFoundError, match=f"did you mean `{tiny_llama.stem}`") as missing:
            await client.completions.create(model=tiny_llama.stem + "x", prompt="a")
        assert missing.value.code == "model_not_found"

    ask(tiny_llama, law, n_ctx=2048, n_slots=1, max_queue=0, is_strict=True)


def test_a_model_tells_its_context_under_every_name_that_clients_look_for(tiny_llama: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        for name in (tiny_llama.stem, "org/small"):
            model: Any = await client.models.retrieve(name)
            assert model.id == tiny_llama.stem
            assert model.aliases == ["org/small"]
            assert model.context_length == model.max_model_len == model.meta["n_ctx"] == 256
            assert model.meta["n_params"] > 0
            assert model.meta["size"] > 0
            assert "completion" in model.capabilities
        bare = client.with_options(base_url=str(client.base_url).removesuffix("v1/"))
        assert [listed.id async for listed in bare.models.list()] == [tiny_llama.stem]
        assert (await bare.models.retrieve("org/small")).id == tiny_llama.stem

    ask(tiny_llama, law, n_ctx=256, aliases=("org/small",))


def test_clients_that_leave_free_their_slots(tiny_llama: Path) -> None:
    async def law() -> None:
        async with asyncio.timeout(LIMIT_S), serving(tiny_llama, n_ctx=2048, n_slots=2) as (port, host, _):
            body = {"prompt": "a", "max_tokens": 2000, "ignore_eos": True}

            async def visit(k: int) -> None:
                client = await Client.open(port)
                client.post("/v1/completions", {**body, "stream": k % 2 == 0})
                if k % 4 == 0:
                    await client.until(b"data: ")
                else:
                    await client.writer.drain()
                client.vanish()

            await asyncio.gather(*(visit(k) for k in range(16)))
            # Both slots are free again: this would else wait for thousands of tokens.
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as client:
                answer = await client.post("/v1/completions", json={"prompt": "b", "max_tokens": 1, "timeout": 20})
                assert answer.status_code == 200
                text = (await client.get("/metrics")).text
            assert 'outcome="length"' in text
            assert host.models()[0].n_in_flight == 0

    asyncio.run(law())


def test_the_application_serves_the_client_in_this_process(tiny_llama: Path) -> None:
    import openai

    async def law() -> None:
        async with AsyncHost(tiny_llama) as host:
            transport = httpx.ASGITransport(create_app(host))
            async with openai.AsyncOpenAI(
                base_url="http://here/v1", api_key="none", http_client=_http_client(transport)
            ) as client:
                answer = await client.completions.create(prompt="a", **GREEDY)
                assert answer.usage is not None
                assert answer.usage.completion_tokens > 0

    asyncio.run(law())


def _http_client(transport: httpx.ASGITransport) -> Any:
    return httpx.AsyncClient(transport=transport)


def test_a_trained_model_speaks(shared_models: Path) -> None:
    async def law(client: openai.AsyncOpenAI) -> None:
        prompt = "Once upon a time"
        answer = await client.completions.create(model="x", prompt=prompt, temperature=0.0, max_tokens=20)
        assert "there was a" in answer.choices[0].text

    ask(shared_models / "stories260K.gguf", law)
