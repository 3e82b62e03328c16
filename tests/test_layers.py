"""The house's floors: imports go down only. Read from the source, so that no import has to run."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "llamahost"

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


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    return tuple(_imports_of(path))


def _imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import; name the module whole"
            if node.module == "llamahost":
                yield from (f"llamahost.{alias.name}" for alias in node.names)
            elif node.module is not None:
                yield node.module


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("room", sorted({room_of(path) for path in SOURCES}))
def test_imports_go_down_only(room: str) -> None:
    for source, name in [(path, name) for path in SOURCES if room_of(path) == room for name in imports_of(path)]:
        parts = name.split(".")
        if parts[0] != "llamahost" or len(parts) == 1:
            continue
        target = parts[1] if parts[1] in FLOORS else "__init__"
        assert target == room or FLOORS[target] <= FLOORS[room], f"{source} imports {name}, which is above it"
        if room in MAY_SEE and target != room:
            assert target in MAY_SEE[room], f"{source} must not know {target}"


def test_only_native_knows_llama_cpp() -> None:
    guilty = [
        path
        for path in SOURCES
        if room_of(path) != "native" and any(n.split(".")[0] == "llama_cpp" for n in imports_of(path))
    ]
    assert guilty == []


def test_nothing_below_the_api_knows_http() -> None:
    web = {"starlette", "uvicorn", "httptools"}
    guilty = [
        path for path in SOURCES if FLOORS[room_of(path)] < 4 and any(n.split(".")[0] in web for n in imports_of(path))
    ]
    assert guilty == []


LATE = {"numpy", "jinja2", "llguidance", "llama_cpp", "pynvml", "huggingface_hub", "httpx", "llamahost.files.download"}
"""What takes long to import, and is wanted when a model is loaded, pulled or asked for."""


def _at_once(body: list[ast.stmt]) -> Iterator[str]:
    """What a module imports before anything of it is called."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Try):
            yield from _at_once(node.body)


def test_a_server_listens_before_what_takes_long_is_imported() -> None:
    seen, due = set[str](), ["llamahost.cli", "llamahost.api.app", "llamahost.api.server", "llamahost.host"]
    while due:
        name = due.pop()
        path = PACKAGE.parent.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name not in seen and path.exists():
            due += _at_once(ast.parse(path.read_text(encoding="utf-8")).body)
        seen.add(name)
    assert "llamahost.api.embeddings" in seen, "it is followed"
    assert not LATE & seen
