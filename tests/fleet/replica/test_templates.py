"""Laws of which chat template a model gets."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from llamahost.core.errors import LoadFailed
from llamahost.core.messages import ChatRequest, Message, Text, Tool
from llamahost.fleet.replica.templates import MAX_BYTES, given_source, template_of
from llamahost.fleet.request.preparer import Preparer
from llamahost.fleet.settings.manifest import ModelSpec
from llamahost.text.template import CHATML
from tests.text.vocabulary import EOS, TURN, ByteVocabulary

HI = (Message(role="user", parts=(Text("Hi"),)),)
LOOK = Tool(name="look")


class File:
    """A model's file with these templates; the empty name is the default's. Verified by the loader's tests."""

    def __init__(self, templates: Mapping[str, str], metadata: Mapping[str, str] | None = None) -> None:
        self._templates = templates
        names = {f"tokenizer.chat_template.{name}": text for name, text in templates.items() if name}
        self.metadata: Mapping[str, str] = {**names, **(metadata or {})}
        self.vocab = ByteVocabulary()

    def chat_template(self, name: str = "") -> str | None:
        return self._templates.get(name)


def spec(template: str = "") -> ModelSpec:
    return ModelSpec(name="m", path=Path("m.gguf"), template=template)


def drawn(given: ModelSpec, file: File, *, tools: tuple[Tool, ...] = ()) -> str:
    template, complaint = template_of(given, file, given_source(given))
    assert template is not None, complaint
    preparer = Preparer(model="m", n_ctx=64, vocabulary=ByteVocabulary(), template=template)
    return preparer.render(ChatRequest(messages=tuple(HI), tools=tools))


def plain(word: str) -> str:
    return word + ": {% for m in messages %}{{ m.content }}{% endfor %}"


def with_tools(word: str) -> str:
    return (
        word + ": {{ tools | tojson }}{% for m in messages %}{{ m.content }}"
        "{% for c in m.tool_calls %}{{ c | tojson }}{% endfor %}{% endfor %}"
    )


def test_the_files_own_is_the_default() -> None:
    assert drawn(spec(), File({"": plain("own")})) == "own: Hi"
    assert drawn(spec("default"), File({"": plain("own")})) == "own: Hi"


def test_the_variant_for_tools_renders_requests_with_tools() -> None:
    file = File({"": plain("own"), "tool_use": with_tools("tools")})
    assert drawn(spec(), file) == "own: Hi"
    assert drawn(spec(), file, tools=(LOOK,)).startswith('tools: [{"type"')


def test_a_file_with_a_variant_alone_uses_it_for_all() -> None:
    assert drawn(spec(), File({"tool_use": with_tools("tools")})).startswith("tools: ")


def test_a_template_is_chosen_by_name() -> None:
    file = File({"": plain("own"), "rag": plain("rag"), "tool_use": with_tools("tools")})
    assert drawn(spec("rag"), file) == "rag: Hi"
    assert drawn(spec("rag"), file, tools=(LOOK,)).startswith("rag: ")
    assert drawn(spec("chatml"), file).startswith("<|im_start|>user\nHi")


def test_a_name_that_the_file_lacks_fails_the_load_and_tells_the_others() -> None:
    file = File({"": plain("own"), "rag": plain("rag")})
    with pytest.raises(LoadFailed, match=r"none named `toool`: its templates are default, rag, `chatml` .*\./toool"):
        drawn(spec("toool"), file)
    with pytest.raises(LoadFailed, match="the file has none by name"):
        drawn(spec("toool"), File({"": plain("own")}))


def test_text_and_files_outweigh_the_files_own_with_and_without_tools(tmp_path: Path) -> None:
    file = File({"": plain("own"), "tool_use": with_tools("tools")})
    (tmp_path / "chat.jinja").write_text(plain("Datei ä"), encoding="utf-8")
    for given, word in ((str(tmp_path / "chat.jinja"), "Datei ä"), (plain("text"), "text")):
        assert drawn(spec(given), file) == f"{word}: Hi"
        assert drawn(spec(given), file, tools=(LOOK,)).startswith(f"{word}: ")


def test_only_a_plain_file_of_bounded_size_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jinja")
    (tmp_path / "large.jinja").write_text("x" * (MAX_BYTES + 1))
    (tmp_path / "latin.jinja").write_bytes(b"\xff\xfe{{")
    for name, says in (
        ("pipe.jinja", "there is no file"),
        ("", "there is no file"),
        ("none.jinja", "there is no file"),
        ("large.jinja", "larger than"),
        ("latin.jinja", "utf-8"),
    ):
        with pytest.raises(LoadFailed, match=says):
            given_source(spec(str(tmp_path / name)))
    with pytest.raises(LoadFailed, match="there is no file"):
        given_source(spec("/dev/zero"))


def test_a_broken_variant_for_tools_leaves_the_default(caplog: pytest.LogCaptureFixture) -> None:
    file = File({"": plain("own"), "tool_use": "{% for %}"})
    with caplog.at_level(logging.WARNING, "llamahost.fleet"):
        assert drawn(spec(), file, tools=(LOOK,)).startswith("own: ")
    assert "malformed" in caplog.text


def test_special_tokens_have_hugging_faces_names() -> None:
    metadata = {"tokenizer.ggml.padding_token_id": str(TURN), "tokenizer.ggml.unknown_token_id": "99999999"}
    source = "{{ bos_token }} {{ eos_token }} {{ pad_token }} {{ unk_token is defined }}"
    assert drawn(spec(), File({"": source}, metadata)) == "<s> </s> <|turn|> False"
    assert ByteVocabulary().pieces[EOS] == b"</s>"


def test_without_any_there_is_chatml() -> None:
    template, _ = template_of(spec(), File({}), "")
    assert template is not None
    assert template.source is CHATML
