"""Read model_manifest.toml. Knows the text and where each key stands in it; what may be said, the types know.

A mistake is reported with its line, the key, and the key that was probably meant.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from llamahost.core.errors import ManifestError
from llamahost.core.sampling import SamplingOptions
from llamahost.fleet.settings.adapter_spec import AdapterSpec, check_together
from llamahost.fleet.settings.manifest import (
    LIMITED,
    PACKAGED,
    PACKAGED_ADAPTERS,
    Manifest,
    ModelSpec,
    ServerSettings,
    is_template_path,
)
from llamahost.fleet.settings.mistakes import Mistakes
from llamahost.fleet.settings.route_spec import RouteSpec

logger = logging.getLogger("llamahost.fleet")

T = TypeVar("T")

_Where = tuple[str | int, ...]
_TABLES = ("server", "models", "folders", "routes")
_OTHERWISE = {
    **dict.fromkeys(("ctx_size", "context", "context_length", "max_model_len", "num_ctx"), "n_ctx"),
    **dict.fromkeys(("parallel", "max_num_seqs", "num_parallel"), "n_slots"),
    **dict.fromkeys(("ngl", "num_gpu", "gpu"), "n_gpu_layers"),
    **dict.fromkeys(("model", "model_path", "gguf"), "path"),
    **dict.fromkeys(("hf", "hf_repo"), "repo"),
    **dict.fromkeys(("lora", "loras"), "adapters"),
    "served_model_name": "aliases",
    "quantization": "quant",
    "chat_template": "template",
    "cache_type_k": "kv_type_k",
    "cache_type_v": "kv_type_v",
    "keep_alive": "idle_s",
    "ttl": "idle_s",
    "key": "api_key",
    "ssl_cert_file": "tls_cert",
    "ssl_key_file": "tls_key",
}
"""Keys as other servers call them that are not spelled like ours."""


def load_manifest(path: Path, meant: Mapping[str, Path] = MappingProxyType({})) -> Manifest:
    """Read the file. Paths in it are relative to it. Raises ManifestError.

    `meant` are the files of names that were given already: what is found in a folder keeps its own, and has no other's.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark before the text
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    return parse_manifest(text, folder=path.parent, source=str(path), meant=meant)


