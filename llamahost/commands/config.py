"""`llamahost config`: each setting as `serve` would have it, and where it came from. Serves nothing.

`serve`'s own parser reads its flags, and a flag belongs to the setting that it is spelled like, but for a few.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from llamahost.commands.exits import told
from llamahost.commands.lora import adapters_of
from llamahost.commands.opening import MANIFEST
from llamahost.commands.words import table

if TYPE_CHECKING:
    from llamahost.fleet.settings.manifest import Manifest, ModelSpec, ServerSettings

Source = Literal["flag", "environment", "manifest", "default"]
Wanted = Callable[[Path | None, Path | None, list[str], dict[str, Any], dict[str, Any]], "Manifest"]
"""What `serve` makes of a model, a manifest, names, flags of the model and flags of the server."""

_SECRET = ("api_key",)
_SPELLINGS = ("{}", "{}_s", "{}s", "n_{}")
_OF_PROCESS = ("model", "manifest", "alias", "strict_model", "log_level", "log_format")
"""Flags of `serve` that are no setting of the manifest."""

_OTHERWISE = {"lora": "adapters"}
"""Settings of flags that are spelled otherwise."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value. `table` is where it stands: process, server, or models.NAME."""

    table: str
    key: str
    value: object
    source: Source


def show(context: typer.Context, arguments: list[str], wanted: Wanted, *, is_json: bool) -> None:
    """Print what `serve` with these arguments would go by."""
    with told():
        settings = settings_of(context, arguments, wanted)
    if is_json:
        print(json.dumps([asdict(setting) for setting in settings], ensure_ascii=False, default=str, indent=2))
    else:
        rows = [(f"{each.table}.{each.key}", _told(each.value), each.source) for each in settings]
        print(table([("setting", "value", "from"), *rows]))
    for line in strangers(os.environ, known_variables(context)):
        print(f"llamahost: {line}", file=sys.stderr)


def settings_of(context: typer.Context, arguments: list[str], wanted: Wanted) -> list[Setting]:
    """Every setting, in the order of its table. Raises ManifestError, and click's usage errors."""
    from llamahost.fleet.settings.manifest import ModelSpec, ServerSettings

    serve = _command(context, "serve")
    given = serve.make_context("config", list(arguments), parent=context.parent)
    values = given.params
    sources: dict[str, Source] = {name: _source(given.get_parameter_source(name)) for name in values}
    of_server, of_model = {f.name for f in fields(ServerSettings)}, {f.name for f in fields(ModelSpec)}
    server: dict[str, str] = {}  # the flag of each setting
    spec: dict[str, str] = {}
    for name in values:
        if name in _OF_PROCESS:
            continue
        for keys, found in ((of_server, server), (of_model, spec)):
            spellings = [_OTHERWISE.get(name, form.format(name)) for form in _SPELLINGS]
            if key := next((each for each in spellings if each in keys), None):
                found[key] = name
                break
    model, path = (Path(values[name]) if values[name] else None for name in ("model", "manifest"))
    manifest = wanted(
        model, path, list(values["alias"] or ()), _values(spec, values, sources), _values(server, values, sources)
    )
    file = path or (MANIFEST if model is None and MANIFEST.is_file() else None)
    document = tomllib.loads(file.read_text(encoding="utf-8-sig")) if file else {}
    process = {name: values[name] for name in _OF_PROCESS if name != "alias"} | {"manifest": file}
    settings = [Setting("process", name, value, sources[name]) for name, value in process.items()]
    settings += _of(manifest.server, "server", document.get("server", {}), server, sources)
    for k, each in enumerate(manifest.models):
        named: Mapping[str, object] = (document.get("models") or [{}])[k] if model is None else {}
        rows = _of(each, f"models.{each.name}", named, spec, sources)
        settings += [_from_command_line(row, sources) for row in rows] if model is not None else rows
    return settings


def known_variables(context: typer.Context) -> set[str]:
    """Every environment variable that some command reads."""
    root = context.find_root()
    commands = [_command(context, name) for name in root.command.list_commands(root)]  # type: ignore[attr-defined]  # the root is a group
    return {"LLAMAHOST_CACHE"} | {
        variable for each in commands for param in each.params for variable in _variables(param)
    }


def strangers(environment: Mapping[str, str], known: set[str]) -> list[str]:
    """A line for each variable that looks like ours and is not."""
    lines = []
    for name in sorted(environment):
        if name.startswith("LLAMAHOST_") and not name.startswith("LLAMAHOST_BENCH_") and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            lines.append(f"nothing reads {name}" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    return lines


def _of(
    owner: ServerSettings | ModelSpec,
    place: str,
    document: Mapping[str, object],
    flags: Mapping[str, str],
    sources: Mapping[str, Source],
) -> list[Setting]:
    settings = []
    for field in fields(owner):
        source = sources.get(flags.get(field.name, ""), "default")
        if source == "default" and field.name in document:
            source = "manifest"
        value = getattr(owner, field.name)
        settings.append(Setting(place, field.name, "***" if value and field.name in _SECRET else value, source))
    return settings


def _from_command_line(row: Setting, sources: Mapping[str, Source]) -> Setting:
    """The path is the model given there; its names are `--alias` or the file's."""
    flag = {"path": "model", "name": "alias", "aliases": "alias"}.get(row.key)
    return row if flag is None else Setting(row.table, row.key, row.value, sources[flag])


def _values(flags: Mapping[str, str], values: Mapping[str, Any], sources: Mapping[str, Source]) -> dict[str, Any]:
    given = {}
    for key, name in flags.items():
        value = values[name]
        if sources[name] != "default" and value is not None:
            if key in ("cors_origins", "allowed_hosts", "forwarded_allow_ips"):
                parts = value.split(",") if isinstance(value, str) else value
                value = tuple(part.strip() for part in parts if part.strip())
            given[key] = adapters_of(value) if key == "adapters" else value
    return given


def _command(context: typer.Context, name: str) -> Any:
    root = context.find_root()
    return root.command.get_command(root, name)  # type: ignore[attr-defined]  # the root is a group


def _variables(parameter: Any) -> list[str]:
    variables = getattr(parameter, "envvar", None) or []
    return [variables] if isinstance(variables, str) else list(variables)


def _source(source: Any) -> Source:
    names: dict[str, Source] = {"COMMANDLINE": "flag", "ENVIRONMENT": "environment"}
    return names.get(getattr(source, "name", ""), "default")


def _told(value: object) -> str:
    if value is None or value == () or value == {} or value == "":
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return " ".join(str(value).split())
