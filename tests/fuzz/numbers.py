"""Every number that a user can give, and what may be given: the table that the fuzz of what reaches C goes by.

Said here once more than in the code, and by hand, so that a range that changes there by mistake is seen. `test_tables`
holds it to the types: a new number without a row fails.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

INT32, INT64 = 2**31 - 1, 2**63 - 1


@dataclass(frozen=True)
class Range:
    """What is taken; `but` are values of it that are refused all the same, `perhaps` those that depend on more."""

    low: float
    high: float
    but: tuple[float, ...] = ()
    perhaps: tuple[float, ...] = ()
    form: str = "{}"  # how the value stands in JSON
    is_whole: bool = False  # whether the field takes whole numbers alone

    def takes(self, value: float) -> bool | None:
        if value in self.perhaps:
            return None
        return self.low <= value <= self.high and value not in self.but


INTS: tuple[int, ...] = (
    *(0, 1, -1, 2, 20, 127, 128, 129, 511, 512, 2**15, 2**16, INT32, 2**31, -(2**31), -(2**31) - 1),
    *(2**32 - 1, 2**32, 2**32 + 1, 2**32 + 20, 2**53 + 1, INT64, 2**63, -(2**63), -(2**63) - 1, 2**64),
    *(2**64 + 20, 10**30),
)
FLOATS: tuple[float, ...] = (
    *(0.0, -0.0, 5e-324, -5e-324, 1e-45, 1e-38, 1e-7, 1e-6, 0.25, 0.5, 1.0, 1.0000001, 2.0, -1.0, -2.0),
    *(1e4, 1.0001e4, -1e4, 1e6, 1.1e6, 3.4e38, 3.5e38, -3.5e38, 1e308, -1e308, math.inf, -math.inf, math.nan),
)

SAMPLING = {
    "temperature": Range(0.0, 1e4),
    "dynatemp_range": Range(0.0, 1e4),
    "dynatemp_exponent": Range(0.0, 1e4),
    "top_k": Range(-1, INT32),
    "top_p": Range(0.0, 1.0),
    "min_p": Range(0.0, 1.0),
    "typical_p": Range(0.0, 1.0),
    "top_n_sigma": Range(-1.0, 1e4),
    "xtc_probability": Range(0.0, 1.0),
    "xtc_threshold": Range(0.0, 1.0),
    "mirostat": Range(0, 2),
    "mirostat_tau": Range(0.0, 1e4),
    "mirostat_eta": Range(0.0, 1e4),
    "dry_multiplier": Range(0.0, 1e4),
    "dry_base": Range(0.0, 1e4),
    "dry_allowed_length": Range(0, INT32),
    "dry_penalty_last_n": Range(-1, INT32),
    "repeat_last_n": Range(-1, INT32),
    "repeat_penalty": Range(1e-6, 1e4),
    "presence_penalty": Range(-1e4, 1e4),
    "frequency_penalty": Range(-1e4, 1e4),
    "min_keep": Range(0, INT32),
}
ELSEWHERE = {"seed": Range(0, 2**32 - 1), "logit_bias": Range(-math.inf, 1e6)}
"""Sampling's own, which the routes spell otherwise."""

BIASES = Range(-math.inf, 1e6, form='{{"20": {}}}')
"""The other number of `logit_bias`."""

GENERATION = {
    "max_tokens": Range(0, INT32),
    "n": Range(1, 128),
    "n_logprobs": Range(0, 20),
    "timeout_s": Range(5e-324, math.nextafter(1e9, 0)),
    "line_limit_s": Range(5e-324, math.nextafter(1e9, 0)),
    "least_indent": Range(0, INT32),
    "priority": Range(-math.inf, math.inf),  # compared, and never handed to C
    "stop_ids": Range(-math.inf, math.inf),  # known by the preparer alone, as the vocabulary is
}

LIMIT = Range(-1, INT32, perhaps=(0,))  # of an answer that has no token, only an echo can be made
BODY = {
    **SAMPLING,
    "seed": Range(-(2**63), INT64),
    "n": Range(1, 128),
    "max_tokens": LIMIT,
    "max_completion_tokens": LIMIT,
    "n_predict": LIMIT,
    "logit_bias": Range(0, 511, form='{{"{}": 1.5}}'),
    "timeout": Range(5e-324, math.nextafter(1e9, 0)),
    "priority": Range(-INT32, INT32, is_whole=True),
    "n_probs": Range(-(2**63), 20),
    "t_max_predict_ms": Range(-(2**63), 10**12 - 1),
    "n_indent": Range(0, INT32),
}
BUDGETS = ("reasoning_budget_tokens", "thinking_budget_tokens", "thinking_budget")
CHAT_BODY = {**BODY, "top_logprobs": Range(0, 20), **dict.fromkeys(BUDGETS, Range(-1, INT32))}
COMPLETION_BODY = {
    **BODY,
    **dict.fromkeys(BUDGETS, Range(-1, -1)),  # without end, as everything there is
    "logprobs": Range(0, 20),
    "best_of": Range(1, 128),
    "prompt": Range(0, 511, form="[20, {}]"),
}

