"""--lora: what the words on the command line stand for, and that they reach the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamahost.commands.lora import adapters_of
from llamahost.core.errors import ManifestError


def test_a_file_works_as_strongly_as_is_said_and_goes_by_its_own_name(tmp_path: Path) -> None:
    odd = tmp_path / "b:2"
    odd.write_bytes(b"")
    found = adapters_of([str(tmp_path / "a.gguf"), f"{tmp_path}/a.gguf:0.5", str(odd), f"{odd}:-1", "c.bin:x"])
    assert found is not None
    assert [(spec.name, spec.path.name, spec.scale, spec.default_scale) for spec in found] == [
        ("a", "a.gguf", 1.0, 1.0),
        ("a#2", "a.gguf", 0.5, 0.5),
        ("b-2", "b:2", 1.0, 1.0),
        ("b-2#2", "b:2", -1.0, -1.0),
        ("c", "c.bin:x", 1.0, 1.0),
    ]
    assert all(spec.path.is_absolute() for spec in found)
    assert adapters_of(None) is adapters_of([]) is None


def test_the_adapter_that_comes_with_the_package_goes_by_its_name() -> None:
    found = adapters_of(["builtin-pirate", "builtin-pirate:0.5"])
    assert found is not None
    assert all(spec.path.is_file() for spec in found)
    assert [spec.scale for spec in found] == [1.0, 0.5]


@pytest.mark.parametrize("given", [["a:1000"], ["a:nan"], [f"{k}" for k in range(9)]])
def test_what_no_adapter_can_be_is_refused(given: list[str]) -> None:
    with pytest.raises(ManifestError):
        adapters_of(given)
