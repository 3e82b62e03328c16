"""What the admin routes take and answer, as types: what is sent is made of them, and /openapi.json tells them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from llamahost.core.observe import Kind, Outcome
from llamahost.fleet.crew.status import State


class Told(msgspec.Struct, kw_only=True):
    """Every field is there, with null where nothing is known. Times are seconds since 1970, or say so.

    Whoever reads them passes over what he does not know: a later server may tell more.
    """


class RatesInfo(Told):
    """Measured: tokens over the last 10 seconds, requests over the last minute."""

    tokens_per_s: float
    prompt_tokens_per_s: float
    requests_per_min: int


class MemoryInfo(Told):
    """Bytes, of the weights, the KV and what is computed with; on all devices together."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    total_bytes: int


class ReplicaInfo(Told):
    """One copy of a model: `estimated` before it was loaded, `measured` after. `note` says what of it stays with the
    CPU though it is for a GPU."""

    id: str
    state: State
    reason: str
    progress: float
    is_stalled: bool
    devices: list[str]
    note: str
    estimated: MemoryInfo
    measured: MemoryInfo | None
    n_slots: int
    n_in_flight: int
    n_running: int
    n_waiting: int
    n_cells: int
    n_cells_used: int
    last_used: float | None


class ModelInfo(Told):
    """A model that this server knows. `n_pending` wait for it to be loaded, `n_waiting` for a slot; `reason` says why
    it is not ready, `load` when it is loaded. `memory_bytes` and `devices` are those of all its replicas."""

    id: str
    aliases: list[str]
    task: str
    load: Literal["start", "request", "hand"]
    state: State
    reason: str
    progress: float
    is_stalled: bool
    devices: list[str]
    memory_bytes: int
    n_ctx: int | None
    n_slots: int
    n_in_flight: int
    n_pending: int
    n_running: int
    n_waiting: int
    n_cells: int
    n_cells_used: int
    rates: RatesInfo
    last_used: float | None
    replicas: list[ReplicaInfo]


class ModelDetails(ModelInfo):
    """With what its file says, once it has been loaded."""

    architecture: str | None
    description: str | None
    n_params: int | None
    size_bytes: int | None
    n_ctx_train: int | None
    n_vocab: int | None
    capabilities: list[str]
    chat_template_caps: dict[str, bool]


class ModelsInfo(Told):
    models: list[ModelInfo]


class ReloadInfo(Told):
    """How the models are now; of [server], what changed and waits for a restart."""

    models: list[ModelInfo]
    waits_for_restart: list[str]


class LoadBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is loaded otherwise than the manifest says; kept until it is loaded otherwise again, or the manifest is read
    anew. With `wait` false the answer does not wait until the model is ready."""

    devices: list[Annotated[str, msgspec.Meta(min_length=1, max_length=128)]] | Literal["auto"] | None = None
    n_ctx: Annotated[int, msgspec.Meta(ge=8, le=2**31 - 1)] | None = None
    n_slots: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None
    n_gpu_layers: Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] | Literal["auto"] | None = None
    wait: bool = True


class UnloadBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """With `wait` false the answer does not wait for the requests that are under way."""

    wait: bool = True


class StatsInfo(Told, rename="camel"):
    """Tokens generated over the last 10 seconds and requests over the last minute, measured; requests being answered
    now, event streams among them and this one not; models that can answer."""

    tokens_per_second: float
    requests_per_minute: int
    active_connections: int
    models_loaded: int


class RequestInfo(Told):
    """A request that is over. `route` stood for its model, if one did; `error` is the class of what ended it; seconds
    as in the metrics."""

    id: str
    route: str
    model: str
    replica: str
    kind: Kind
    status: Outcome
    error: str
    n_tries: int
    n_prompt: int
    n_cached: int
    n_generated: int
    ended_at: float
    queued_s: float
    first_s: float
    generation_s: float
    total_s: float


class RequestsInfo(Told):
    requests: list[RequestInfo]


class GpuProcessInfo(Told):
    """A process that computes on a GPU."""

    pid: int
    name: str
    used_bytes: int | None


class GpuInfo(Told):
    """A GPU as its driver tells of it. Utilisations are in [0, 1]: parts of the time; `throttled_by` is what holds its
    clocks down, `trouble` why nothing can be asked of it; `broken_by` a fault of its own, after which nothing is put
    there as long as this server runs."""

    index: int
    name: str
    uuid: str
    pci_id: str
    total_bytes: int | None
    used_bytes: int | None
    free_bytes: int | None
    utilisation: float | None
    memory_utilisation: float | None
    temperature_c: int | None
    power_w: float | None
    power_limit_w: float | None
    sm_clock_mhz: int | None
    sm_clock_max_mhz: int | None
    memory_clock_mhz: int | None
    throttled_by: list[str] | None
    processes: list[GpuProcessInfo] | None
    is_lost: bool
    trouble: str
    broken_by: str


class GpusInfo(Told):
    """`trouble` says why there are none."""

    gpus: list[GpuInfo]
    driver: str
    cuda: str
    trouble: str


class LoadInfo(Told):
    """How far a replica's load is, in [0, 1]; where `replica` is empty, how far the model's file is fetched."""

    model: str
    replica: str
    fraction: float


class FaultInfo(Told):
    """Something broke on a GPU: an Xid, or with null for it the loss of the GPU."""

    index: int
    uuid: str
    pci_id: str
    xid: int | None
    told: str
    is_fatal: bool


class EndInfo(Told):
    reason: str


EventKind = Literal["models", "model", "load", "gpus", "fault", "request", "end"]
"""`models` and `gpus` come first, whole; then `models` when the manifest was read again, `model` when one changes,
`load` while one is loaded, `gpus` as they are sampled, `request` when one is over, `fault`, and `end` when the server
ends the stream."""
