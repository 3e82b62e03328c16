"""Models opened once a session: what tests make anew are contexts on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llamahost.native.model import Model


@pytest.fixture(scope="session")
def model_of() -> Iterator[Callable[[Path], Model]]:
    opened: dict[Path, Model] = {}

    def open_once(path: Path) -> Model:
        if path not in opened:
            opened[path] = Model.open(path)
        return opened[path]

    yield open_once
    for model in opened.values():
        model.close()
