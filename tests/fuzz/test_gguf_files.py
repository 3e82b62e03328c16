"""Mutated GGUF files: the reader refuses or reads them in bounded memory, and none ends a process that opens it."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llamahost.core.errors import LoadFailed
from llamahost.native.gguf import read_metadata
from tests.fuzz.gguf_document import Document, read_document
from tests.fuzz.gguf_mutants import changes, scrambled
from tests.fuzz.opening import opener
from tests.gguf_models import Architecture, write_model

pytestmark = pytest.mark.slow

KINDS: tuple[Architecture, ...] = ("llama", "swa", "recurrent", "hybrid")
SMALL: dict[str, Any] = {"n_vocab": 270, "n_embd": 32, "n_head": 2, "n_ff": 32, "n_ctx": 64, "n_state": 8}
N_READ, N_MEASURED, N_OPENED = 800, 60, 80
MOST_TIMES_THE_FILE = 60
"""Memory that reading a file may take, in sizes of the file: an array of bytes becomes a list of Python's integers."""


@pytest.fixture(scope="module", params=KINDS)
def document(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Document:
    path = tmp_path_factory.mktemp("files") / "whole.gguf"
    return read_document(write_model(path, request.param, **SMALL).read_bytes())


def files(document: Document, n: int) -> Iterator[tuple[str, bytes]]:
    """Some that are wrong in one place, some that are cut, and some that are wrong in several; one after the other."""
    dice = random.Random(0)
    known = list(changes(document))
    for name, change in dice.sample(known, n):
        yield name, change(document).to_bytes()
    whole = document.to_bytes()
    for seam in dice.sample(document.seams()[:-1], min(n // 5, len(document.seams()) - 1)):
        yield f"cut at {seam}", whole[:seam]
    for seed in dice.sample(range(10**6), n // 5):
        yield scrambled(document, known, seed)


def test_the_reader_reads_or_refuses_whatever_a_file_holds(document: Document, tmp_path: Path) -> None:
    path = tmp_path / "mutant.gguf"
    for _, data in files(document, N_READ):
        path.write_bytes(data)
        with suppress(LoadFailed):
            read_metadata(path)


def test_the_reader_takes_no_memory_for_a_lie(document: Document, tmp_path: Path) -> None:
    path = tmp_path / "mutant.gguf"
    for name, data in files(document, N_MEASURED):
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with suppress(LoadFailed):
                read_metadata(path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MOST_TIMES_THE_FILE * len(data) + 2**20, name


def test_no_file_ends_the_process_that_opens_it(document: Document, tmp_path: Path) -> None:
    """The whole way: read, load, make a context, encode, generate. What llama.cpp dies of, the reader must refuse."""
    path = tmp_path / "mutant.gguf"
    n_served = 0
    with opener() as process:
        for name, data in files(document, N_OPENED):
            path.write_bytes(data)
            outcome = process.open(path)
            assert outcome.how in ("reader", "loader", "served"), (name, outcome)
            n_served += outcome.how == "served"
    assert n_served > N_OPENED // 20  # else it is not the loader that was tried
