"""What to serve and how: the typed form of model_manifest.toml. Opens no model.

Every value is checked when it is made, whether it comes from a manifest, the command line or a program. A mistake in
the file is reported with its line, the key, and the key that was probably meant.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from llamahost.core.errors import InvalidRequest, ManifestError
from llamahost.core.messages import Sampling, SamplingOptions

KvLayout = Literal["auto", "split", "unified"]
PoolingChoice = Literal["auto", "none", "mean", "cls", "last", "rank"]
FlashAttention = Literal["auto", "on", "off"]

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")

BUILTIN_PATH = Path(__file__).resolve().parent.parent / "builtin" / "builtin.gguf"
"""The model in the package; in a manifest, `path = "builtin"`."""

_INT32 = 2**31 - 1

_TEMPLATE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BASE_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#@\"',]+")  # browser extensions have schemes of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model to serve. What is None is chosen when it is loaded, from the file and the machine.

    Raises ManifestError on a value of the wrong kind or out of range.
    """

    name: str
    path: Path
    aliases: tuple[str, ...] = ()
    n_ctx: int | None = None  # tokens that one request may hold, prompt and answer
    n_slots: int | None = None  # requests computed at once
    kv_layout: KvLayout = "auto"
    n_cells: int | None = None  # tokens that all slots hold together in a unified KV
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    n_batch: int = 2048
    n_ubatch: int = 512  # of a batch, computed at once; never above n_batch
    n_gpu_layers: int = -1  # -1: all that llama.cpp can
    flash_attention: FlashAttention = "auto"
    n_threads: int | None = None
    swa_full: bool = True
    template: str = ""  # Jinja text, a file that holds it, or a name; empty: the model's own
    sampling: SamplingOptions = field(default_factory=lambda: SamplingOptions())
    embeddings: bool = False  # also embed with a model that generates; one made for embeddings always does
    pooling: PoolingChoice = "auto"  # of embeddings; auto: the file's own, or the last token
    query_prefix: str = ""  # put before an input that a request calls a query
    document_prefix: str = ""  # and before a document
    max_queue: int = 256  # requests that may wait beside those in slots
    timeout_s: float | None = None
    target_step_s: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))  # text is as good
        _check(self, _MODEL_KINDS)
        for name in (self.name, *self.aliases):
            if not isinstance(name, str) or not name.strip() or len(name) > 256:
                key = "name" if name is self.name else "aliases"
                raise ManifestError(f"{key}: a model needs a name of 1 to 256 characters, not {name!r}", key=key)
        if self.n_cells is not None and self.kv_layout == "split":
            raise ManifestError("n_cells belongs to a unified KV; a split one holds n_ctx * n_slots", key="n_cells")
        if self.n_cells is not None and self.n_ctx is not None and self.n_cells < self.n_ctx:
            raise ManifestError(f"n_cells ({self.n_cells}) must be at least n_ctx ({self.n_ctx})", key="n_cells")
        if self.kv_type_v not in ("f32", "f16", "bf16") and self.flash_attention == "off":
            raise ManifestError(f"kv_type_v {self.kv_type_v} needs flash attention", key="kv_type_v")
        try:
            Sampling().with_options(self.sampling)
        except (InvalidRequest, TypeError) as error:
            raise ManifestError(f"sampling: {error}", key=getattr(error, "param", None) or "sampling") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server listens and how long it waits. Raises ManifestError on a value out of range."""

    host: str = "127.0.0.1"
    port: int = 8080  # 0: any free one
    unix_socket: Path | None = None  # listened on instead
    api_key: str | None = None
    api_key_file: Path | None = None  # more keys, one a line
    cors_origins: tuple[str, ...] = ()  # whose pages may ask from a browser; "*": anybody's
    tls_cert: Path | None = None  # PEM, with the chain
    tls_key: Path | None = None  # PEM; not needed where the certificate's file holds it
    base_path: str = ""  # where a proxy shows the server, as in /llm
    forwarded_allow_ips: tuple[str, ...] = ()  # proxies whose X-Forwarded-* are believed; "*": anybody's
    drain_s: float = 30.0  # at shutdown, for answers that are under way
    ping_s: float = 15.0  # of silence in a stream before a comment line is sent
    stall_s: float = 60.0  # that a client may leave its stream unread before it is ended
    timeout_s: float | None = None  # of a request that gives none and whose model gives none
    max_body_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        _check(self, _SERVER_KINDS)
        if not self.host:
            raise ManifestError("host must not be empty; 0.0.0.0 listens on every interface", key="host")
        if self.api_key is not None and not self.api_key.strip():
            raise ManifestError("api_key must not be empty; leave it out for none", key="api_key")
        if self.tls_key is not None and self.tls_cert is None:
            raise ManifestError("tls_key needs a tls_cert beside it", key="tls_key")
        object.__setattr__(self, "base_path", self.base_path.rstrip("/"))
        if self.base_path and not _BASE_PATH.fullmatch(self.base_path):
            raise ManifestError(f"base_path must be like /llm, not {self.base_path!r}", key="base_path")
        for origin in self.cors_origins:
            if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
                raise ManifestError(
                    f'cors_origins must be like "https://example.org", without a path, or "*"; not {origin!r}',
                    key="cors_origins",
                )
        for proxy in self.forwarded_allow_ips:
            if not _is_network(proxy):
                raise ManifestError(
                    f'forwarded_allow_ips must be addresses, networks like 10.0.0.0/8, or "*"; not {proxy!r}',
                    key="forwarded_allow_ips",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that one server serves. No two models share a name or an alias."""

    models: tuple[ModelSpec, ...] = ()
    server: ServerSettings = field(default_factory=ServerSettings)

    def __post_init__(self) -> None:
        owners: dict[str, str] = {}
        for model in self.models:
            for name in (model.name, *model.aliases):
                if name in owners:
                    raise ManifestError(f"`{name}` names both `{owners[name]}` and `{model.name}`", key="name")
                owners[name] = model.name


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a field may hold: of this type, within the range or among the choices."""

    type: type
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    is_optional: bool = False


_MODEL_KINDS = {
    "name": _Kind(str),
    "path": _Kind(Path),
    "aliases": _Kind(tuple),
    "n_ctx": _Kind(int, 8, _INT32, is_optional=True),
    "n_slots": _Kind(int, 1, 256, is_optional=True),  # llama.cpp knows 256 sequences
    "kv_layout": _Kind(str, choices=("auto", "split", "unified")),
    "n_cells": _Kind(int, 8, _INT32, is_optional=True),
    "kv_type_k": _Kind(str, choices=KV_TYPES),
    "kv_type_v": _Kind(str, choices=KV_TYPES),
    "n_batch": _Kind(int, 1, 2**20),
    "n_ubatch": _Kind(int, 1, 2**20),
    "n_gpu_layers": _Kind(int, -1, _INT32),
    "flash_attention": _Kind(str, choices=("auto", "on", "off")),
    "n_threads": _Kind(int, 1, 512, is_optional=True),  # ggml's own bound
    "swa_full": _Kind(bool),
    "template": _Kind(str),
    "sampling": _Kind(dict),
    "embeddings": _Kind(bool),
    "pooling": _Kind(str, choices=("auto", "none", "mean", "cls", "last", "rank")),
    "query_prefix": _Kind(str),
    "document_prefix": _Kind(str),
    "max_queue": _Kind(int, 0, 10**6),
    "timeout_s": _Kind(float, 1e-3, 1e9, is_optional=True),
    "target_step_s": _Kind(float, 1e-3, 60.0),
}

_SERVER_KINDS = {
    "host": _Kind(str),
    "port": _Kind(int, 0, 65535),
    "unix_socket": _Kind(Path, is_optional=True),
    "api_key": _Kind(str, is_optional=True),
    "api_key_file": _Kind(Path, is_optional=True),
    "cors_origins": _Kind(tuple),
    "tls_cert": _Kind(Path, is_optional=True),
    "tls_key": _Kind(Path, is_optional=True),
    "base_path": _Kind(str),
    "forwarded_allow_ips": _Kind(tuple),
    "drain_s": _Kind(float, 0.0, 86400.0),
    "ping_s": _Kind(float, 0.1, 86400.0),
    "stall_s": _Kind(float, 0.1, 86400.0),
    "timeout_s": _Kind(float, 1e-3, 1e9, is_optional=True),
    "max_body_bytes": _Kind(int, 1024, 2**40),
}

_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of texts"}


def _check(owner: ModelSpec | ServerSettings, kinds: Mapping[str, _Kind]) -> None:
    for key, kind in kinds.items():
        value = getattr(owner, key)
        if value is None and kind.is_optional:
            continue
        is_right = isinstance(value, (int, float) if kind.type is float else kind.type)
        if not is_right or (isinstance(value, bool) and kind.type is not bool):
            wanted = _TYPE_NAMES.get(kind.type, "a table")
            raise ManifestError(f"{key} must be {wanted}, not {value!r}", key=key)
        if kind.choices and value not in kind.choices:
            raise ManifestError(f"{key} must be one of {', '.join(kind.choices)}, not {value!r}", key=key)
        if kind.type in (int, float) and not kind.low <= value <= kind.high:
            raise ManifestError(f"{key} must be between {kind.low:g} and {kind.high:g}, not {value}", key=key)


def load_manifest(path: Path) -> Manifest:
    """Read the file. Paths in it are relative to it. Raises ManifestError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    return parse_manifest(text, folder=path.parent, source=str(path))


