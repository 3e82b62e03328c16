"""The adapters that a command line names, as llama-server's --lora and --lora-scaled do. Opens no file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llamahost.fleet.settings.adapter_spec import AdapterSpec

Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        envvar="LLAMAHOST_LORA",
        help="A LoRA adapter (GGUF) for the model, which always works: FILE or FILE:SCALE. Repeatable.",
        metavar="FILE[:SCALE]",
    ),
]


def adapters_of(given: Sequence[str] | None) -> tuple[AdapterSpec, ...] | None:
    """None where nothing is given. They are called as their files are. Raises ManifestError."""
    from llamahost.fleet.settings.adapter_spec import AdapterSpec, check_together

    if not given:
        return None
    specs: list[AdapterSpec] = []
    for text in given:
        path, scale = _parted(text)
        name = path.stem.replace(":", "-")
        n_alike = sum(spec.name.rpartition("#")[0] == name or spec.name == name for spec in specs)
        specs.append(
            AdapterSpec(name=f"{name}#{n_alike + 1}" if n_alike else name, path=path, scale=scale, default_scale=scale)
        )
    check_together(specs)
    return tuple(specs)


def _parted(text: str) -> tuple[Path, float]:
    """A file may have a colon in its name, and a drive has one."""
    from llamahost.fleet.settings.builtin import adapter_file

    head, colon, tail = text.rpartition(":")
    if colon and head and not Path(text).is_file():
        try:
            return adapter_file(head).absolute(), float(tail)
        except ValueError:
            pass
    return adapter_file(text).absolute(), 1.0