OF_LORA = {"lora.id": Range(0, INT64), "lora.scale": Range(-100.0, 100.0)}
"""Within a list; what is beyond is refused in tests/test_adapters."""

SPEC = {
    "n_ctx": Range(8, INT32),
    "n_slots": Range(1, 256),
    "n_cells": Range(8, INT32),
    "n_batch": Range(1, 2**20),
    "n_ubatch": Range(1, 2**20),
    "n_gpu_layers": Range(-1, INT32, is_whole=True),
    "n_threads": Range(1, 512),
    "max_queue": Range(0, 10**6),
    "timeout_s": Range(1e-3, 1e9),
    "target_step_s": Range(1e-3, 60.0),
    "replicas": Range(1, 64, is_whole=True),
    "tensor_split": Range(5e-324, 1e6),
    "main_device": Range(0, 15, is_whole=True),
    "n_cpu_moe": Range(0, 4096),
    "rope_freq_base": Range(1.0, 1e12),
    "rope_freq_scale": Range(1e-4, 1e4),
    "yarn_orig_ctx": Range(1, INT32, is_whole=True),
    **dict.fromkeys(("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"), Range(0.0, 1e6)),
    "memory_priority": Range(-1000, 1000, is_whole=True),
    "idle_s": Range(1.0, 1e9),
}
EMBEDDINGS_BODY = {"dimensions": Range(1, INT32, is_whole=True), "timeout": Range(5e-324, 1e9, but=(1e9,))}
RERANK_BODY = {"top_n": Range(1, INT32, is_whole=True), "timeout": Range(5e-324, 1e9, but=(1e9,))}
EMBED_OPTIONS = {"n_ctx": Range(1, 2**20), "n_batch": Range(1, 2**20), "n_threads": Range(0, 512)}
SERVER = {
    "port": Range(0, 65535),
    "drain_s": Range(0.0, 86400.0),
    "ping_s": Range(0.1, 86400.0),
    "stall_s": Range(0.1, 86400.0),
    "timeout_s": Range(1e-3, 1e9),
    "max_body_bytes": Range(1024, 2**40),
    "memory_fraction": Range(0.01, 1.0),
    "reserved_bytes": Range(0, 2**50, is_whole=True),
    "host_bytes": Range(2**20, 2**50, is_whole=True),
    "max_loaded": Range(1, 1000),
    "prefix_bytes": Range(0, 2**50, is_whole=True),
    "prefix_disk_bytes": Range(0, 2**50, is_whole=True),
    "gpu_sample_s": Range(0.0, 86400.0),
    "n_retries": Range(0, 10, is_whole=True),
    "breaker_failures": Range(1, 1000, is_whole=True),
    "breaker_s": Range(0, 86400),
}


def numbers_of(kind: type) -> set[str]:
    """The fields of a struct or dataclass that hold a number somewhere, by their paths."""
    return {f"{name}{path}" for name, hint in fields_of(kind) for path in _within(hint)}


def fields_of(kind: type) -> Iterator[tuple[str, Any]]:
    """Each field's name and type, of either sort."""
    hints = typing.get_type_hints(kind)
    names = kind.__struct_fields__ if issubclass(kind, msgspec.Struct) else kind.__dataclass_fields__  # type: ignore[attr-defined] # one of both
    for name in names:
        yield name, hints[name]


def _within(hint: Any) -> set[str]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return {f".{path}" for path in numbers_of(hint)}
    if hint in (int, float):
        return {""}
    if typing.get_origin(hint) in (typing.Union, types.UnionType, list, tuple, dict):
        return {path for part in typing.get_args(hint) for path in _within(part)}
    return set()


