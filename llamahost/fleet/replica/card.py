"""What may be told of a loaded model. Plain values; knows nobody who loads one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llamahost.core.work import Pooling
from llamahost.fleet.settings.manifest import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """`created` is the file's time, in seconds since 1970."""

    name: str
    aliases: tuple[str, ...]
    n_ctx: int  # tokens that one request may hold
    n_slots: int
    layout: str  # split or unified; empty where nothing is generated
    n_cells: int
    description: str
    n_params: int
    n_bytes: int
    architecture: str
    created: int
    task: Task = "auto"
    n_ctx_train: int = 0
    n_vocab: int = 0
    n_embd: int = 0
    has_chat_template: bool = False
    template_caps: Mapping[str, bool] = field(default_factory=dict)  # what it can say, in llama-server's words
    generates: bool = True
    fills_in: bool = False  # what stands between a text and another
    pooling: Pooling | None = None  # of its embeddings, where it has any
    n_dim: int = 0  # of an embedding
