"""Laws of loading: the shape that is chosen, what a request becomes, and what comes of real files."""

import logging
import math
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamahost.core.errors import ContextTooLong, InvalidRequest, LoadFailed, TemplateFailed
from llamahost.core.events import Echoed, PromptLogprob
from llamahost.core.machine import Machine
from llamahost.core.messages import ChatRequest, CompletionRequest, Generation, Image, Message, Output, Text, Tool
from llamahost.core.sampling import Sampling
from llamahost.core.work import Emission, RowLogprobs
from llamahost.fleet.fit import Facts, choose_shape, shapes
from llamahost.fleet.loader import Loaded, Preparer, _open_backend, load
from llamahost.fleet.manifest import ModelSpec
from llamahost.native.model import Model
from llamahost.text.template import CHATML, Template
from tests.gguf_models import write_model
from tests.text.vocabulary import BOS, EOS, TURN, ByteVocabulary

GIB = 2**30
SPEC = ModelSpec(name="m", path=Path("m.gguf"))
MACHINE = Machine(n_cpus=2, memory_bytes=4 * GIB, available_bytes=2 * GIB)


def spec(path: Path = Path("m.gguf"), **rest: object) -> ModelSpec:
    return ModelSpec(name="m", path=path, **rest)  # type: ignore[arg-type]  # fields by name, for brevity