CALLS = {
    # tokens: known to the preparer, else refused by llama_decode, by decode() and by rows
    "token_to_piece": "ids of the vocabulary, counted here",
    "llama_token_to_piece": "ids of the vocabulary, counted here",
    "vocab_get_attr": "ids of the vocabulary, counted here",
    "vocab_is_eog": "ids of the vocabulary, counted here",
    "llama_vocab_get_text": "ids of the vocabulary, counted here",
    "sampler_accept": "sampled, or of the prompt and within the vocabulary",
    "llama_decode": "a batch that check_spans has seen, or LlamaEmbedder._check",
    "llama_encode": "a batch that LlamaEmbedder._check has seen",
    "llama_get_embeddings_seq": "the sequences of the batch, counted here",
    "llama_get_embeddings_ith": "the rows of the batch, counted here",
    "llama_batch": "the batch's own arrays",
    # slots and positions: LlamaBackend's _check_slot and _can_hold, tests/native/test_limits
    "llama_memory_seq_cp": "checked slots",
    "llama_memory_seq_rm": "checked slots",
    "llama_memory_seq_pos_max": "checked slots",
    "llama_state_seq_get_size": "checked slots",
    "llama_state_seq_get_data": "checked slots",
    "llama_state_seq_set_data": "checked slots",
    # samplers: core.sampling.Sampling, SAMPLING above
    "sampler_init_dist": "seed",
    "sampler_init_dry": "dry_*",
    "sampler_init_min_p": "min_p, min_keep",
    "sampler_init_mirostat": "mirostat_*, seed",
    "sampler_init_mirostat_v2": "mirostat_*, seed",
    "sampler_init_penalties": "repeat_last_n and penalties",
    "sampler_init_temp": "temperature",
    "sampler_init_temp_ext": "temperature, dynatemp_*",
    "sampler_init_top_k": "top_k",
    "sampler_init_top_n_sigma": "top_n_sigma",
    "sampler_init_top_p": "top_p, min_keep",
    "sampler_init_typical": "typical_p, min_keep",
    "sampler_init_xtc": "xtc_*, min_keep, seed",
    # models and contexts: fleet.manifest.ModelSpec and ContextOptions, SPEC above
    "llama_model_load_from_file": "n_gpu_layers, tensor_split, main_device; native.offload.ModelOptions",
    "llama_init_from_model": "n_ctx, n_slots, n_batch, n_ubatch, n_threads, rope_freq_*, yarn_*",
    # adapters: fleet.adapters, OF_LORA above
    "llama_set_adapters_lora": "scales, as 32 bits",
    # text: a length below 2**31
    "tokenize": "lengths, checked",
    "llama_tokenize": "handed to llguidance, which calls it with lengths of its own",
}
"""Calls into C that are handed a number which comes, by however many hands, from outside; and which number it is."""

NUMBERLESS = frozenset(
    (
        *("get_logits", "llama_backend_init", "llama_context_default_params", "llama_free", "llama_get_memory"),
        *("llama_log_callback", "llama_log_set", "llama_memory_clear", "llama_model_chat_template"),
        *("llama_model_default_params", "llama_model_desc", "llama_model_free", "llama_model_get_vocab"),
        *("llama_model_has_decoder", "llama_model_has_encoder"),
        *("llama_model_is_recurrent", "llama_model_meta_count", "llama_model_meta_key_by_index"),
        *("llama_model_meta_val_str_by_index", "llama_model_n_ctx_train", "llama_model_n_embd"),
        *("llama_model_n_layer", "llama_model_n_params", "llama_model_n_swa", "llama_model_size", "llama_n_batch"),
        *("llama_n_ctx_seq", "llama_max_devices", "llama_print_system_info", "llama_progress_callback"),
        *(
            "llama_token",
            "llama_sampler_chain_default_params",
            "llama_sampler_chain_init",
            "llama_supports_gpu_offload",
        ),
        *(
            "llama_synchronize",
            "llama_version",
            "llama_vocab_bos",
            "llama_vocab_eos",
            "llama_vocab_eot",
            "llama_vocab_fim_mid",
            "llama_vocab_fim_pre",
            "llama_vocab_fim_suf",
            "llama_vocab_get_add_bos",
        ),
        *(
            "llama_vocab_get_suppress_tokens",
            "llama_vocab_n_tokens",
            "llama_vocab_type",
            "sampler_apply",
            "sampler_chain_add",
        ),
        *(
            "sampler_init_infill",
            "sampler_clone",
            "sampler_free",
            "llama_model_n_cls_out",
            "llama_model_n_embd_out",
            "llama_pooling_type",
        ),
        *("llama_vocab_get_add_eos", "llama_vocab_get_add_sep", "llama_vocab_sep"),
        *("llama_vocab_fim_pre", "llama_vocab_fim_mid", "llama_vocab_fim_suf"),
        *("llama_vocab_fim_rep", "llama_vocab_fim_sep"),
        *("llama_adapter_lora_init", "llama_adapter_lora_free"),
    )
)
"""Calls that are handed pointers and flags, or counts that C itself has told."""