def parse_manifest(text: str, *, folder: Path, source: str = "model_manifest.toml") -> Manifest:
    """The manifest that this text says; relative paths begin in `folder`. Raises ManifestError."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ManifestError(f"{source}: {error}") from error
    place = _Places(source, text)
    place.known((), document, ("server", "models"))
    server = _server(document.get("server", {}), place, folder)
    models = document.get("models", [])
    if not isinstance(models, list):
        raise place.error(("models",), "models are written as [[models]], with two brackets")
    specs = [_model(table, place, ("models", k), folder) for k, table in enumerate(models)]
    try:
        settings = ServerSettings(**server)
    except ManifestError as error:
        raise place.error(("server", error.key), str(error)) from error
    manifest = Manifest(server=settings)
    for k in range(len(specs)):  # one after the other, so that it is the second of a name that is told
        try:
            manifest = Manifest(models=tuple(specs[: k + 1]), server=settings)
        except ManifestError as error:
            raise place.error(("models", k, error.key), str(error)) from error
    return manifest


def _server(table: object, place: _Places, folder: Path) -> dict[str, Any]:
    values = dict(_table(table, place, ("server",)))
    place.known(("server",), values, (f.name for f in fields(ServerSettings)))
    for key in ("unix_socket", "api_key_file", "tls_cert", "tls_key"):
        if key in values:
            if not isinstance(values[key], str):
                raise place.error(("server", key), f"{key} must be text, not {values[key]!r}")
            values[key] = folder / Path(values[key]).expanduser()
    for key in ("cors_origins", "forwarded_allow_ips"):
        if isinstance(values.get(key), list):
            values[key] = tuple(values[key])
    return values


def _is_network(text: object) -> bool:
    """Whether this is an IP address, a network of them, or `*`."""
    if text == "*":
        return True
    try:
        return isinstance(text, str) and bool(ipaddress.ip_network(text))
    except ValueError:
        return False


def _model(table: object, place: _Places, where: tuple[str | int, ...], folder: Path) -> ModelSpec:
    values = dict(_table(table, place, where))
    place.known(where, values, (f.name for f in fields(ModelSpec)))
    for key in ("name", "path"):
        if key not in values:
            raise place.error(where, f"this model needs a {key}")
        if not isinstance(values[key], str):
            raise place.error((*where, key), f"{key} must be text, not {values[key]!r}")
    is_builtin = values["path"] == "builtin"
    values["path"] = BUILTIN_PATH if is_builtin else folder / Path(values["path"]).expanduser()
    if isinstance(values.get("aliases"), list):
        values["aliases"] = tuple(values["aliases"])
    if "template" in values and isinstance(template := values["template"], str) and is_template_path(template):
        values["template"] = str(folder / Path(template).expanduser())
    if "sampling" in values:
        sampling = dict(_table(values["sampling"], place, (*where, "sampling")))
        place.known((*where, "sampling"), sampling, SamplingOptions.__annotations__)
        values["sampling"] = _frozen(sampling)
    try:
        return ModelSpec(**values)
    except ManifestError as error:
        inside = ("sampling",) if error.key in SamplingOptions.__annotations__ else ()
        raise place.error((*where, *inside, error.key), str(error)) from error


def is_template_name(template: str) -> bool:
    """Whether a spec's `template` is a name: `chatml`, or one of those in the model's file, such as `tool_use`."""
    return bool(_TEMPLATE_NAME.fullmatch(template))


def is_template_path(template: str) -> bool:
    """Whether a spec's `template` names a file: it is neither Jinja text nor a name."""
    return bool(template) and "{" not in template and not is_template_name(template)


