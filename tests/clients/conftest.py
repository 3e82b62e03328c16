"""One server for all clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.serving import Served, served


@pytest.fixture(scope="session")
def server(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tiny_llama, tmp_path_factory.mktemp("served")) as one:
        yield one
