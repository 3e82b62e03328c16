"""Laws of what a request becomes: jobs, and the replies that tell them."""

import math
from array import array
from dataclasses import replace

import pytest

from llamahost.core.errors import ContextTooLong, InvalidRequest, TemplateFailed
from llamahost.core.events import Echoed, PromptLogprob
from llamahost.core.messages import ChatRequest, CompletionRequest, Generation, Image, Message, Output, Tool
from llamahost.core.sampling import Sampling
from llamahost.core.work import Emission, RowLogprobs
from llamahost.fleet.request.preparer import Preparer
from llamahost.text.template import CHATML, Template
from tests.fleet.asking import chat, complete
from tests.text.vocabulary import BOS, EOS, TURN, ByteVocabulary


def preparer(
    template: str | None = CHATML,
    vocabulary: ByteVocabulary | None = None,
    n_ctx: int = 100,
    seed: int = 5,
    most: dict[str, float] | None = None,
) -> Preparer:
    return Preparer(
        model="m",
        n_ctx=n_ctx,
        vocabulary=vocabulary or ByteVocabulary(),
        template=Template(template, bos="<s>", eos="</s>") if template is not None else None,
        defaults=Sampling(temperature=0.5),
        draw_seed=lambda: seed,
    ).with_sampling({}, most or {})


def test_a_request_may_not_ask_for_more_than_the_manifest_says() -> None:
    bound = preparer(most={"temperature": 0.4, "top_k": 50, "max_tokens": 9})
    assert bound.complete(complete("a")).jobs[0].n_max == 9
    assert bound.complete(complete("a", max_tokens=7, sampling={"top_k": 50})).jobs[0].n_max == 7
    for name, value in (("temperature", 0.6), ("top_k", 51), ("top_k", 0)):
        with pytest.raises(InvalidRequest, match=f"{name} must be at most .* for `m`") as caught:
            bound.complete(complete("a", sampling={name: value}))
        assert caught.value.param == name


def test_a_prompt_becomes_a_job_and_its_reply() -> None:
    prepared = preparer().complete(complete("ab", max_tokens=7, n_logprobs=2, priority=3))
    (job,), (reply,) = prepared.jobs, prepared.replies
    assert job.tokens == array("i", [BOS, 97, 98])
    assert (job.n_max, job.n_logprobs, job.priority) == (7, 2, 3)
    assert job.end_ids == {EOS, TURN}
    assert (reply.index, reply.n_prompt, reply.model) == (0, 3, "m")


def test_an_echo_is_the_prompt_as_given_or_as_its_tokens_spell_it() -> None:
    request = CompletionRequest(prompts=("a<|turn|>", (BOS, 98, 0xC3)), echo=True, generation=Generation(n=2))
    prepared = preparer().complete(request)
    told = [reply.feed(Emission(job.id, (99,))) for job, reply in zip(prepared.jobs, prepared.replies, strict=True)]
    echoed = [event.text for events in told for event in events[1:2] if isinstance(event, Echoed)]
    assert echoed == ["a<|turn|>", "a<|turn|>", "b\ufffd", "b\ufffd"]


def test_logprobs_of_prompts_beyond_what_may_be_held_are_refused_before_anything_is_computed() -> None:
    asked = CompletionRequest(prompts=("x" * 98,) * 1024, n_prompt_logprobs=19)
    assert len(preparer().complete(asked).jobs) == 1024
    with pytest.raises(InvalidRequest) as caught:
        preparer().complete(replace(asked, n_prompt_logprobs=20))
    assert caught.value.param == "logprobs"


def test_a_chat_is_rendered_and_its_control_tokens_are_read() -> None:
    (job,) = preparer("{{ bos_token }}{{ messages[0].content }}<|turn|>").chat(chat("a")).jobs
    assert job.tokens == array("i", [BOS, 97, TURN])  # and the beginning is not there twice


def test_a_beginning_is_added_where_the_template_has_none() -> None:
    (job,) = preparer("{{ messages[0].content }}").chat(chat("a")).jobs
    assert job.tokens == array("i", [BOS, 97])


def test_an_answer_may_fill_the_context_and_no_more() -> None:
    assert preparer().complete(complete("x" * 98)).jobs[0].n_max == 1
    assert preparer().complete(complete("x", max_tokens=10**6)).jobs[0].n_max == 98


def test_an_answer_of_nothing_wants_no_room_beside_its_prompt() -> None:
    assert preparer().complete(complete("x" * 99, max_tokens=0)).jobs[0].n_max == 0
    with pytest.raises(ContextTooLong):
        preparer().complete(complete("x" * 100, max_tokens=0))


def test_a_suffix_stands_between_the_prompt_and_the_place_to_fill() -> None:
    vocabulary = ByteVocabulary()
    vocabulary.fim_ids = (260, 261, 262)
    request = CompletionRequest(prompts=("a<|turn|>", (98, TURN)), suffix="z</s>", echo=True)
    prepared = preparer(vocabulary=vocabulary).complete(request)
    text, tokens = (job.tokens.tolist() for job in prepared.jobs)
    suffix = [*b"z</s>"]  # what is text stays text: source code may well speak of control tokens
    assert text == [BOS, 260, *b"a<|turn|>", 261, *suffix, 262]
    assert tokens == [BOS, 260, 98, TURN, 261, *suffix, 262]
    told = [reply.feed(Emission(1, (99,)))[1] for reply in prepared.replies]
    assert told == [Echoed(0, "a<|turn|>"), Echoed(1, "b")]
    with pytest.raises(InvalidRequest, match="fill-in-the-middle") as caught:
        preparer().complete(request)
    assert caught.value.param == "suffix"
    with pytest.raises(InvalidRequest, match="suffix"):
        CompletionRequest(prompts=("a",), suffix="z", n_prompt_logprobs=0)
    assert preparer().complete(CompletionRequest(prompts=("a",), suffix="")).jobs[0].tokens.tolist() == [BOS, 97]