def parse_manifest(
    text: str,
    *,
    folder: Path,
    source: str = "model_manifest.toml",
    meant: Mapping[str, Path] = MappingProxyType({}),
) -> Manifest:
    """The manifest that this text says; relative paths begin in `folder`. Raises ManifestError."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ManifestError(f"{source}: {error}") from error
    place = _Places(source, text)
    mistakes = Mistakes()
    mistakes.of(document, lambda table: place.known((), _table(table, place, ()), _TABLES))
    settings = mistakes.of(document.get("server", {}), lambda table: _server(table, place, folder)) or ServerSettings()

    def each(name: str, make: Callable[[object, _Places, _Where, Path], T]) -> Iterator[tuple[int, T]]:
        def one(k: int, table: object) -> T | None:
            return mistakes.of(table, lambda table: make(table, place, (name, k), folder))

        tables = document.get(name, [])
        if not isinstance(tables, list):
            mistakes.add(place.error((name,), f"{name} are written as [[{name}]], with two brackets"))
            return
        for k, table in enumerate(tables):
            if (made := one(k, table)) is not None:
                yield k, made

    manifest = Manifest(server=settings)
    for k, spec in each("models", _model):
        try:
            manifest = replace(manifest, models=(*manifest.models, spec))
        except ManifestError as error:  # it is the second of a name that is told
            mistakes.add(place.error(("models", k, error.key), str(error)))
    taken = {name for spec in manifest.models for name in (spec.name, *spec.aliases)}
    real = cache(os.path.realpath)  # of folders: two links in one may be two names for a file
    paths = {(real(spec.path.parent), spec.path.name) for spec in manifest.models}
    lying: list[tuple[int, ModelSpec]] = []
    for k, found in each("folders", _folder):
        for spec in found:
            if (path := (real(spec.path.parent), spec.path.name)) not in paths:
                paths.add(path)  # else named by itself, or found before: it is as said there
                lying.append((k, spec))
    of_folders: list[ModelSpec] = []
    for (k, spec), name in zip(lying, _apart([spec for _, spec in lying], taken, meant), strict=True):
        try:
            of_folders.append(replace(spec, name=name))
        except ManifestError as error:
            mistakes.add(place.error(("folders", k, "path"), f"{spec.path}: {error}"))
    manifest = replace(manifest, models=(*manifest.models, *of_folders))
    for k, route in each("routes", _route):
        try:
            manifest = replace(manifest, routes=(*manifest.routes, route))
        except ManifestError as error:
            if not mistakes:  # else it may name a model that is wrong
                mistakes.add(place.error(("routes", k, error.key), str(error)))
    mistakes.tell()
    return manifest


def _route(table: object, place: _Places, where: _Where, folder: Path) -> RouteSpec:
    values = dict(_table(table, place, where))
    place.known(where, values, (f.name for f in fields(RouteSpec)))
    for key in ("name", "models"):
        if key not in values:
            raise place.error(where, f"this route needs {'a name' if key == 'name' else 'models'}")
    for key in ("models", "aliases", "weights"):
        if isinstance(values.get(key), list):
            values[key] = tuple(values[key])
    try:
        return RouteSpec(**values)
    except ManifestError as error:
        raise place.error((*where, error.key), str(error)) from error


def _server(table: object, place: _Places, folder: Path) -> ServerSettings:
    values = dict(_table(table, place, ("server",)))
    place.known(("server",), values, (f.name for f in fields(ServerSettings)))
    for key in ("unix_socket", "api_key_file", "tls_cert", "tls_key"):
        if key in values:
            if not isinstance(values[key], str):
                raise place.error(("server", key), f"{key} must be text, not {values[key]!r}")
            values[key] = _path(values[key], place, ("server", key), folder)
    for key in ("cors_origins", "allowed_hosts", "forwarded_allow_ips"):
        if isinstance(values.get(key), list):
            values[key] = tuple(values[key])
    if "adapter_folders" in values:
        folders = values["adapter_folders"]
        if not isinstance(folders, list) or not all(isinstance(each, str) for each in folders):
            raise place.error(("server", "adapter_folders"), "adapter_folders must be a list of texts")
        values["adapter_folders"] = tuple(_path(each, place, ("server", "adapter_folders"), folder) for each in folders)
    try:
        return ServerSettings(**values)
    except ManifestError as error:
        raise place.error(("server", error.key), str(error)) from error


def _folder(table: object, place: _Places, where: _Where, folder: Path) -> list[ModelSpec]:
    """A spec for each model in the folder and below it, loaded on request where nothing else is said."""
    values = {"load": "request", **_table(table, place, where)}
    if not isinstance(values.get("path"), str):
        raise place.error((*where, "path"), "a folder needs a path")
    for key in _OF_ONE:
        if key in values:
            raise place.error((*where, key), f"{key} belongs to one model, not to a folder of them")
    top = _path(values["path"], place, (*where, "path"), folder)
    try:
        os.scandir(top).close()
    except (FileNotFoundError, NotADirectoryError):
        raise place.error((*where, "path"), f"there is no folder {top}") from None
    except OSError as error:
        raise place.error((*where, "path"), f"cannot read the folder {top}: {error.strerror or error}") from error
    spec = _model({**values, "name": "a", "path": "a"}, place, where, folder)  # a mistake is one in an empty folder too
    specs = []
    for path in sorted(_files(top)):
        part = _PART.fullmatch(path.stem)
        if (part and int(part[2]) != 1) or path.name.lower().startswith("mmproj"):
            continue
        specs.append(replace(spec, name=part[1] if part else path.stem, path=path))
    return specs


def _files(top: Path) -> Iterator[Path]:
    """Those that end like a model, in it and below; links are followed, each folder is read once, no hidden one."""
    read: set[str] = set()

    def tell(error: OSError) -> None:
        logger.warning("cannot read the folder %s, and serve what is in it: %s", error.filename, error.strerror)

    for place, folders, names in os.walk(top, onerror=tell, followlinks=True):
        if (really := os.path.realpath(place)) in read:
            folders.clear()
            continue
        read.add(really)
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        yield from (Path(place, name) for name in names if name.lower().endswith(".gguf") and name[0] != ".")


def _apart(specs: Sequence[ModelSpec], taken: Collection[str], meant: Mapping[str, Path]) -> list[str]:
    """A name for each, whatever their order: its own, or where another has that too with as many of its folders before
    it as it takes. So the short name of two files is of neither; but what was one's when the other came stays its own,
    and never becomes the other's.
    """
    own = {file: name for name, file in meant.items() if name not in taken}
    kept = [own.get(spec.path, "") for spec in specs]
    kept = [
        name if name.rpartition("/")[2] in (spec.name, spec.path.name) else ""  # else it was named by hand
        for name, spec in zip(kept, specs, strict=True)
    ]
    parts = [(*spec.path.absolute().parts[1:-1], spec.name) for spec in specs]
    n_alike = Counter(parts)  # in one folder: one of them is in parts, say
    parts = [
        (*each[:-1], spec.path.name) if n_alike[each] > 1 else each for each, spec in zip(parts, specs, strict=True)
    ]
    n_of = [1] * len(specs)
    while True:
        names = [name or "/".join(each[-n:]) for name, each, n in zip(kept, parts, n_of, strict=True)]
        n_with = Counter(names)
        longer = [k for k, name in enumerate(names) if name in taken or name in meant or n_with[name] > 1]
        longer = [k for k in longer if not kept[k] and n_of[k] < len(parts[k])]
        if not longer:
            return names
        for k in longer:
            n_of[k] += 1


def _model(table: object, place: _Places, where: _Where, folder: Path) -> ModelSpec:
    values = dict(_table(table, place, where))
    place.known(where, values, (f.name for f in fields(ModelSpec)))
    if "name" not in values:
        raise place.error(where, "this model needs a name")
    if "path" in values and "repo" in values:
        raise place.error((*where, "repo"), "give a path or a repo, not both")
    for key in ("name", "path"):
        if key in values and not isinstance(values[key], str):
            raise place.error((*where, key), f"{key} must be text, not {values[key]!r}")
    if "path" in values:
        path = values["path"]
        values["path"] = PACKAGED.get(path) or _path(path, place, (*where, "path"), folder)
    if "adapters" in values:
        values["adapters"] = _adapters(values["adapters"], place, (*where, "adapters"), folder)
    for key in ("aliases", "devices", "tensor_split", "override_tensor"):
        if isinstance(values.get(key), list):
            values[key] = tuple(values[key])
    if "max_sampling" in values:
        values["max_sampling"] = _table(values["max_sampling"], place, (*where, "max_sampling"))
        place.known((*where, "max_sampling"), values["max_sampling"], LIMITED)
    if "template" in values and isinstance(template := values["template"], str) and is_template_path(template):
        values["template"] = str(_path(template, place, (*where, "template"), folder))
    if "sampling" in values:
        sampling = dict(_table(values["sampling"], place, (*where, "sampling")))
        place.known((*where, "sampling"), sampling, SamplingOptions.__annotations__)
        values["sampling"] = _frozen(sampling)
    try:
        return ModelSpec(**values)
    except ManifestError as error:
        table_of = (k for k in ("max_sampling", "sampling") if str(error).startswith(f"{k}:") and error.key != k)
        raise place.error((*where, *table_of, error.key), str(error)) from error


def _adapters(tables: object, place: _Places, where: _Where, folder: Path) -> tuple[AdapterSpec, ...]:
    if not isinstance(tables, list):
        raise place.error(where, "adapters are written as [[models.adapters]], with two brackets")
    specs: list[AdapterSpec] = []
    for k, table in enumerate(tables):
        values = dict(_table(table, place, (*where, k)))
        place.known((*where, k), values, (f.name for f in fields(AdapterSpec)))
        for key in ("name", "path"):
            if not isinstance(values.get(key), str):
                raise place.error((*where, k, key), f"an adapter needs a {key}, which is text")
        path = values["path"]
        values["path"] = PACKAGED_ADAPTERS.get(path) or _path(path, place, (*where, k, "path"), folder)
        try:
            specs.append(AdapterSpec(**values))
            check_together(specs)
        except ManifestError as error:
            raise place.error((*where, k, error.key), str(error)) from error
    return tuple(specs)


def _path(text: str, place: _Places, where: _Where, folder: Path) -> Path:
    """Where this is, beside the manifest or of a home. Raises ManifestError where no file can be called so."""
    if "\0" in text:
        raise place.error(where, f"{text!r} is no path: no file has a NUL in its name")
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        home = Path(text).parts[0]
        raise place.error(where, f"there is no home folder {home} for {text}; give the whole path") from None


def _frozen(value: Any) -> Any:
    """Lists as tuples, one level of table kept."""
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(_frozen(inner) for inner in value) if isinstance(value, list) else value


def _table(value: object, place: _Places, where: _Where) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise place.error(where, f"{where[-1]} must be a table, not {value!r}")
    return value


_OF_ONE = ("name", "aliases", "adapters", "repo", "file", "quant", "revision")
_PART = re.compile(r"(.+)-(\d{5})-of-\d{5}")
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*[.=]""")


