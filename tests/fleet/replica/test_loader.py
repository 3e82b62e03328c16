"""Laws of loading: what comes of real files, and what is refused of them."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamahost.core.errors import LoadFailed, TemplateFailed
from llamahost.core.machine import Machine
from llamahost.core.sampling import Sampling
from llamahost.fleet.replica.loader import Loaded, _open_backend, load
from llamahost.fleet.settings.manifest import ModelSpec
from llamahost.native.model import Model
from tests.fleet.asking import chat, complete
from tests.gguf_models import write_model

GIB = 2**30
MACHINE = Machine(n_cpus=2, memory_bytes=4 * GIB, available_bytes=2 * GIB)


def spec(path: Path = Path("m.gguf"), **rest: object) -> ModelSpec:
    return ModelSpec(name="m", path=path, **rest)  # type: ignore[arg-type]  # fields by name, for brevity


@pytest.fixture
def opened() -> Iterator[list[Loaded]]:
    made: list[Loaded] = []
    yield made
    for each in made:
        each.close()


def test_a_model_is_opened_in_the_shape_that_was_asked_for(tiny_llama: Path, opened: list[Loaded]) -> None:
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


def test_a_unified_pool_is_made_as_stated(tiny_llama: Path, opened: list[Loaded]) -> None:
    loaded = load(spec(tiny_llama, n_ctx=256, n_slots=4, n_cells=512), MACHINE)
    opened.append(loaded)
    assert (loaded.card.layout, loaded.card.n_cells) == ("unified", 512)
    assert loaded.backend is not None
    assert loaded.backend.is_unified


def test_memory_decides_where_nothing_is_said(tiny_llama: Path, opened: list[Loaded]) -> None:
    loaded = load(spec(tiny_llama), Machine(n_cpus=1, memory_bytes=GIB, available_bytes=4 * 2**20))
    opened.append(loaded)
    assert loaded.card.layout == "unified"


@pytest.mark.parametrize("name", ["tiny_swa", "tiny_recurrent", "tiny_hybrid"])
def test_other_architectures_load_alike(name: str, request: pytest.FixtureRequest, opened: list[Loaded]) -> None:
    loaded = load(spec(request.getfixturevalue(name), n_ctx=256), MACHINE)
    opened.append(loaded)
    assert loaded.card.n_slots == 8


def test_a_file_without_a_template_gets_chatml_and_a_warning(
    tmp_path: Path, opened: list[Loaded], caplog: pytest.LogCaptureFixture
) -> None:
    path = write_model(tmp_path / "plain.gguf", "llama", chat_template=None)
    with caplog.at_level(logging.WARNING, "llamahost.fleet"):
        loaded = load(spec(path, n_ctx=256), MACHINE)
    opened.append(loaded)
    assert "ChatML" in caplog.text
    assert loaded.preparer.render(chat("Hi")).startswith("<|im_start|>user\nHi")
    assert not loaded.card.has_chat_template


def test_a_spec_may_bring_a_template_as_text_or_file(tiny_llama: Path, tmp_path: Path, opened: list[Loaded]) -> None:
    (tmp_path / "chat.jinja").write_text("file {{ messages[0].content }}")
    for template, said in [("text {{ messages[0].content }}", "text"), (str(tmp_path / "chat.jinja"), "file")]:
        loaded = load(spec(tiny_llama, n_ctx=256, n_slots=1, template=template), MACHINE)
        opened.append(loaded)
        assert loaded.preparer.render(chat("Hi")) == f"{said} Hi"


def test_the_variants_in_a_file_are_found_by_name(tmp_path: Path, opened: list[Loaded]) -> None:
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
    tmp_path: Path, opened: list[Loaded], caplog: pytest.LogCaptureFixture
) -> None:
    path = write_model(tmp_path / "broken.gguf", "llama", chat_template="{% for %}")
    loaded = load(spec(path, n_ctx=256), MACHINE)
    opened.append(loaded)
    assert "malformed" in caplog.text
    with pytest.raises(TemplateFailed, match="malformed"):
        loaded.preparer.chat(chat())
    assert len(loaded.preparer.complete(complete("a")).jobs) == 1


@pytest.mark.parametrize("template", ["{% for %}", "/nowhere/chat.jinja"])
def test_a_template_of_the_spec_that_is_no_good_fails_the_load(tiny_llama: Path, template: str) -> None:
    with pytest.raises(LoadFailed, match="template of m"):
        load(spec(tiny_llama, n_ctx=256, template=template), MACHINE)


def test_a_missing_or_broken_file_fails_the_load(tmp_path: Path, tiny_llama: Path) -> None:
    with pytest.raises(LoadFailed):
        load(spec(tmp_path / "none.gguf"), MACHINE)
    (tmp_path / "cut.gguf").write_bytes(tiny_llama.read_bytes()[:-4096])
    with pytest.raises(LoadFailed):
        load(spec(tmp_path / "cut.gguf"), MACHINE)


def test_a_context_beyond_the_memory_is_refused_before_it_is_tried(tiny_llama: Path) -> None:
    with pytest.raises(LoadFailed, match="lower n_ctx"):
        load(spec(tiny_llama, n_ctx=2**30, n_slots=256), MACHINE)


def test_weights_that_were_copied_leave_less_and_mapped_ones_do_not(tiny_llama: Path) -> None:
    small = Machine(n_cpus=1, memory_bytes=GIB, available_bytes=64 * 2**20)
    with Model.open(tiny_llama) as model:
        asked = spec(tiny_llama, n_ctx=512, n_slots=1)
        log = "load_tensors:   {} model buffer size =    64.00 MiB"
        model.load_log = (log.format("CPU_Mapped"), log.format("CUDA0"))
        _open_backend(asked, model, small)[0].close()
        model.load_log = (log.format("CPU_Mapped"), log.format("CPU_REPACK"))
        with pytest.raises(LoadFailed, match="and 0 B are left"):
            _open_backend(asked, model, small)


def test_what_generates_nothing_is_refused_with_the_reason(shared_models: Path) -> None:
    with pytest.raises(LoadFailed, match="LoRA adapter"):
        load(spec(shared_models / "tinytalk-lora-r16-f32.gguf"), MACHINE)


def test_a_trained_chat_model_brings_its_template_and_its_context(shared_models: Path, opened: list[Loaded]) -> None:
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
        "general.sampling.sequence": "top-k;nucleus;adaptive_p;temp",
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