def test_scores_of_the_prompt_are_asked_of_the_job_and_told_by_the_reply() -> None:
    request = CompletionRequest(prompts=("ab", (97, 98)), echo=True, n_prompt_logprobs=1)
    (text, tokens), (first, second) = (prepared := preparer().complete(request)).jobs, prepared.replies
    assert text.n_prompt_logprobs == tokens.n_prompt_logprobs == 1
    rows = (RowLogprobs(-1.0), RowLogprobs(-2.0))
    _, told = first.feed(Emission(text.id, prompt_logprobs=rows))
    assert told == Echoed(
        0,
        "ab",
        (
            PromptLogprob(BOS, b"<s>", 0, None),
            PromptLogprob(97, b"a", 0, -1.0),
            PromptLogprob(98, b"b", 1, -2.0),
        ),
    )
    _, told = second.feed(Emission(tokens.id, prompt_logprobs=rows[:1]))
    assert told == Echoed(1, "ab", (PromptLogprob(97, b"a", 0, None), PromptLogprob(98, b"b", 1, -1.0)))


def test_a_prompt_that_leaves_no_room_is_refused_with_its_length() -> None:
    with pytest.raises(ContextTooLong) as caught:
        preparer().complete(complete("x" * 99))
    assert (caught.value.n_prompt, caught.value.n_ctx, caught.value.param) == (100, 100, "prompt")


def test_answers_share_their_prompt_and_come_in_the_order_of_their_index() -> None:
    prepared = preparer().complete(complete("a", "b", n=3))
    assert [reply.index for reply in prepared.replies] == list(range(6))
    assert [job.tokens[-1] for job in prepared.jobs] == [97, 97, 97, 98, 98, 98]
    assert prepared.jobs[0].tokens is prepared.jobs[2].tokens
    assert len({job.id for job in prepared.jobs}) == 6


def test_drawn_seeds_differ_and_given_ones_follow_the_answer() -> None:
    drawn = preparer(seed=2**32 - 1).complete(complete("a", "b", n=2)).jobs
    assert [job.sampling.seed for job in drawn] == [2**32 - 1, 0, 1, 2]
    told = preparer().complete(complete("a", "b", n=2, sampling={"seed": 9})).jobs
    assert [job.sampling.seed for job in told] == [9, 10, 9, 10]


def test_a_request_overrides_the_models_defaults() -> None:
    (job,) = preparer().complete(complete("a", sampling={"top_k": 3})).jobs
    assert (job.sampling.temperature, job.sampling.top_k) == (0.5, 3)


def test_stop_ids_end_and_ignoring_the_end_bans_it() -> None:
    (job,) = preparer().complete(complete("a", stop_ids=(5,))).jobs
    assert job.end_ids == {5, EOS, TURN}
    request = complete("a", stop_ids=(5,), ignore_eos=True, sampling={"logit_bias": ((7, 1.0), (EOS, 4.0))})
    (job,) = preparer().complete(request).jobs
    assert job.end_ids == {5}
    assert job.sampling.logit_bias == ((7, 1.0), (EOS, -math.inf), (TURN, -math.inf))


def test_an_empty_prompt_begins_with_the_beginning_if_there_is_one() -> None:
    (job,) = preparer(vocabulary=ByteVocabulary(adds_bos=False)).complete(complete("")).jobs
    assert job.tokens == array("i", [BOS])
    with pytest.raises(InvalidRequest, match="empty"):
        preparer(vocabulary=ByteVocabulary(adds_bos=False, has_bos=False)).complete(complete(()))


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (complete((1, 10**6)), "prompt"),
        (complete((-1,)), "prompt"),
        (complete((2**70,)), "prompt"),
        (complete("a", stop_ids=(10**6,)), "stop_token_ids"),
        (complete("a", sampling={"logit_bias": ((10**6, 1.0),)}), "logit_bias"),
        (complete("a", sampling={"top_p": 2.0}), "top_p"),
        (complete("a", sampling={"warmth": 2.0}), None),
        (complete("a", sampling={"top_p": "high"}), "top_p"),
        (complete(*["a"] * 100, n=100), "prompt"),
        (CompletionRequest(prompts=("a",), output=Output("json")), "output"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_its_field(request_: CompletionRequest, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        preparer().complete(request_)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (chat(tools=(Tool(name="f"),), tool_choice="required"), "tool_choice"),
        (chat(output=Output("schema", "{}")), "output"),
        (ChatRequest(messages=(Message(role="user", parts=(Image(b"x"),)),)), "messages[0].content"),
    ],
)
def test_what_is_not_served_yet_is_refused_not_dropped(request_: ChatRequest, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        preparer().chat(request_)
    assert caught.value.param == param


def test_tools_that_must_not_be_called_may_be_there() -> None:
    assert len(preparer().chat(chat(tools=(Tool(name="f"),), tool_choice="none")).jobs) == 1


def test_options_and_thinking_reach_the_template() -> None:
    source = "{{ enable_thinking }} {{ mood }}"
    assert preparer(source).render(chat(thinking=False, template_options={"mood": "calm"})) == "False calm"


def test_without_a_template_chats_are_refused_and_completions_served() -> None:
    with pytest.raises(TemplateFailed, match="no chat template"):
        preparer(None).chat(chat())
    assert len(preparer(None).complete(complete("a")).jobs) == 1