class TestFit:
    facts = Facts(n_ctx_train=131072, cell_bytes=1024.0, weight_bytes=GIB)

    def test_split_where_a_quarter_of_what_is_left_holds_every_slot(self) -> None:
        shape = choose_shape(SPEC, self.facts, 2 * GIB)
        assert (shape.n_ctx, shape.n_slots, shape.n_cells, shape.is_unified) == (8192, 8, 65536, False)

    def test_unified_with_what_that_quarter_holds_where_it_does_not(self) -> None:
        shape = choose_shape(SPEC, self.facts, GIB + GIB // 8)
        assert (shape.n_ctx, shape.n_slots, shape.n_cells, shape.is_unified) == (8192, 8, 36864, True)

    def test_a_context_that_would_take_more_than_half_is_halved_unless_it_was_said(self) -> None:
        assert choose_shape(SPEC, self.facts, GIB // 32).n_ctx < 8192
        assert choose_shape(spec(n_ctx=8192), self.facts, GIB // 32).n_ctx == 8192

    def test_a_small_model_is_not_stretched(self) -> None:
        assert choose_shape(SPEC, Facts(n_ctx_train=256, cell_bytes=1.0, weight_bytes=0), GIB).n_ctx == 256

    def test_recurrent_memory_costs_nothing_a_token(self) -> None:
        assert not choose_shape(SPEC, Facts(n_ctx_train=4096, cell_bytes=0.0, weight_bytes=0), GIB).is_unified

    def test_a_stated_pool_is_unified_and_whole_contexts_fit(self) -> None:
        shape = choose_shape(spec(n_ctx=1000, n_cells=1000), self.facts, GIB)
        assert (shape.n_cells, shape.is_unified) == (1024, True)

    @given(
        st.sampled_from(["auto", "split", "unified"]),
        st.none() | st.integers(8, 100_000),
        st.none() | st.integers(1, 256),
        st.integers(0, 2**20),
        st.floats(0, 1e6),
        st.integers(0, 64 * GIB),
    )
    def test_every_shape_is_possible_and_keeps_what_was_said(
        self, layout: str, n_ctx: int | None, n_slots: int | None, n_train: int, cell_bytes: float, available: int
    ) -> None:
        given_spec = spec(kv_layout=layout, n_ctx=n_ctx, n_slots=n_slots)
        tried = list(shapes(given_spec, Facts(n_ctx_train=n_train, cell_bytes=cell_bytes, weight_bytes=GIB), available))
        assert len(tried) == len(set(tried)) < 64
        for shape in tried:
            assert n_ctx in (None, shape.n_ctx)
            assert n_slots in (None, shape.n_slots)
            if shape.is_unified:
                assert layout != "split"
                assert shape.n_cells >= shape.n_ctx
                assert shape.n_cells % 256 == 0
            else:
                assert layout != "unified"
                assert shape.n_cells == shape.n_ctx * shape.n_slots
        assert [shape.n_cells for shape in tried] == sorted((shape.n_cells for shape in tried), reverse=True)


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
        most=most,
        draw_seed=lambda: seed,
    )


def complete(*prompts: str | tuple[int, ...], **generation: object) -> CompletionRequest:
    return CompletionRequest(prompts=prompts, generation=Generation(**generation))  # type: ignore[arg-type]


def chat(text: str = "Hi", **rest: object) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", parts=(Text(text),)),), **rest)  # type: ignore[arg-type]


class TestPreparer:
    def test_a_request_may_not_ask_for_more_than_the_manifest_says(self) -> None:
        bound = preparer(most={"temperature": 0.4, "top_k": 50, "max_tokens": 9})
        assert bound.complete(complete("a")).jobs[0].n_max == 9
        assert bound.complete(complete("a", max_tokens=7, sampling={"top_k": 50})).jobs[0].n_max == 7
        for name, value in (("temperature", 0.6), ("top_k", 51), ("top_k", 0)):
            with pytest.raises(InvalidRequest, match=f"{name} must be at most .* for `m`") as caught:
                bound.complete(complete("a", sampling={name: value}))
            assert caught.value.param == name

    def test_a_prompt_becomes_a_job_and_its_reply(self) -> None:
        prepared = preparer().complete(complete("ab", max_tokens=7, n_logprobs=2, priority=3))
        (job,), (reply,) = prepared.jobs, prepared.replies
        assert job.tokens == array("i", [BOS, 97, 98])
        assert (job.n_max, job.n_logprobs, job.priority) == (7, 2, 3)
        assert job.end_ids == {EOS, TURN}
        assert (reply.index, reply.n_prompt, reply.model) == (0, 3, "m")

    def test_an_echo_is_the_prompt_as_given_or_as_its_tokens_spell_it(self) -> None:
        request = CompletionRequest(prompts=("a<|turn|>", (BOS, 98, 0xC3)), echo=True, generation=Generation(n=2))
        prepared = preparer().complete(request)
        told = [reply.feed(Emission(job.id, (99,))) for job, reply in zip(prepared.jobs, prepared.replies, strict=True)]
        echoed = [event.text for events in told for event in events[1:2] if isinstance(event, Echoed)]
        assert echoed == ["a<|turn|>", "a<|turn|>", "b\ufffd", "b\ufffd"]

    def test_logprobs_of_prompts_beyond_what_may_be_held_are_refused_before_anything_is_computed(self) -> None:
        asked = CompletionRequest(prompts=("x" * 98,) * 1024, n_prompt_logprobs=19)
        assert len(preparer().complete(asked).jobs) == 1024
        with pytest.raises(InvalidRequest) as caught:
            preparer().complete(replace(asked, n_prompt_logprobs=20))
        assert caught.value.param == "logprobs"

    def test_a_chat_is_rendered_and_its_control_tokens_are_read(self) -> None:
        (job,) = preparer("{{ bos_token }}{{ messages[0].content }}<|turn|>").chat(chat("a")).jobs
        assert job.tokens == array("i", [BOS, 97, TURN])  # and the beginning is not there twice

    def test_a_beginning_is_added_where_the_template_has_none(self) -> None:
        (job,) = preparer("{{ messages[0].content }}").chat(chat("a")).jobs
        assert job.tokens == array("i", [BOS, 97])

    def test_an_answer_may_fill_the_context_and_no_more(self) -> None:
        assert preparer().complete(complete("x" * 98)).jobs[0].n_max == 1
        assert preparer().complete(complete("x", max_tokens=10**6)).jobs[0].n_max == 98

    def test_an_answer_of_nothing_wants_no_room_beside_its_prompt(self) -> None:
        assert preparer().complete(complete("x" * 99, max_tokens=0)).jobs[0].n_max == 0
        with pytest.raises(ContextTooLong):
            preparer().complete(complete("x" * 100, max_tokens=0))

    def test_a_suffix_stands_between_the_prompt_and_the_place_to_fill(self) -> None:
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

    def test_scores_of_the_prompt_are_asked_of_the_job_and_told_by_the_reply(self) -> None:
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

    def test_a_prompt_that_leaves_no_room_is_refused_with_its_length(self) -> None:
        with pytest.raises(ContextTooLong) as caught:
            preparer().complete(complete("x" * 99))
        assert (caught.value.n_prompt, caught.value.n_ctx, caught.value.param) == (100, 100, "prompt")

    def test_answers_share_their_prompt_and_come_in_the_order_of_their_index(self) -> None:
        prepared = preparer().complete(complete("a", "b", n=3))
        assert [reply.index for reply in prepared.replies] == list(range(6))
        assert [job.tokens[-1] for job in prepared.jobs] == [97, 97, 97, 98, 98, 98]
        assert prepared.jobs[0].tokens is prepared.jobs[2].tokens
        assert len({job.id for job in prepared.jobs}) == 6

    def test_drawn_seeds_differ_and_given_ones_follow_the_answer(self) -> None:
        drawn = preparer(seed=2**32 - 1).complete(complete("a", "b", n=2)).jobs
        assert [job.sampling.seed for job in drawn] == [2**32 - 1, 0, 1, 2]
        told = preparer().complete(complete("a", "b", n=2, sampling={"seed": 9})).jobs
        assert [job.sampling.seed for job in told] == [9, 10, 9, 10]

    def test_a_request_overrides_the_models_defaults(self) -> None:
        (job,) = preparer().complete(complete("a", sampling={"top_k": 3})).jobs
        assert (job.sampling.temperature, job.sampling.top_k) == (0.5, 3)

    def test_stop_ids_end_and_ignoring_the_end_bans_it(self) -> None:
        (job,) = preparer().complete(complete("a", stop_ids=(5,))).jobs
        assert job.end_ids == {5, EOS, TURN}
        request = complete("a", stop_ids=(5,), ignore_eos=True, sampling={"logit_bias": ((7, 1.0), (EOS, 4.0))})
        (job,) = preparer().complete(request).jobs
        assert job.end_ids == {5}
        assert job.sampling.logit_bias == ((7, 1.0), (EOS, -math.inf), (TURN, -math.inf))

    def test_an_empty_prompt_begins_with_the_beginning_if_there_is_one(self) -> None:
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
    def test_what_cannot_be_computed_is_refused_with_its_field(
        self, request_: CompletionRequest, param: str | None
    ) -> None:
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
    def test_what_is_not_served_yet_is_refused_not_dropped(self, request_: ChatRequest, param: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            preparer().chat(request_)
        assert caught.value.param == param

    def test_tools_that_must_not_be_called_may_be_there(self) -> None:
        assert len(preparer().chat(chat(tools=(Tool(name="f"),), tool_choice="none")).jobs) == 1

    def test_options_and_thinking_reach_the_template(self) -> None:
        source = "{{ enable_thinking }} {{ mood }}"
        assert preparer(source).render(chat(thinking=False, template_options={"mood": "calm"})) == "False calm"

    def test_without_a_template_chats_are_refused_and_completions_served(self) -> None:
        with pytest.raises(TemplateFailed, match="no chat template"):
            preparer(None).chat(chat())
        assert len(preparer(None).complete(complete("a")).jobs) == 1


@pytest.fixture
def opened() -> Iterator[list[Loaded]]:
    made: list[Loaded] = []
    yield made
    for each in made:
        each.close()


class TestLoad:
    def test_a_model_is_opened_in_the_shape_that_was_asked_for(self, tiny_llama: Path, opened: list[Loaded]) -> None:
        heard: list[float] = []
        loaded = load(spec(tiny_llama, n_ctx=256, n_slots=2, aliases=("also",)), MACHINE, heard.append)
        opened.append(loaded)
        card = loaded.card
        assert (card.name, card.aliases, card.n_ctx, card.n_slots) == ("m", ("also",), 256, 2)
        assert (card.layout, card.n_cells, card.architecture) == ("split", 512, "llama")
        assert card.n_params > 0
        assert card.created > 0
        assert heard
        assert all(0.0 <= fraction <= 1.0 for fraction in heard)
        prepared = loaded.preparer.complete(complete("hello"))
        assert prepared.jobs[0].n_max == 256 - len(prepared.jobs[0].tokens)

    def test_a_unified_pool_is_made_as_stated(self, tiny_llama: Path, opened: list[Loaded]) -> None:
        loaded = load(spec(tiny_llama, n_ctx=256, n_slots=4, n_cells=512), MACHINE)
        opened.append(loaded)
        assert (loaded.card.layout, loaded.card.n_cells) == ("unified", 512)
        assert loaded.backend is not None
        assert loaded.backend.is_unified

    def test_memory_decides_where_nothing_is_said(self, tiny_llama: Path, opened: list[Loaded]) -> None:
        loaded = load(spec(tiny_llama), Machine(n_cpus=1, memory_bytes=GIB, available_bytes=4 * 2**20))
        opened.append(loaded)
        assert loaded.card.layout == "unified"

    @pytest.mark.parametrize("name", ["tiny_swa", "tiny_recurrent", "tiny_hybrid"])
    def test_other_architectures_load_alike(
        self, name: str, request: pytest.FixtureRequest, opened: list[Loaded]
    ) -> None:
        loaded = load(spec(request.getfixturevalue(name), n_ctx=256), MACHINE)
        opened.append(loaded)
        assert loaded.card.n_slots == 8

    def test_a_file_without_a_template_gets_chatml_and_a_warning(
        self, tmp_path: Path, opened: list[Loaded], caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write_model(tmp_path / "plain.gguf", "llama", chat_template=None)
        with caplog.at_level(logging.WARNING, "llamahost.fleet"):
            loaded = load(spec(path, n_ctx=256), MACHINE)
        opened.append(loaded)
        assert "ChatML" in caplog.text
        assert loaded.preparer.render(chat("Hi")).startswith("<|im_start|>user\nHi")
        assert not loaded.card.has_chat_template

    def test_a_spec_may_bring_a_template_as_text_or_file(
        self, tiny_llama: Path, tmp_path: Path, opened: list[Loaded]
    ) -> None:
        (tmp_path / "chat.jinja").write_text("file {{ messages[0].content }}")
        for template, said in [("text {{ messages[0].content }}", "text"), (str(tmp_path / "chat.jinja"), "file")]:
            loaded = load(spec(tiny_llama, n_ctx=256, n_slots=1, template=template), MACHINE)
            opened.append(loaded)
            assert loaded.preparer.render(chat("Hi")) == f"{said} Hi"

    def test_the_variants_in_a_file_are_found_by_name(self, tmp_path: Path, opened: list[Loaded]) -> None:
        own = "own {% for m in messages %}{{ m.content }}{% endfor %}"
        variants = [{"name": name, "template": own.replace("own", name)} for name in ("default", "tool_use", "rag")]
        path = write_model(tmp_path / "many.gguf", "llama", chat_template=variants)
        for template, said in (("", "default Hi"), ("rag", "rag Hi"), ("tool_use", "tool_use Hi")):
            loaded = load(spec(path, n_ctx=256, n_slots=1, template=template), MACHINE)
            opened.append(loaded)
            assert loaded.preparer.render(chat("Hi")) == said
        assert loaded.card.template_caps["supports_system_role"]
        with pytest.raises(LoadFailed, match="its templates are default, rag, tool_use"):
            load(spec(path, n_ctx=256, template="other"), MACHINE)

    def test_a_file_whose_own_template_is_broken_still_completes(
        self, tmp_path: Path, opened: list[Loaded], caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write_model(tmp_path / "broken.gguf", "llama", chat_template="{% for %}")
        loaded = load(spec(path, n_ctx=256), MACHINE)
        opened.append(loaded)
        assert "malformed" in caplog.text
        with pytest.raises(TemplateFailed, match="malformed"):
            loaded.preparer.chat(chat())
        assert len(loaded.preparer.complete(complete("a")).jobs) == 1

    @pytest.mark.parametrize("template", ["{% for %}", "/nowhere/chat.jinja"])
    def test_a_template_of_the_spec_that_is_no_good_fails_the_load(self, tiny_llama: Path, template: str) -> None:
        with pytest.raises(LoadFailed, match="template of m"):
            load(spec(tiny_llama, n_ctx=256, template=template), MACHINE)

    def test_a_missing_or_broken_file_fails_the_load(self, tmp_path: Path, tiny_llama: Path) -> None:
        with pytest.raises(LoadFailed):
            load(spec(tmp_path / "none.gguf"), MACHINE)
        (tmp_path / "cut.gguf").write_bytes(tiny_llama.read_bytes()[:-4096])
        with pytest.raises(LoadFailed):
            load(spec(tmp_path / "cut.gguf"), MACHINE)

    def test_a_context_beyond_the_memory_is_refused_before_it_is_tried(self, tiny_llama: Path) -> None:
        with pytest.raises(LoadFailed, match="lower n_ctx"):
            load(spec(tiny_llama, n_ctx=2**30, n_slots=256), MACHINE)

    def test_weights_that_were_copied_leave_less_and_mapped_ones_do_not(self, tiny_llama: Path) -> None:
        small = Machine(n_cpus=1, memory_bytes=GIB, available_bytes=64 * 2**20)
        with Model.open(tiny_llama) as model:
            asked = spec(tiny_llama, n_ctx=512, n_slots=1)
            log = "load_tensors:   {} model buffer size =    64.00 MiB"
            model.load_log = (log.format("CPU_Mapped"), log.format("CUDA0"))
            _open_backend(asked, model, small)[0].close()
            model.load_log = (log.format("CPU_Mapped"), log.format("CPU_REPACK"))
            with pytest.raises(LoadFailed, match="and 0 MiB are left"):
                _open_backend(asked, model, small)

    def test_what_generates_nothing_is_refused_with_the_reason(self, shared_models: Path) -> None:
        with pytest.raises(LoadFailed, match="LoRA adapter"):
            load(spec(shared_models / "tinytalk-lora-r16-f32.gguf"), MACHINE)

    def test_a_trained_chat_model_brings_its_template_and_its_context(
        self, shared_models: Path, opened: list[Loaded]
    ) -> None:
        loaded = load(spec(shared_models / "tinytalk-3M-chat-q8_0.gguf"), MACHINE)
        opened.append(loaded)
        assert loaded.card.n_ctx == 256
        assert loaded.card.has_chat_template
        assert loaded.preparer.render(chat("hey")) == "User: hey\nBot:"


def test_the_manifests_sampling_stands_above_the_files_and_a_requests_above_both(model_folder: Path) -> None:
    recommended: dict[str, float | str] = {
        "general.sampling.temp": 0.25,
        "general.sampling.top_k": 11,
        "general.sampling.top_p": 0.5,
        "general.sampling.min_p": 0.125,
        "general.sampling.penalty_last_n": 33,
        "general.sampling.penalty_repeat": 1.5,
        "general.sampling.xtc_probability": 0.75,
        "general.sampling.xtc_threshold": 0.25,
        "general.sampling.mirostat": 2,
        "general.sampling.mirostat_tau": 4.0,
        "general.sampling.mirostat_eta": 7e9,  # out of range: passed over
        "general.sampling.sequence": "top-k;nucleus;infill;temp",
    }
    path = write_model(model_folder / "recommends.gguf", metadata=recommended)
    loaded = load(spec(path, n_ctx=256, n_slots=1, sampling={"top_k": 12, "top_p": 0.625}), MACHINE)
    try:
        (job,) = loaded.preparer.complete(complete("a", sampling={"top_p": 0.875, "seed": 1})).jobs
        assert job.sampling == Sampling(
            temperature=0.25,
            top_k=12,
            top_p=0.875,
            min_p=0.125,
            repeat_last_n=33,
            repeat_penalty=1.5,
            xtc_probability=0.75,
            xtc_threshold=0.25,
            mirostat=2,
            mirostat_tau=4.0,
            samplers=("top_k", "top_p", "temperature"),
            seed=1,
        )
    finally:
        loaded.close()