class _Places:
    """Where in the text each key stands: tomllib does not say."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self._lines: dict[tuple[str | int, ...], int] = {}
        where: tuple[str | int, ...] = ()
        n_of: dict[tuple[str | int, ...], int] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.match(line):
                names = [name.strip().strip("\"'") for name in header[2].split(".")]
                where = ()
                for k, name in enumerate(names):
                    where = (*where, name)
                    if header[1] == "[[" and k == len(names) - 1:
                        n_of[where] = n_of.get(where, 0) + 1
                    if where in n_of:
                        where = (*where, n_of[where] - 1)
                self._lines.setdefault(where, number)
            elif key := _KEY.match(line):
                self._lines.setdefault((*where, key[1] or key[2] or key[3] or ""), number)

    def error(self, where: _Where, message: str) -> ManifestError:
        """The mistake, with the line of the key, or of the nearest table around it."""
        key = str(where[-1]) if where else ""
        while where:
            if where in self._lines:
                line = self._lines[where]
                return ManifestError(f"{self.source}, line {line}: {message}", key=key, line=line)
            where = where[:-1]
        return ManifestError(f"{self.source}: {message}", key=key)

    def known(self, where: _Where, table: Mapping[str, object], keys: Iterable[str]) -> None:
        """Raises ManifestError on the first key that is none of these."""
        valid = sorted(keys)
        for key in table:
            if key in valid:
                continue
            meant = _OTHERWISE.get(key.lower().replace("-", "_"), "")
            nearest = [meant] if meant in valid else difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
            hint = f"did you mean `{nearest[0]}`?" if nearest else f"the keys here are {', '.join(valid)}"
            raise self.error((*where, key), f"unknown key `{key}`; {hint}")
