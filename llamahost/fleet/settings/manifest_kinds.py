"""Of which type and in which range each key of the manifest is. What keys mean together, `manifest` says."""

from __future__ import annotations

from pathlib import Path

from llamahost.fleet.settings.ranges import Kind

INT32 = 2**31 - 1
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
MAX_DEVICES = 16
"""llama_max_devices() of the builds there are."""

MODEL_KINDS = {
    "name": Kind(str),
    "path": Kind(Path),
    "aliases": Kind(tuple),
    "n_ctx": Kind(int, 8, INT32, is_optional=True),
    "n_slots": Kind(int, 1, 256, is_optional=True),  # llama.cpp knows 256 sequences
    "kv_layout": Kind(str, choices=("auto", "split", "unified")),
    "n_cells": Kind(int, 8, INT32, is_optional=True),
    "kv_type_k": Kind(str, choices=KV_TYPES),
    "kv_type_v": Kind(str, choices=KV_TYPES),
    "n_batch": Kind(int, 1, 2**20),
    "n_ubatch": Kind(int, 1, 2**20),
    "flash_attention": Kind(str, choices=("auto", "on", "off")),
    "n_threads": Kind(int, 1, 512, is_optional=True),  # ggml's own bound
    "swa_full": Kind(bool),
    "template": Kind(str),
    "sampling": Kind(dict),
    "adapters": Kind(tuple),
    "embeddings": Kind(bool),
    "pooling": Kind(str, choices=("auto", "none", "mean", "cls", "last", "rank")),
    "query_prefix": Kind(str),
    "document_prefix": Kind(str),
    "max_queue": Kind(int, 0, 10**6),
    "timeout_s": Kind(float, 1e-3, 1e9, is_optional=True),
    "target_step_s": Kind(float, 1e-3, 60.0),
    "repo": Kind(str),
    "file": Kind(str),
    "quant": Kind(str),
    "revision": Kind(str),
    "task": Kind(str, choices=("auto", "chat", "completion", "embedding", "rerank")),
    "load": Kind(str, choices=("start", "request", "hand")),
    "split_mode": Kind(str, choices=("none", "layer", "row", "tensor")),
    "tensor_split": Kind(tuple),
    "main_device": Kind(int, 0, MAX_DEVICES - 1),
    "n_cpu_moe": Kind(int, 0, 4096),
    "override_tensor": Kind(tuple),
    "mmap": Kind(bool),
    "mlock": Kind(bool),
    "rope_freq_base": Kind(float, 1.0, 1e12, is_optional=True),
    "rope_freq_scale": Kind(float, 1e-4, 1e4, is_optional=True),
    "rope_scaling": Kind(str, choices=("auto", "none", "linear", "yarn", "longrope")),
    "yarn_orig_ctx": Kind(int, 1, INT32, is_optional=True),
    "yarn_ext_factor": Kind(float, 0.0, 1e6, is_optional=True),
    "yarn_attn_factor": Kind(float, 0.0, 1e6, is_optional=True),
    "yarn_beta_fast": Kind(float, 0.0, 1e6, is_optional=True),
    "yarn_beta_slow": Kind(float, 0.0, 1e6, is_optional=True),
    "pinned": Kind(bool),
    "memory_priority": Kind(int, -1000, 1000),
    "idle_s": Kind(float, 1.0, 1e9, is_optional=True),
    "when_loading": Kind(str, choices=("auto", "wait", "refuse")),
    "max_sampling": Kind(dict),
    "keep_prefixes": Kind(bool),
}

SERVER_KINDS = {
    "host": Kind(str),
    "port": Kind(int, 0, 65535),
    "unix_socket": Kind(Path, is_optional=True),
    "api_key": Kind(str, is_optional=True),
    "api_key_file": Kind(Path, is_optional=True),
    "cors_origins": Kind(tuple),
    "allowed_hosts": Kind(tuple),
    "tls_cert": Kind(Path, is_optional=True),
    "tls_key": Kind(Path, is_optional=True),
    "base_path": Kind(str),
    "forwarded_allow_ips": Kind(tuple),
    "drain_s": Kind(float, 0.0, 86400.0),
    "ping_s": Kind(float, 0.1, 86400.0),
    "stall_s": Kind(float, 0.1, 86400.0),
    "gpu_sample_s": Kind(float, 0.0, 86400.0),
    "timeout_s": Kind(float, 1e-3, 1e9, is_optional=True),
    "max_body_bytes": Kind(int, 1024, 2**40),
    "memory_fraction": Kind(float, 0.01, 1.0, is_by_device=True),
    "reserved_bytes": Kind(int, 0, 2**50, is_by_device=True),
    "host_bytes": Kind(int, 2**20, 2**50, is_optional=True),
    "cpu_fallback": Kind(bool),
    "max_loaded": Kind(int, 1, 1000, is_optional=True),
    "n_retries": Kind(int, 0, 10),
    "breaker_failures": Kind(int, 1, 1000),
    "breaker_s": Kind(float, 0.0, 86400.0),
    "prefix_bytes": Kind(int, 0, 2**50),
    "prefix_disk_bytes": Kind(int, 0, 2**50),
    "adapter_folders": Kind(tuple),
}
