"""Laws of what a model's files say of themselves before they are opened."""

import math
import os
from pathlib import Path
from typing import Any

import pytest

from llamahost.core.errors import LoadFailed
from llamahost.core.machine import Machine
from llamahost.fleet.machine.facts import facts_of
from llamahost.fleet.machine.footprint import Footprint, on_device
from llamahost.fleet.machine.located import missing
from llamahost.fleet.replica.loader import load
from llamahost.fleet.settings.manifest import ModelSpec
from llamahost.native.gguf import read_metadata
from tests.gguf_encoders import write_encoder
from tests.gguf_models import write_model


def test_a_split_model_is_another_one_when_any_of_its_files_is(tmp_path: Path) -> None:
    write_model(tmp_path / "big.gguf", split_max_tensors=8)
    first, *others = sorted(tmp_path.glob("big-*.gguf"))
    spec = ModelSpec(name="big", path=first)
    seen = [facts_of(spec).stamp]
    assert facts_of(spec).stamp == seen[0]
    for path in (first, *others):
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        seen.append(facts_of(spec).stamp)
        path.write_bytes(path.read_bytes() + bytes(32))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        seen.append(facts_of(spec).stamp)
    assert len(set(seen)) == len(seen) == 2 * (1 + len(others)) + 1 > 5


def test_a_model_is_another_one_when_the_file_of_its_template_is(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    spec = ModelSpec(name="a", path=tiny_llama, template=str(path))
    before = facts_of(spec).stamp  # whose load will tell that there is none
    path.write_text("{{ messages }}")
    first = facts_of(spec).stamp
    assert facts_of(spec).stamp == first
    path.write_text("{{ messages[0].content }}")
    assert len({before, first, facts_of(spec).stamp}) == 3


def test_a_path_that_cannot_even_be_asked_for_is_told_as_one_that_is_not_there() -> None:
    spec = ModelSpec(name="long", path=Path("n" * 300))
    assert missing(spec).endswith("File name too long")
    with pytest.raises(LoadFailed, match="File name too long"):
        facts_of(spec)


def test_tables_of_which_single_rows_are_read_stay_with_the_host(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.gguf", "mean")
    facts, tensors = facts_of(ModelSpec(name="a", path=path)), read_metadata(path).tensors
    aside = [tensors[f"{name}.weight"] for name in ("position_embd", "token_types") if f"{name}.weight" in tensors]
    assert aside
    assert all(each.kind == 0 for each in aside)
    assert facts.aside_bytes == sum(4 * math.prod(each.shape) for each in aside)
    there, here = on_device(facts, Footprint(), -1, 0)
    assert (there.weights_bytes, here.weights_bytes) == (facts.weights_bytes - facts.aside_bytes, 0)


@pytest.mark.parametrize(
    ("kind", "task", "pooling", "why"),
    [
        ("rank", "rerank", "auto", ""),
        ("rank", "embedding", "mean", ""),
        ("rank", "rerank", "mean", 'pooling = "mean" does without'),
        ("rank", "embedding", "auto", "it scores documents"),
        ("mean", "embedding", "auto", ""),
        ("mean", "rerank", "auto", "no head for scores"),
        ("mean", "rerank", "rank", "no head for scores"),
        ("mean", "chat", "auto", "generates no text"),
        ("llama", "rerank", "auto", "no head for scores"),
        ("llama", "embedding", "auto", ""),
        ("llama", "completion", "auto", ""),
    ],
)
def test_a_model_that_cannot_do_its_task_is_refused_before_it_is_opened(
    tiny_llama: Path, tmp_path: Path, kind: Any, task: Any, pooling: Any, why: str
) -> None:
    path = tiny_llama if kind == "llama" else write_encoder(tmp_path / "encoder.gguf", kind)
    spec = ModelSpec(name="a", path=path, task=task, pooling=pooling)
    if not why:
        assert facts_of(spec).task == task
        return
    for refuse in (facts_of, lambda spec: load(spec, Machine.read())):
        with pytest.raises(LoadFailed, match=why):
            refuse(spec)
