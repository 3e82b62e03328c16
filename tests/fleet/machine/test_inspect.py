"""Laws of trying a file first: what ends a process ends one of its own; what was seen to open is not tried again."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llamahost.core.errors import LoadFailed, Unavailable
from llamahost.files.local import Places
from llamahost.fleet.machine.cache import cache_folder
from llamahost.fleet.machine.inspect import MAX_REMEMBERED, Memory, ensure, mark_of
from llamahost.fleet.settings.manifest import BUILTIN_PATH
from tests.fuzz.gguf_changes import tokens
from tests.fuzz.gguf_document import read_document
from tests.gguf_models import write_model

NOBODY = ("/nonexistent/python",)
FOREVER = (sys.executable, "-S", "-c", "import signal; signal.pause()")
DIES = (sys.executable, "-S", "-c", "import os; os.abort()")
FOREVER_BUT_FOR_OURS = (
    *(sys.executable, "-S", "-c"),
    "import signal, sys; 'builtin' in sys.argv[1] or signal.pause(); print('{\"refusal\": \"\"}')",
)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "cache" / "opened.json", "1")


def test_a_good_file_is_tried_once_and_again_when_it_changes(tiny_llama: Path, tmp_path: Path, memory: Memory) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_llama.read_bytes())
    ensure(path, memory=memory)
    assert memory.holds(path)
    ensure(path, memory=memory, command=FOREVER, limit_s=0.0)  # not tried
    assert not replace(memory, library="2").holds(path)
    os.utime(path, ns=(1, 1))
    now = 0.0

    def wait() -> None:
        """Two seconds pass in the first try, and none in those that follow."""
        nonlocal now
        now = 2.0

    with pytest.raises(LoadFailed, match="did not open within 1 s"):
        ensure(path, wait, memory=memory, command=FOREVER_BUT_FOR_OURS, limit_s=1.0, clock=lambda: now)


def test_a_file_that_ends_the_process_ends_another_one(tiny_llama: Path, tmp_path: Path, memory: Memory) -> None:
    path = tmp_path / "twice.gguf"
    bad = tokens(lambda known: [known[1], *known[1:]])(read_document(tiny_llama.read_bytes()))
    path.write_bytes(bad.to_bytes())
    with pytest.raises(
        LoadFailed, match=r"ended the process that tried to open it \(SIGABRT\).*made to do harm: .*ASSERT"
    ):
        ensure(path, memory=memory)
    assert not memory.holds(path)


def test_what_is_refused_in_words_is_left_to_the_load(tmp_path: Path, memory: Memory) -> None:
    path = tmp_path / "none.gguf"
    path.write_bytes(b"GGUF nonsense")
    ensure(path, memory=memory)
    assert not memory.holds(path)


def test_a_try_knows_no_secrets(tiny_llama: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "LLAMAHOST_API_KEY"):
        monkeypatch.setenv(name, "secret")
    program = (
        "import json, os; print(json.dumps({'refusal': ' '.join(k for k, v in os.environ.items() if v == 'secret')}))"
    )
    ensure(tiny_llama, memory=memory, command=(sys.executable, "-S", "-c", program))
    assert memory.holds(tiny_llama)


def test_a_file_in_parts_is_tried_again_when_one_of_them_changes(tmp_path: Path, memory: Memory) -> None:
    write_model(tmp_path / "big.gguf", split_max_tensors=12)
    first, *others = sorted(tmp_path.glob("big-*.gguf"))
    memory.add(first, mark_of(first))
    assert memory.holds(first)
    os.utime(others[-1], ns=(1, 1))
    assert not memory.holds(first)
    others[-1].unlink()
    memory.add(first, mark_of(first))
    assert not memory.holds(first)


def test_another_file_of_the_same_inode_size_and_time_is_tried(
    tiny_llama: Path, tmp_path: Path, memory: Memory
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_llama.read_bytes())
    memory.add(path, mark_of(path))
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert not memory.holds(path)


def test_a_file_that_is_replaced_while_it_is_tried_is_tried_again(
    tiny_llama: Path, tmp_path: Path, memory: Memory
) -> None:
    path, other = tmp_path / "m.gguf", tmp_path / "other.gguf"
    path.write_bytes(tiny_llama.read_bytes())
    other.write_bytes(b"never tried")
    program = f'import os; os.replace({str(other)!r}, {str(path)!r}); print(\'{{"refusal": ""}}\')'
    ensure(path, memory=memory, command=(sys.executable, "-S", "-c", program))
    assert path.read_bytes() == b"never tried"
    assert not memory.holds(path)


def test_closing_ends_a_try_and_the_model_of_the_package_needs_none(tiny_llama: Path, memory: Memory) -> None:
    def close() -> None:
        raise Unavailable("the server is shutting down")

    with pytest.raises(Unavailable):
        ensure(tiny_llama, close, memory=memory, command=FOREVER)
    ensure(BUILTIN_PATH, memory=memory, command=FOREVER, limit_s=0.0)


@pytest.mark.parametrize("command", [NOBODY, DIES])
def test_where_no_file_at_all_can_be_tried_models_are_opened_all_the_same_with_a_word(
    command: tuple[str, ...], tiny_llama: Path, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    ensure(tiny_llama, memory=memory, command=command)
    assert "tried" in caplog.text
    assert not memory.holds(tiny_llama)


def test_the_memory_is_bounded_and_survives_nonsense(tmp_path: Path, memory: Memory) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"x")
    for text in ("", "[]", '{"library": "1"}', '{"library": "1", "files": 3}', "[" * 10**5):
        memory.file.parent.mkdir(exist_ok=True)
        memory.file.write_text(text)
        assert not memory.holds(path)
    many = {f"/gone/{k}": [[k, 1, 1]] for k in range(MAX_REMEMBERED)}
    memory.file.write_text(f'{{"library": "1", "files": {many!r}}}'.replace("'", '"'))
    memory.add(path, mark_of(path))
    assert memory.holds(path)
    assert len(memory._read()) == MAX_REMEMBERED
    Memory(tmp_path / "m.gguf" / "no-folder", "1").add(path, mark_of(path))  # cannot be written: tried again next time


def test_the_cache_is_where_the_user_wants_it() -> None:
    assert cache_folder({"HOME": "/h"}) == Path("/h/.cache/llamahost")
    assert cache_folder({"HOME": "/h", "XDG_CACHE_HOME": "/x"}) == Path("/x/llamahost")
    assert cache_folder({"LLAMAHOST_CACHE": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c")


def test_who_has_no_home_has_what_containers_give_him(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder({}) == Path("/.cache/llamahost")
    assert Places.of({}).hub == Path("/.cache/huggingface/hub")


def test_a_home_of_nobody_is_a_folders_name_as_elsewhere() -> None:
    places = Places.of({"HOME": "/h", "HF_HOME": "~nobody-is-called-so/hf", "LLAMA_CACHE": "~nobody-is-called-so"})
    assert places.hub == Path("~nobody-is-called-so/hf/hub")
    assert places.llama_cpp == Path("~nobody-is-called-so")