def _frozen(value: Any) -> Any:
    """Lists as tuples, one level of table kept."""
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(_frozen(inner) for inner in value) if isinstance(value, list) else value


def _table(value: object, place: _Places, where: tuple[str | int, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise place.error(where, f"{where[-1]} must be a table, not {value!r}")
    return value


_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*[.=]""")


class _Places:
    """Where in the text each key stands: tomllib does not say."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self._lines: dict[tuple[str | int, ...], int] = {}
        where: tuple[str | int, ...] = ()
        n_of: dict[str, int] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.match(line):
                names = [name.strip().strip("\"'") for name in header[2].split(".")]
                if header[1] == "[[":
                    n_of[names[0]] = n_of.get(names[0], 0) + 1
                here = (names[0], n_of[names[0]] - 1) if names[0] in n_of else (names[0],)
                where = (*here, *names[1:])
                self._lines.setdefault(where, number)
            elif key := _KEY.match(line):
                self._lines.setdefault((*where, key[1] or key[2] or key[3] or ""), number)

    def error(self, where: tuple[str | int, ...], message: str) -> ManifestError:
        """The mistake, with the line of the key, or of the nearest table around it."""
        key = str(where[-1]) if where else ""
        while where:
            if where in self._lines:
                return ManifestError(f"{self.source}, line {self._lines[where]}: {message}", key=key)
            where = where[:-1]
        return ManifestError(f"{self.source}: {message}", key=key)

    def known(self, where: tuple[str | int, ...], table: Mapping[str, object], keys: Iterable[str]) -> None:
        """Raises ManifestError on the first key that is none of these."""
        valid = sorted(keys)
        for key in table:
            if key in valid:
                continue
            nearest = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
            hint = f"did you mean `{nearest[0]}`?" if nearest else f"the keys here are {', '.join(valid)}"
            raise self.error((*where, key), f"unknown key `{key}`; {hint}")
