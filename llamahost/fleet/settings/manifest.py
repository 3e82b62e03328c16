"""What to serve and how: the typed form of model_manifest.toml. Reads no file and opens no model.

Every value is checked when it is made, whether it comes from a manifest, the command line or a program.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from llamahost.core.errors import InvalidRequest, ManifestError
from llamahost.core.sampling import Sampling, SamplingOptions
from llamahost.fleet.settings.adapter_spec import AdapterSpec, check_together
from llamahost.fleet.settings.manifest_kinds import INT32, MAX_DEVICES, MODEL_KINDS, SERVER_KINDS
from llamahost.fleet.settings.ranges import check, is_network, is_pattern, is_share
from llamahost.fleet.settings.route_spec import RouteSpec

KvLayout = Literal["auto", "split", "unified"]
PoolingChoice = Literal["auto", "none", "mean", "cls", "last", "rank"]
FlashAttention = Literal["auto", "on", "off"]
RopeScaling = Literal["auto", "none", "linear", "yarn", "longrope"]
Task = Literal["auto", "chat", "completion", "embedding", "rerank"]
SplitMode = Literal["none", "layer", "row", "tensor"]
LoadMode = Literal["start", "request", "hand"]
WhenLoading = Literal["auto", "wait", "refuse"]

BUILTIN_PATH = Path(__file__).resolve().parents[2] / "builtin" / "builtin.gguf"
EMBED_PATH = BUILTIN_PATH.with_name("embed.gguf")
PACKAGED = {"builtin": BUILTIN_PATH, "builtin-embed": EMBED_PATH}
"""The models in the package by name; in a manifest, `path = "builtin"`."""
PACKAGED_ADAPTERS = {"builtin-pirate": BUILTIN_PATH.with_name("pirate.gguf")}
"""The LoRA adapters in the package, for `builtin`; likewise by name."""

NO_PATH = Path()
"""Of a model that comes from a repository and is not fetched yet."""

LIMITED = ("max_tokens", "temperature", "top_k", "repeat_penalty", "presence_penalty", "frequency_penalty")
"""What `max_sampling` may bound; what a model says of it is in the preparer."""

_N_OVERRIDES = 64
_OVERRIDE = re.compile(r"[^=]{1,256}=[^=\s]{1,64}")  # a pattern, and where what it fits goes
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_TEMPLATE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BASE_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#@\"',]+")  # browser extensions have schemes of their own
_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model to serve. What is None is chosen when it is loaded, from the file and the machine.

    Raises ManifestError on a value of the wrong kind or out of range.
    """

    name: str
    path: Path = NO_PATH  # of the file; of what comes from a repository, where it was put
    aliases: tuple[str, ...] = ()
    repo: str = ""  # on the hub, as "owner/name", in place of a path
    file: str = ""  # of the repository; the first of a split one
    quant: str = ""  # in place of a file, as "Q4_K_M"
    revision: str = ""  # of the repository; empty: its newest
    task: Task = "auto"  # auto: what the file is made for
    n_ctx: int | None = None  # tokens that one request may hold, prompt and answer
    n_slots: int | None = None  # requests computed at once
    kv_layout: KvLayout = "auto"
    n_cells: int | None = None  # tokens that all slots hold together in a unified KV
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    n_batch: int = 2048
    n_ubatch: int = 512  # of a batch, computed at once; never above n_batch
    n_gpu_layers: int | Literal["auto"] = "auto"  # auto: all, or as many as there is room for; -1: all
    flash_attention: FlashAttention = "auto"
    n_threads: int | None = None
    swa_full: bool = True
    template: str = ""  # Jinja text, a file that holds it, or a name; empty: the model's own
    sampling: SamplingOptions = field(default_factory=lambda: SamplingOptions())
    adapters: tuple[AdapterSpec, ...] = ()  # LoRA
    embeddings: bool = False  # also embed with a model that generates; one made for embeddings always does
    pooling: PoolingChoice = "auto"  # of embeddings; auto: the file's own, or the last token
    query_prefix: str = ""  # put before an input that a request calls a query
    document_prefix: str = ""  # and before a document
    max_queue: int = 256  # requests that may wait beside those in slots
    timeout_s: float | None = None
    target_step_s: float = 0.05
    load: LoadMode = "start"
    replicas: int | Literal["per-gpu"] = 1
    devices: Literal["auto"] | tuple[str, ...] = "auto"  # ids, as `llamahost check` names them
    split_mode: SplitMode = "layer"  # over several devices; none: the main one alone
    tensor_split: tuple[float, ...] = ()  # shares of the devices, in their order; empty: by free memory
    main_device: int = 0  # among `devices`
    n_cpu_moe: int = 0  # layers whose experts stay on the CPU, the first ones
    override_tensor: tuple[str, ...] = ()  # "pattern=CPU" or "pattern=device": where tensors of such names go
    mmap: bool = True
    mlock: bool = False
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    rope_scaling: RopeScaling = "auto"  # auto: the file's own
    yarn_orig_ctx: int | None = None  # what it was trained on before YaRN stretched it
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    pinned: bool = False  # never unloaded to make room
    memory_priority: int = 0  # never unloaded to make room for one of a lower priority
    idle_s: float | None = None  # without a request, after which it is unloaded
    when_loading: WhenLoading = "auto"  # auto: wait for what a request loads, else refuse
    max_sampling: Mapping[str, float] = field(default_factory=dict)  # what requests may ask for at most
    keep_prefixes: bool = False  # what slots hold survives an unload, in host memory or in files

    def __post_init__(self) -> None:
        path = Path(self.path)  # text is as good
        if str(path) in PACKAGED and not path.is_file():
            path = PACKAGED[str(path)]
        object.__setattr__(self, "path", path)
        if path in PACKAGED.values() and self.n_threads is None:
            # Threads that wait for each other cost so small a model more than they compute, on a busy machine far more.
            object.__setattr__(self, "n_threads", 1)
        check(self, MODEL_KINDS)
        _check_source(self)
        _check_placement(self)
        _check_most(self)
        check_together(self.adapters)
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

    @property
    def is_resolved(self) -> bool:
        """Whether it is known where its file lies."""
        return self.path != NO_PATH


