"""A hub on the loopback, a model for it, and where what is pulled comes to lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llamahost.files.local import Places
from tests.loopback_hub import LoopbackHub, loopback_hub


@pytest.fixture(scope="module")
def the_hub() -> Iterator[LoopbackHub]:
    with loopback_hub() as hub:
        yield hub


@pytest.fixture
def hub(the_hub: LoopbackHub) -> LoopbackHub:
    the_hub.reset()
    return the_hub


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> bytes:
    return tiny_llama.read_bytes()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places.of({"HOME": str(tmp_path), "OLLAMA_MODELS": str(tmp_path / "ollama")})
