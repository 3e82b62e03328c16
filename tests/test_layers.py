"""The house's floors: imports go down only. Read from the source, so that no import has to run."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.sources import PACKAGE, ROOT

FLOORS = {
    "core": 0,
    "text": 1,
    "native": 1,
    "engine": 1,
    "fleet": 2,
    "files": 2,
    "ops": 2,
    "store": 2,
    "host": 3,
    "sync": 3,
    "answering": 3,
    "account": 3,
    "given": 3,
    "api": 4,
    "web": 4,
    "cli": 5,
    "bench": 5,
    "commands": 5,
    "__init__": 5,
    "__main__": 5,
}
MAY_SEE = {
    "text": {"core"},
    "native": {"core"},
    "engine": {"core"},
    "files": {"core", "native"},
    "ops": {"core"},
    "store": {"core"},
}
"""Rooms that are narrower than their floor: siblings are blind to each other."""

FLEET: dict[str, set[str]] = {
    "settings": set(),
    "machine": {"settings"},
    "memory": {"settings", "machine"},
    "request": set(),
    "replica": {"settings", "machine", "memory", "request"},
    "routing": {"settings", "replica"},
    "crew": {"settings", "machine", "memory", "replica", "routing"},
    "fleet": {"settings", "machine", "memory", "replica", "routing", "crew"},
}
"""The rooms of the fleet, each after those that it knows."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


class Imports(NamedTuple):
    """`at_once`: before anything of the module is called."""

    anywhere: tuple[str, ...]
    at_once: tuple[str, ...]


@cache
def imports_of(path: Path) -> Imports:
    module = ast.parse(path.read_text(encoding="utf-8"))
    return Imports(tuple(_anywhere(module)), tuple(_at_once(module.body)))


def _anywhere(module: ast.Module) -> Iterator[str]:
    due: list[ast.AST] = [module]
    while due:
        node = due.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import of {node.module}: name the module whole"
            if node.module == "llamahost":
                yield from (f"llamahost.{alias.name}" for alias in node.names)
            elif node.module is not None:
                yield node.module
        elif not isinstance(node, ast.expr | ast.Expr | ast.Assign | ast.Return):  # which hold no statement
            due += ast.iter_child_nodes(node)


def _at_once(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Try):
            yield from _at_once(node.body)


SOURCES: dict[str, list[Path]] = {}
"""By room."""

for _path in sorted(PACKAGE.rglob("*.py")):
    SOURCES.setdefault(room_of(_path), []).append(_path)


@pytest.mark.parametrize("room", SOURCES)
def test_imports_go_down_only(room: str) -> None:
    for source, name in [(path, name) for path in SOURCES[room] for name in imports_of(path).anywhere]:
        parts = name.split(".")
        if parts[0] != "llamahost" or len(parts) == 1:
            continue
        target = parts[1] if parts[1] in FLOORS else "__init__"
        assert target == room or FLOORS[target] <= FLOORS[room], f"{source} imports {name}, which is above it"
        if room in MAY_SEE and target != room:
            assert target in MAY_SEE[room], f"{source} must not know {target}"


def test_the_rooms_of_the_fleet_know_those_before_them_alone() -> None:
    assert all(seen <= set(list(FLEET)[:place]) for place, seen in enumerate(FLEET.values())), "no two know each other"
    for source in SOURCES["fleet"]:
        room = source.relative_to(PACKAGE / "fleet").parts[0].removesuffix(".py")
        named = [f"{name}." for name in imports_of(source).anywhere if name.startswith("llamahost.fleet")]
        unknown = {name.split(".")[2] for name in named} - {room, *FLEET.get(room, ())}
        assert not unknown, f"{source} must not know {unknown}"


def test_no_test_imports_another() -> None:
    """What several need is a module of its own beside them: a file of tests can then move, or go."""
    of_tests = re.compile(r"^\s*(?:from|import) +tests\.[\w.]*(?:\btest_| import +test_).*", re.MULTILINE)
    found = {path: of_tests.findall(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("*.py")}
    assert not {path: lines for path, lines in found.items() if lines}


def test_only_native_knows_llama_cpp() -> None:
    guilty = [
        path
        for room, paths in SOURCES.items()
        for path in paths
        if room != "native" and any(n.split(".")[0] == "llama_cpp" for n in imports_of(path).anywhere)
    ]
    assert guilty == []


def test_nothing_below_the_api_knows_http() -> None:
    web = {"starlette", "uvicorn", "httptools"}
    guilty = [
        path
        for room, paths in SOURCES.items()
        for path in paths
        if FLOORS[room] < 4 and any(n.split(".")[0] in web for n in imports_of(path).anywhere)
    ]
    assert guilty == []


LATE = {"numpy", "jinja2", "llguidance", "llama_cpp", "pynvml", "huggingface_hub", "httpx", "llamahost.files.download"}
"""What takes long to import, and is wanted when a model is loaded, pulled or asked for."""


def test_a_server_listens_before_what_takes_long_is_imported() -> None:
    seen, due = set[str](), ["llamahost.cli", "llamahost.api.app", "llamahost.api.server", "llamahost.host"]
    while due:
        name = due.pop()
        path = PACKAGE.parent.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name not in seen and path.exists():
            due += imports_of(path).at_once
        seen.add(name)
    assert "llamahost.api.embeddings" in seen, "it is followed"
    assert not LATE & seen
