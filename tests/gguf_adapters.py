"""Make tiny random LoRA adapters for the models of `gguf_models`. Knows their sizes; nothing of llamahost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

N_EMBD, N_FF, N_LAYER, N_VOCAB = 64, 128, 2, 512
SHAPES = {"attn_q": (N_EMBD, N_EMBD), "attn_output": (N_EMBD, N_EMBD), "ffn_down": (N_EMBD, N_FF)}
"""Rows and columns of what is changed in each layer."""

Tensors = dict[str, "np.typing.NDArray[Any]"]


def tensors_of(seed: int = 1, *, rank: int = 4, scale: float = 1.0) -> Tensors:
    """As many pairs as a small adapter has; large enough to change what the model says."""
    random = np.random.default_rng(seed)
    made: Tensors = {}
    for layer in range(N_LAYER):
        for name, (n_out, n_in) in SHAPES.items():
            of = f"blk.{layer}.{name}.weight"
            made[f"{of}.lora_a"] = random.standard_normal((rank, n_in), dtype=np.float32) * np.float32(
                scale / np.sqrt(n_in)
            )
            made[f"{of}.lora_b"] = random.standard_normal((n_out, rank), dtype=np.float32) * np.float32(
                2.0 / np.sqrt(rank)
            )
    return made


def write_adapter(
    path: Path,
    seed: int = 1,
    *,
    tensors: Tensors | None = None,
    keys: Mapping[str, Any] | None = None,
    architecture: str = "llama",
    alpha: float = 4.0,
) -> Path:
    """A GGUF file. `keys` stand in place of those of their name: text, a number of 32 bits, or (value, GGUF's type)."""
    writer = gguf.GGUFWriter(path, architecture)
    values: dict[str, Any] = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": alpha}
    if keys and "general.architecture" in keys:
        writer.kv_data[0].pop("general.architecture")
    for key, value in (values | dict(keys or {})).items():
        if isinstance(value, tuple):
            writer.add_key_value(key, *value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_float32(key, value)
    for name, data in (tensors_of(seed) if tensors is None else tensors).items():
        writer.add_tensor(name, np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
