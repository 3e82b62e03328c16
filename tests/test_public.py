"""The names that the package promises."""

import ast
from pathlib import Path

import pytest

import llamahost


@pytest.mark.parametrize("name", sorted(llamahost.__all__))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(llamahost, name) is not None


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(llamahost.__file__).read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in ast.walk(typed) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(llamahost.__all__) - {"__version__"}


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="Hosst"):
        llamahost.Hosst  # noqa: B018 — asking is the test
