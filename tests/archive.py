"""What others ship with their sources, for slow tests: fetched once, by pip, into a cache of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

FETCH_S = 600


@cache
def archive(name: str = "llama-cpp-python") -> Path:
    """The source archive of this installed package. Skips the test where it cannot be had."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamahost-tests"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / f"{name.replace('-', '_')}-{version(name)}.tar.gz"
    if not wanted.exists():
        options = ["--no-binary", name, "--no-deps", "-d", str(folder)]
        fetch = [sys.executable, "-m", "pip", "download", f"{name}=={version(name)}", *options]
        done = subprocess.run(fetch, capture_output=True, text=True, timeout=FETCH_S, check=False)
        if not wanted.exists():
            pytest.skip(f"the sources of {name} could not be fetched: {done.stderr[-300:]}")
    return wanted


def texts(inside: str, ending: str) -> dict[str, str]:
    """Files of a folder of llama.cpp, by their names without the ending."""
    found: dict[str, str] = {}
    with tarfile.open(archive()) as sources:
        for member in sources:
            path = Path(member.name)
            if str(path.parent).endswith(f"vendor/llama.cpp/{inside}") and path.name.endswith(ending):
                file = sources.extractfile(member)
                assert file is not None
                found[path.name.removesuffix(ending)] = file.read().decode()
    return found