def _check_source(spec: ModelSpec) -> None:
    if not spec.repo:
        if spec.path == NO_PATH:
            raise ManifestError("this model needs a path, or a repo", key="path")
        if "\0" in str(spec.path):
            raise ManifestError(f"path {str(spec.path)!r:.80} is none: no file has a NUL in its name", key="path")
        for key in ("file", "quant", "revision"):
            if getattr(spec, key):
                raise ManifestError(f"{key} belongs to a repo", key=key)
    elif not _REPO.fullmatch(spec.repo) or ".." in spec.repo:
        raise ManifestError(f'repo must be like "owner/name", not {spec.repo!r}', key="repo")
    if spec.file and spec.quant:
        raise ManifestError("give the repo's file or its quant, not both", key="quant")


def _check_placement(spec: ModelSpec) -> None:
    if spec.n_gpu_layers != "auto" and (
        not isinstance(spec.n_gpu_layers, int)
        or isinstance(spec.n_gpu_layers, bool)
        or not -1 <= spec.n_gpu_layers <= INT32
    ):
        raise ManifestError(
            f'n_gpu_layers must be between -1 and {INT32}, or "auto", not {spec.n_gpu_layers!r}', key="n_gpu_layers"
        )
    if spec.replicas != "per-gpu" and (
        not isinstance(spec.replicas, int) or isinstance(spec.replicas, bool) or not 1 <= spec.replicas <= 64
    ):
        raise ManifestError(f'replicas must be between 1 and 64, or "per-gpu", not {spec.replicas!r}', key="replicas")
    devices = spec.devices
    if devices != "auto":
        if not isinstance(devices, tuple) or not all(
            isinstance(each, str) and 0 < len(each) <= 128 for each in devices
        ):
            raise ManifestError(f'devices must be "auto" or a list of their names, not {devices!r}', key="devices")
        if not 1 <= len(devices) == len(set(devices)) <= MAX_DEVICES:
            raise ManifestError(f"devices must be 1 to {MAX_DEVICES} different ones", key="devices")
    shares = spec.tensor_split
    if shares:
        if len(shares) > MAX_DEVICES or not all(is_share(share) for share in shares) or sum(shares) <= 0:
            raise ManifestError(
                f"tensor_split must be up to {MAX_DEVICES} numbers between 0 and 1e6, not all 0", key="tensor_split"
            )
        if devices != "auto" and len(devices) != len(shares):
            raise ManifestError(f"tensor_split has {len(shares)} shares of {len(devices)} devices", key="tensor_split")
        if spec.split_mode == "none":
            raise ManifestError('tensor_split shares nothing with split_mode = "none"', key="tensor_split")
    if spec.split_mode == "tensor" and spec.kv_layout == "split":
        raise ManifestError('kv_layout = "split" does not go with split_mode = "tensor"', key="kv_layout")
    if spec.main_device and devices != "auto" and spec.main_device >= len(devices):
        raise ManifestError(f"main_device must be below {len(devices)}, the number of devices", key="main_device")
    if len(spec.override_tensor) > _N_OVERRIDES:
        raise ManifestError(f"override_tensor may hold up to {_N_OVERRIDES} patterns", key="override_tensor")
    for each in spec.override_tensor:
        if not isinstance(each, str) or not _OVERRIDE.fullmatch(each) or not is_pattern(each.partition("=")[0]):
            raise ManifestError(f'override_tensor must be like "ffn_.*_exps=CPU", not {each!r}', key="override_tensor")


