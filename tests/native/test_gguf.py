"""A GGUF file that is not what it says is refused with a reason, before the C loader sees it."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from llamahost.core.errors import LoadFailed
from llamahost.native.amx import amx_is_broken, compiler_is_broken
from llamahost.native.context import kv_bytes_per_token
from llamahost.native.gguf import LongArray, read_metadata
from llamahost.native.model import Model, described
from tests.gguf_models import write_model, write_vocabulary_free


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def header(n_tensors: int = 0, n_keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys)


def test_the_header_says_what_was_written(tiny_llama: Path) -> None:
    found = read_metadata(tiny_llama)
    assert found.architecture == "llama"
    assert found.text("general.name") == "tiny llama"
    assert found.number("embedding_length") == 64
    assert found.number("no_such_key", 7) == 7
    assert found.n_bytes == tiny_llama.stat().st_size
    assert len(found.tensors) == 3 + 2 * 9


def test_a_long_array_is_walked_and_not_kept(tmp_path: Path) -> None:
    path = write_model(tmp_path / "long.gguf", n_vocab=5000, n_layer=1)
    found = read_metadata(path)
    assert found.metadata["tokenizer.ggml.tokens"] == LongArray(5000)
    assert found.metadata["tokenizer.ggml.token_type"] == LongArray(5000)


def test_kv_bytes_follow_heads_layers_and_types(tiny_llama: Path, tiny_recurrent: Path, tiny_hybrid: Path) -> None:
    assert kv_bytes_per_token(read_metadata(tiny_llama)) == 2 * 2 * 64 * 2
    assert kv_bytes_per_token(read_metadata(tiny_llama), "q8_0", "f32") == 2 * 64 * (34 / 32 + 4)
    assert kv_bytes_per_token(read_metadata(tiny_recurrent)) == 0
    assert kv_bytes_per_token(read_metadata(tiny_hybrid)) == 2 * 64 * 2


def test_what_is_no_count_of_heads_is_passed_over(tiny_llama: Path) -> None:
    """A file may say anything there; llama.cpp refuses it, and the estimate comes before that."""
    sound = read_metadata(tiny_llama)
    for told in ("two", 2.0, None):
        odd = replace(sound, metadata={**sound.metadata, "llama.attention.head_count_kv": told})
        assert kv_bytes_per_token(odd) == kv_bytes_per_token(sound)  # one for each head


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GG",
        b"GGML" + bytes(40),
        b"GGUF",
        header(version=99),
        header(n_keys=1),
        header(n_keys=2**60),
        header(n_tensors=2**60),
        header(n_keys=1) + struct.pack("<Q", 2**62),
        header(n_keys=1) + text("a") + struct.pack("<I", 99),
        header(n_keys=1) + text("a") + struct.pack("<IQ", 8, 2**63),
        header(n_keys=1) + text("a") + struct.pack("<IIQ", 9, 4, 2**61),
        header(n_keys=1) + text("a") + struct.pack("<IIQ", 9, 8, 2**23),
        header(n_keys=1) + text("a") + struct.pack("<IIQ", 9, 9, 2**23),
        header(n_keys=1) + text("a") + struct.pack("<IIQIQIQ", 9, 9, 1, 9, 1, 9, 1) + bytes(64),
        header(n_tensors=1) + text("w") + struct.pack("<I", 2**31),
        header(n_tensors=1) + text("w") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0),
        header(n_tensors=1) + text("w") + struct.pack("<IQIQ", 1, 4, 0, 2**50),
    ],
)
def test_an_absurd_header_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "absurd.gguf"
    path.write_bytes(data)
    with pytest.raises(LoadFailed, match=r"absurd\.gguf"):
        read_metadata(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(LoadFailed, match="cannot read"):
            Model.open(path)


def test_a_truncated_file_is_refused(tmp_path: Path, tiny_llama: Path) -> None:
    whole = tiny_llama.read_bytes()
    path = tmp_path / "cut.gguf"
    for n in (3, 20, 100, 5000, len(whole) // 2, len(whole) - 1000):
        path.write_bytes(whole[:n])
        with pytest.raises(LoadFailed):
            Model.open(path)


def test_a_file_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="cannot load"):
        Model.open(write_vocabulary_free(tmp_path / "hollow.gguf", {"a": "b"}))


def test_the_header_of_a_damaged_file_raises_nothing_else(tmp_path: Path, tiny_llama: Path) -> None:
    whole = tiny_llama.read_bytes()[:20000]
    dice = random.Random(0)
    path = tmp_path / "damaged.gguf"
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            data[dice.randrange(len(data) if dice.random() < 0.5 else 600)] = dice.randrange(256)
        path.write_bytes(data)
        with suppress(LoadFailed):
            read_metadata(path)


def test_progress_is_heard_and_can_stop_the_load(tiny_llama: Path) -> None:
    heard: list[float] = []
    Model.open(tiny_llama, on_progress=heard.append).close()
    assert heard == sorted(heard)
    assert heard[-1] == 1.0

    def stop(_fraction: float) -> None:
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        Model.open(tiny_llama, on_progress=stop)


def test_a_model_knows_its_facts(tiny_swa: Path, tiny_recurrent: Path) -> None:
    with Model.open(tiny_swa) as model:
        assert (model.architecture, model.n_swa, model.n_layer, model.n_embd) == ("gemma3", 32, 2, 64)
        assert model.chat_template() is not None
        assert model.chat_template("tool_use") is None
        assert model.metadata["general.name"] == model.name == "tiny swa"
        assert model.n_ctx_train == 1024
    with Model.open(tiny_recurrent) as model:
        assert model.is_recurrent


@pytest.mark.parametrize(
    ("told", "n_params", "described_as"),
    [
        ("qwen2 ?B Q8_0", 1_864_320, "qwen2 1.86M Q8_0"),
        ("bert 17M Q8_0", 412_000, "bert 412k Q8_0"),
        ("llama 8B Q4_K - Medium", 8_030_261_248, "llama 8.03B Q4_K - Medium"),
        ("llama ?B all F32", 999_999_999, "llama 1B all F32"),
        ("llama ?B all F32", 960, "llama 960 all F32"),
    ],
)
def test_a_model_s_size_is_counted_and_not_guessed(told: str, n_params: int, described_as: str) -> None:
    assert described(told, n_params) == described_as


def test_amx_is_avoided_where_the_compiler_breaks_it(tmp_path: Path) -> None:
    assert compiler_is_broken(b"\0GCC: (Debian 12.2.0-14) 12.2.0\0")
    assert compiler_is_broken(b"\0GCC: (GNU) 10.2.1\0")
    assert not compiler_is_broken(b"\0GCC: (Ubuntu 13.3.0-6) 13.3.0\0")
    assert not compiler_is_broken(b"\0GCC: (GNU) 14.1.1\0")
    assert not compiler_is_broken(b"clang version 18.1.3")
    library = tmp_path / "libggml-cpu.so"
    library.write_bytes(b"GCC: (Debian 12.2.0-14) 12.2.0")
    assert amx_is_broken("AVX2 = 1 | AMX_INT8 = 1 | ", library)
    assert not amx_is_broken("AVX2 = 1 | ", library)
    assert amx_is_broken("AMX_INT8 = 1", tmp_path / "elsewhere.so")


def test_a_header_is_read_once_and_again_when_the_file_is_another(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(tiny_llama.read_bytes())
    first = read_metadata(path)
    assert read_metadata(path) is first
    path.write_bytes(b"GGUF" + bytes(path.stat().st_size - 4))
    with pytest.raises(LoadFailed):
        read_metadata(path)
