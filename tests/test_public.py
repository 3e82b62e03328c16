"""The names that the package promises, and what its source archive holds."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import llamahost
from llamahost.fleet.settings.manifest import BUILTIN_PATH
from tests.sources import ROOT


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


def test_the_source_archive_holds_the_folders_that_its_makefile_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = set(re.findall(r"(?<![\w./)])(\w+)/\w", (ROOT / "Makefile").read_text(encoding="utf-8")))
    folders = {name for name in named if (ROOT / name).is_dir()}
    assert {"tools", "tests"} <= folders <= set(project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])


@pytest.mark.slow
def test_what_the_readme_shows_of_the_library_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## As a library")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "model.gguf").write_bytes(BUILTIN_PATH.read_bytes())
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        code = compile(block, "README.md", "exec")
        if "FastAPI" not in block:  # which is nobody's dependency here
            exec(code, {})
            assert capsys.readouterr().out.strip()
