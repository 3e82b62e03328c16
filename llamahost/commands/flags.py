"""The flags of `serve`: a mistake is told by the flag's own name, others' flags and commands by what does it here.

Knows spellings; reads no value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer.core

from llamahost.commands.exits import USAGE, fail
from llamahost.core.errors import InvalidRequest, ManifestError

OTHERWISE = {
    "n_slots": "slots",
    "n_threads": "threads",
    "n_gpu_layers": "gpu-layers",
    "timeout_s": "timeout",
    "drain_s": "drain",
    "cors_origins": "cors-origin",
    "allowed_hosts": "allowed-host",
    "adapters": "lora",
    "aliases": "alias",
    "name": "alias",
}
"""Keys of the manifest whose flags are not spelled as they are."""

MODEL = "MODEL"
_KEYS = {
    MODEL: "-m --model -hf -hfr --hf-repo --model-path",
    "--n-ctx": "-c --ctx-size --max-model-len --context-length",
    "--slots": "-np --parallel --max-num-seqs",
    "--threads": "-t",
    "--gpu-layers": "-ngl --n-gpu-layers --num-gpu",
    "--alias": "-a --served-model-name",
    "--template": "--chat-template --chat-template-file",
    "--lora": "--lora-scaled --lora-modules",
    "--embeddings": "--embedding",
    "--manifest": "--config --models-preset",
    "--tls-cert": "--ssl-cert-file --ssl-certfile",
    "--tls-key": "--ssl-key-file --ssl-keyfile",
    "--base-path": "--api-prefix --root-path",
    "--cors-origin": "--allowed-origins",
    "--timeout": "-to",
    "--log-level": "-v --verbose -lv --log-verbosity",
    "n_batch": "-b --batch-size --max-num-batched-tokens",
    "n_ubatch": "-ub --ubatch-size",
    "kv_type_k": "-ctk --cache-type-k --kv-cache-dtype",
    "kv_type_v": "-ctv --cache-type-v",
    "kv_layout": "-kvu --kv-unified",
    "flash_attention": "-fa --flash-attn",
    "mmap": "--no-mmap",
    "mlock": "--mlock",
    "devices": "-dev --device",
    "tensor_split": "-ts --tensor-split --tensor-parallel-size",
    "split_mode": "-sm --split-mode",
    "main_device": "-mg --main-gpu",
    "n_cpu_moe": "-ncmoe --n-cpu-moe -cmoe --cpu-moe",
    "override_tensor": "-ot --override-tensor",
    "rope_scaling": "--rope-scaling",
    "rope_freq_base": "--rope-freq-base",
    "rope_freq_scale": "--rope-freq-scale --rope-scale",
    "sampling": "--temp --temperature --top-k --top-p --min-p --repeat-penalty",
    "memory_fraction": "--gpu-memory-utilization",
    "max_loaded": "--models-max",
}
PEERS = {spelling: ours for ours, spellings in _KEYS.items() for spelling in spellings.split()}
"""Flags of llama-server and vLLM, and what does it here: MODEL, a flag, or a key of the manifest."""

_OF_SERVER = ("memory_fraction", "max_loaded")


_COMMANDS = {
    "help": "--help",
    "version": "--version",
    **dict.fromkeys(("start", "server", "up"), "serve"),
    **dict.fromkeys(("generate", "complete", "cli"), "run"),
    **dict.fromkeys(("download", "fetch", "get", "add"), "pull"),
    **dict.fromkeys(("delete", "remove"), "rm"),
    **dict.fromkeys(("info", "inspect"), "show"),
    **dict.fromkeys(("stop", "eject"), "unload"),
    "status": "ps",
    "doctor": "check",
    "benchmark": "bench",
}
"""Words that are no commands, and the commands that do it."""


class Serve(typer.core.TyperCommand):
    """`serve`, which knows what others call its flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if told := advice(args):
            fail(USAGE, told)
        return super().parse_args(ctx, args)


class Commands(typer.core.TyperGroup):
    """All of them, and what others call them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0] if args else ""
        if word not in self.commands and not ctx.resilient_parsing:  # a shell that completes it is told nothing
            if word.lower() in _COMMANDS:
                fail(USAGE, f"there is no command {word}: it is `llamahost {_COMMANDS[word.lower()]}` here")
            if word.lower().endswith(".gguf") or "/" in word:
                fail(USAGE, f"{word} is no command; `llamahost serve {word}` serves it")
        return super().resolve_command(ctx, args)


def advice(args: Sequence[str]) -> str:
    """What stands here for the first flag of another server; empty where there is none."""
    for arg in args:
        spelling = arg.partition("=")[0]
        ours = PEERS.get(spelling)
        if ours == MODEL:
            return f"there is no {spelling}: the model stands without a flag, as in `llamahost serve {MODEL}`"
        if ours == "sampling":
            return f"there is no {spelling}: requests say it, or [models.sampling] in the manifest"
        if ours is not None and ours.startswith("--"):
            return f"there is no {spelling}: it is {ours} here"
        if ours is not None:
            place = "[server]" if ours in _OF_SERVER else "the model"
            return f"there is no {spelling}: it is the key {ours} of {place} in model_manifest.toml"
    return ""


def named(error: ManifestError, given: Collection[str]) -> str | None:
    """What is wrong, in the words of the flag, or its variable, that gave the value; None where no flag did."""
    if error.key not in given:
        return None
    flag = f"--{OTHERWISE.get(error.key, error.key).replace('_', '-')}"
    return str(error).replace(error.key, flag, 1)


@contextmanager
def given_by_flags(*given: Collection[str]) -> Iterator[None]:
    """Inside, a wrong value of one of these keys is wrong usage, and no mistake of the manifest."""
    try:
        yield
    except ManifestError as error:
        told = named(error, [key for each in given for key in each])
        if told is None:
            raise
        raise InvalidRequest(told) from error