def _check_most(spec: ModelSpec) -> None:
    for name, most in spec.max_sampling.items():
        if name not in LIMITED:
            raise ManifestError(f"max_sampling: `{name}` has no most; those that do are {', '.join(LIMITED)}", key=name)
        if not isinstance(most, int | float) or isinstance(most, bool) or not 0 <= most <= INT32:
            raise ManifestError(f"max_sampling: {name} must be between 0 and {INT32}, not {most!r}", key=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server listens and how long it waits. Raises ManifestError on a value out of range."""

    host: str = "127.0.0.1"
    port: int = 8080  # 0: any free one
    unix_socket: Path | None = None  # listened on instead
    api_key: str | None = field(default=None, repr=False)
    api_key_file: Path | None = None  # more keys, one a line
    cors_origins: tuple[str, ...] = ()  # whose pages may ask from a browser; "*": anybody's
    allowed_hosts: tuple[str, ...] = ()  # the server's own names, where no key is asked for; "*.example.org", "*"
    tls_cert: Path | None = None  # PEM, with the chain
    tls_key: Path | None = None  # PEM; not needed where the certificate's file holds it
    base_path: str = ""  # where a proxy shows the server, as in /llm
    forwarded_allow_ips: tuple[str, ...] = ()  # proxies whose X-Forwarded-* are believed; "*": anybody's
    drain_s: float = 30.0  # at shutdown, for answers that are under way
    ping_s: float = 15.0  # of silence in a stream before a comment line is sent
    stall_s: float = 60.0  # that a client may do nothing: leave its request unfinished, or its answer unread
    timeout_s: float | None = None  # of a request that gives none and whose model gives none
    max_body_bytes: int = 64 * 2**20
    memory_fraction: float | Mapping[str, float] = 1.0  # of each device's memory that models may take, or by device
    reserved_bytes: int | Mapping[str, int] = 0  # of each device, or by device, left to others: a display's share
    host_bytes: int | None = None  # of the CPU's memory that models may take; None: what is available
    cpu_fallback: bool = False  # serve on the CPU where the driver of a GPU fails
    max_loaded: int | None = None  # models at once
    prefix_bytes: int = 2**30  # of host memory, for the prefixes of unloaded models
    prefix_disk_bytes: int = 0  # of the cache folder, for those that memory has no room for, and at shutdown
    gpu_sample_s: float = 1.0  # between looks at the GPUs; 0: never
    n_retries: int = 2  # of a request that failed before its first token
    breaker_failures: int = 2  # in a row, after which a replica is spared
    breaker_s: float = 60.0  # for so long; then one request is the probe
    adapter_folders: tuple[Path, ...] = ()  # from which adapters may be loaded over HTTP; none: not at all

    def __post_init__(self) -> None:
        check(self, SERVER_KINDS)
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
        for name in self.allowed_hosts:
            if not isinstance(name, str) or not _HOST.fullmatch(name):
                raise ManifestError(
                    f'allowed_hosts must be names like "llm.example.org" or "*.example.org", no port; not {name!r}',
                    key="allowed_hosts",
                )
        for proxy in self.forwarded_allow_ips:
            if not is_network(proxy):
                raise ManifestError(
                    f'forwarded_allow_ips must be addresses, networks like 10.0.0.0/8, or "*"; not {proxy!r}',
                    key="forwarded_allow_ips",
                )


RESTARTED = ("host", "port", "unix_socket", "forwarded_allow_ips", "gpu_sample_s")
"""Of the server's settings, those that take a restart. So do those of TLS where it comes or goes."""


def late(running: ServerSettings, wanted: ServerSettings) -> tuple[str, ...]:
    """The settings that differ and wait for a restart: how it listens is what a server is found by."""
    names: tuple[str, ...] = RESTARTED
    if (running.tls_cert is None) != (wanted.tls_cert is None):
        names = (*names, "tls_cert", "tls_key")
    return tuple(name for name in names if getattr(running, name) != getattr(wanted, name))


def in_effect(running: ServerSettings, wanted: ServerSettings) -> ServerSettings:
    """What a server goes by from when its manifest is read again."""
    return replace(wanted, **{name: getattr(running, name) for name in late(running, wanted)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that one server serves. No two models or routes share a name or an alias; routes name models."""

    models: tuple[ModelSpec, ...] = ()
    routes: tuple[RouteSpec, ...] = ()
    server: ServerSettings = field(default_factory=ServerSettings)

    def __post_init__(self) -> None:
        owners: dict[str, str] = {}
        named: tuple[ModelSpec | RouteSpec, ...] = (*self.models, *self.routes)
        for each in named:
            for name in (each.name, *each.aliases):
                if name in owners:
                    both = f"both `{owners[name]}` and `{each.name}`" if owners[name] != each.name else "two things"
                    raise ManifestError(f"`{name}` names {both}", key="name")
                owners[name] = each.name
        known = tuple(model.name for model in self.models)
        for route in self.routes:
            for name in route.models:
                if name in known:
                    continue
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                why = "is no model" + (f"; did you mean `{nearest[0]}`?" if nearest else "")
                if (owner := owners.get(name)) is not None:
                    why = f"is an alias of `{owner}`; name that" if owner in known else "is a route, and no model"
                raise ManifestError(f"route `{route.name}` names `{name}`, which {why}", key="models")


def is_template_name(template: str) -> bool:
    """Whether a spec's `template` is a name: `chatml`, or one of those in the model's file, such as `tool_use`."""
    return bool(_TEMPLATE_NAME.fullmatch(template))


def is_template_path(template: str) -> bool:
    """Whether a spec's `template` names a file: it is neither Jinja text nor a name."""
    return bool(template) and "{" not in template and not is_template_name(template)
