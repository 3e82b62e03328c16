"""`llamahost models`: what the manifest names, and whether it is there. Opens no model; a header is read at most."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from llamahost.commands.exits import told
from llamahost.commands.opening import ManifestPath, manifest_at
from llamahost.commands.words import table
from llamahost.core.sizes import bytes_told

if TYPE_CHECKING:
    from llamahost.fleet.settings.manifest import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A model of the manifest. Counts are None where loading chooses them; `trouble` says what is wrong."""

    name: str
    aliases: tuple[str, ...]
    path: str
    exists: bool
    size_bytes: int
    architecture: str
    n_ctx: int | None
    n_ctx_train: int | None
    n_slots: int | None
    trouble: str = ""


def models(
    manifest: ManifestPath = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list.")] = False,
) -> None:
    """List what the manifest names, and whether its files are there; where it names none, the built-in model."""
    with told():
        named = [_look(spec) for spec in manifest_at(manifest).models]
    if as_json:
        print(json.dumps([asdict(each) for each in named], ensure_ascii=False, indent=2))
        return
    rows = [("name", "there", "size", "n_ctx", "slots", "path")]
    for each in named:
        size = bytes_told(each.size_bytes) if each.exists else "-"
        there = "✗" if each.trouble else "✓"
        rows.append((each.name, there, size, str(each.n_ctx or "auto"), str(each.n_slots or "auto"), each.path))
    print(table(rows))
    for each in named:
        if each.trouble:
            print(f"{each.name}: {each.trouble}")


def _look(spec: ModelSpec) -> Named:
    from llamahost.core.errors import LoadFailed, PullFailed
    from llamahost.files.local import files_of
    from llamahost.fleet.machine.located import located
    from llamahost.fleet.settings.manifest import NO_PATH
    from llamahost.native.gguf import read_metadata

    architecture, n_ctx_train, size_bytes, trouble = "", None, 0, ""
    path = spec.path
    try:
        path = located(spec).path
        size_bytes = sum(each.stat().st_size for each in files_of(path))
        header = read_metadata(path)
        architecture, n_ctx_train = header.architecture, header.number("context_length") or None
    except FileNotFoundError as error:
        trouble = f"there is no file {error.filename}"
    except (OSError, LoadFailed, PullFailed) as error:
        trouble = str(error)
    return Named(
        name=spec.name,
        aliases=spec.aliases,
        path=str(path) if path != NO_PATH else spec.repo,
        exists=path.is_file(),
        size_bytes=size_bytes,
        architecture=architecture,
        n_ctx=spec.n_ctx,
        n_ctx_train=n_ctx_train,
        n_slots=spec.n_slots,
        trouble=trouble,
    )
