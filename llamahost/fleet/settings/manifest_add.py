"""Write one more model into the text of a manifest: at its end, so that not a character of the rest changes. Pure."""

from __future__ import annotations

import json
from pathlib import Path

from llamahost.core.errors import ManifestError
from llamahost.files.repo import Reference
from llamahost.fleet.settings.manifest import Manifest, ModelSpec
from llamahost.fleet.settings.manifest_file import parse_manifest

_KEYS = ("repo", "file", "quant", "revision")


def name_for(reference: Reference) -> str:
    """What a model of this repository is called where nobody says."""
    name = reference.repo.rpartition("/")[2]
    return name[: -len("-GGUF")] if name.upper().endswith("-GGUF") else name


def naming(manifest: Manifest, reference: Reference) -> ModelSpec | None:
    """The model of the manifest that is this one already."""
    wanted = _values(reference)
    return next((spec for spec in manifest.models if {key: getattr(spec, key) for key in _KEYS} == wanted), None)


def added(text: str, name: str, reference: Reference, *, folder: Path, source: str) -> str:
    """The text with a block for it. Raises ManifestError where there would be a mistake in it then."""
    lines = {"name": name, **{key: value for key, value in _values(reference).items() if value}}
    end = "\r\n" if "\r\n" in text else "\n"  # as some editors write lines
    block = end.join(["[[models]]", *(f"{key} = {_quoted(value)}" for key, value in lines.items())])
    gap = "" if not text else end if text.endswith("\n") else 2 * end
    whole = f"{text}{gap}{block}{end}"
    try:
        manifest = parse_manifest(whole.removeprefix("\ufeff"), folder=folder, source=source)
    except ManifestError as error:
        hint = "; --name gives it another name" if error.key == "name" else ""
        raise ManifestError(f"`{name}` was not added: {error}{hint}", key=error.key) from error
    if name not in (spec.name for spec in manifest.models):
        raise ManifestError(f"`{name}` was not added: {source} would not name it then", key="models")
    return whole


def _values(reference: Reference) -> dict[str, str]:
    revision = "" if reference.revision == "main" else reference.revision
    return {"repo": reference.repo, "file": reference.file, "quant": reference.quant, "revision": revision}


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's text is TOML's, but for this one
