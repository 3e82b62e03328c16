"""One server for all clients, whose tests are slow all of them: a fast run does not import what they ask with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.serving import Served, served


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return True if config.option.markexpr == "not slow" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def server(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tiny_llama, tmp_path_factory.mktemp("served")) as one:
        yield one
