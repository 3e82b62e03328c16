"""Compose what a replica needs from a spec and a machine: model, backend, preparer, card. The one place that knows
text, native and engine's sizes together. Blocking; runs in a load thread and closes whatever it opened if it fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from llamahost.core.errors import InvalidRequest, LoadFailed, NoMemory
from llamahost.core.machine import Machine
from llamahost.core.sampling import SAMPLER_NAMES, Sampling, SamplingOptions
from llamahost.core.sizes import bytes_told
from llamahost.fleet.machine.facts import check, generates, task_of
from llamahost.fleet.machine.fit import DEFAULT_N_CTX, LEAST_N_CTX, Facts, Shape, shapes
from llamahost.fleet.machine.footprint import Footprint
from llamahost.fleet.machine.located import located
from llamahost.fleet.machine.scratch import of_scores
from llamahost.fleet.memory.residents import Measured
from llamahost.fleet.replica.card import ModelCard
from llamahost.fleet.replica.templates import given_source, template_of
from llamahost.fleet.request.inputs import Inputs
from llamahost.fleet.request.known import spelling
from llamahost.fleet.request.prepared import Prepared
from llamahost.fleet.request.preparer import Preparer
from llamahost.fleet.settings.builtin import verify
from llamahost.fleet.settings.manifest import ModelSpec
from llamahost.native.backend import LlamaBackend
from llamahost.native.context import ContextOptions, kv_bytes_per_token
from llamahost.native.cuts import cuts_in
from llamahost.native.embed import EmbedOptions, LlamaEmbedder
from llamahost.native.gguf import GgufHeader, read_metadata
from llamahost.native.model import Model
from llamahost.native.offload import ModelOptions, owners
from llamahost.text.remembered import Remembered
from llamahost.text.template import CHATML, Template

__all__ = ["Loaded", "ModelCard", "Prepared", "Preparer", "load"]

logger = logging.getLogger("llamahost.fleet")

Inspect = Callable[[Path, Callable[[], None]], None]
"""Whether a file may be opened in this process; the second is called while that is found out. See `machine/inspect`."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to be attached to a worker, which owns the backend from then on."""

    spec: ModelSpec
    model: Model
    backend: LlamaBackend | None
    embedder: LlamaEmbedder | None
    preparer: Preparer
    inputs: Inputs
    card: ModelCard
    adapter_ids: tuple[int, ...] = ()

    def measured(self, devices: tuple[str, ...]) -> Measured:
        """What llama.cpp's log says that it allocated on each; what lies in the host's memory is the CPU's."""
        whole: dict[str, int] = {"model": self.model.n_bytes}
        taken: dict[str, int] = {}
        host = devices[0] if devices[0].startswith("cpu") else "cpu"

        def take(buffer: str, n_bytes: int) -> None:
            for owner in owners(buffer, devices) or (host,):
                taken[owner] = taken.get(owner, 0) + n_bytes

        for context in (self.backend, self.embedder):
            for (device, what), n_bytes in (context.buffers if context is not None else {}).items():
                whole[what] = whole.get(what, 0) + n_bytes
                take(device, n_bytes)
        backend = self.backend
        if backend is not None and self.model.is_on_device and not backend.has_flash_attention:
            n_kv, n_head = backend.n_cells, self.model.header.number("attention.head_count")
            scratch = of_scores(n_kv if backend.is_unified else backend.n_ctx, n_head, self.spec.n_ubatch)
            for device in devices:  # which a long prompt will want of each; no part of what is told of the model
                take(device, scratch)
        for device, n_bytes in self.model.adapters.taken.items():  # as it is now; no part of the model's own footprint
            take(device, n_bytes)
        weights = {name: n for name, n in self.model.weights.items() if owners(name, devices)}
        for buffer, n_bytes in weights.items():
            take(buffer, n_bytes)
        # Once: what was repacked need not stay in the file's pages. Of what is wholly on devices the table of tokens
        # alone is left, of whose pages few are read.
        if host in devices or not self.is_whole:
            taken[host] = taken.get(host, 0) + max(0, self.model.n_bytes - sum(weights.values()))
        return Measured(
            bytes=taken,
            footprint=Footprint(
                weights_bytes=whole["model"],
                kv_bytes=whole.get("kv", 0) + whole.get("rs", 0),
                compute_bytes=whole.get("compute", 0) + whole.get("output", 0),
            ),
        )

    @property
    def is_whole(self) -> bool:
        """Whether all of it is for devices."""
        n, spec = self.spec.n_gpu_layers, self.spec
        is_all = n == "auto" or n < 0 or n > self.model.n_layer
        return self.model.is_on_device and is_all and not spec.n_cpu_moe and not spec.override_tensor

    def close(self) -> None:
        """Free the contexts, then the model; nothing of them may be in use. Idempotent."""
        for context in (self.backend, self.embedder):
            if context is not None:
                context.close()
        self.model.close()


def load(
    spec: ModelSpec,
    machine: Machine,
    on_progress: Callable[[float], None] | None = None,
    *,
    inspect: Inspect | None = None,
) -> Loaded:
    """Open the model and a context that fits what the process is given. Raises LoadFailed.

    `inspect` is asked before C sees the file, and raises LoadFailed where it must not.
    """
    spec = located(spec)
    for path in (spec.path, *(adapter.path for adapter in spec.adapters)):
        verify(path)
    header = read_metadata(spec.path)
    check(spec, header)
    if inspect is not None:
        inspect(spec.path, lambda: on_progress(0.0) if on_progress else None)
    source = given_source(spec)
    is_generating = generates(spec, header)
    with ExitStack() as undo:  # of whatever was opened, the last first
        model = Model.open(spec.path, header=header, options=_model_options(spec, header), on_progress=on_progress)
        undo.callback(model.close)
        if is_generating:
            model.grammars.prepare()  # while the context is made
        backend, shape = _open_backend(spec, model, machine) if is_generating else (None, None)
        if backend is not None:
            undo.callback(backend.close)
        embedder = _open_embedder(spec, model, machine, shape) if spec.embeddings or not is_generating else None
        if embedder is not None:
            undo.callback(embedder.close)
        if spec.adapters and backend is None:
            raise LoadFailed(f"{spec.path} generates no text, which its adapters are for")
        adapter_ids = tuple(model.adapters.open(adapter.path) for adapter in spec.adapters)
        loaded = replace(_composed(spec, model, backend, embedder, shape, source), adapter_ids=adapter_ids)
        undo.pop_all()
        if loaded.is_whole and backend is not None and backend.n_splits > model.n_layer:
            logger.warning(
                "%s: a step goes %d times between the GPU and the CPU, and is slow: there is no kernel for what every "
                "layer does; other KV types, or another flash_attention, may have one",
                *(spec.name, backend.n_splits),
            )
        return loaded


def _composed(
    spec: ModelSpec,
    model: Model,
    backend: LlamaBackend | None,
    embedder: LlamaEmbedder | None,
    shape: Shape | None,
    source: str,
) -> Loaded:
    template, complaint = template_of(spec, model, source) if backend is not None else (None, "")
    # llama.cpp rounds up; one request holds no more than was said
    n_ctx = min(shape.n_ctx, backend.n_ctx) if shape is not None and backend is not None else 0
    preparer = Preparer(
        model=spec.name,
        n_ctx=n_ctx,
        vocabulary=_remembered(model, template),
        template=template,
        template_error=complaint,
        defaults=_defaults(spec.name, model.metadata),
        compiles=model.grammars.compile,
    ).with_sampling(spec.sampling, spec.max_sampling)
    inputs = Inputs(
        model=spec.name,
        n_ctx=embedder.n_ctx if embedder is not None else 0,
        vocabulary=model.vocab,
        query_prefix=spec.query_prefix,
        document_prefix=spec.document_prefix,
        marks=model.vocab.pair_marks(),
        rerank_template=model.chat_template("rerank") or "",
    )
    card = _card(spec, model, backend, embedder, template, n_ctx=n_ctx or inputs.n_ctx)
    _log(card, backend, embedder)
    return Loaded(spec, model, backend, embedder, preparer, inputs, card)


def _card(
    spec: ModelSpec,
    model: Model,
    backend: LlamaBackend | None,
    embedder: LlamaEmbedder | None,
    template: Template | None,
    *,
    n_ctx: int,
) -> ModelCard:
    return ModelCard(
        name=spec.name,
        aliases=spec.aliases,
        n_ctx=n_ctx,
        n_slots=backend.n_slots if backend is not None else embedder.n_inputs if embedder is not None else 0,
        layout="" if backend is None else "unified" if backend.is_unified else "split",
        n_cells=backend.n_cells if backend is not None else 0,
        description=model.description,
        n_params=model.n_params,
        n_bytes=model.n_bytes,
        architecture=model.architecture,
        created=int(spec.path.stat().st_mtime),
        task=task_of(spec, model.header),
        n_ctx_train=model.n_ctx_train,
        n_vocab=model.vocab.n_tokens,
        n_embd=model.n_embd,
        has_chat_template=template is not None and template.source is not CHATML,
        template_caps=template.chosen(has_tools=True).facts.caps() if template is not None else {},
        generates=backend is not None,
        fills_in=backend is not None and model.vocab.fim_ids is not None,
        pooling=embedder.pooling if embedder is not None else None,
        n_dim=embedder.n_dim if embedder is not None else 0,
    )


def _log(card: ModelCard, backend: LlamaBackend | None, embedder: LlamaEmbedder | None) -> None:
    if backend is not None:
        logger.info(
            "%s: %s, %d %s of %d tokens, %s KV of %d cells",
            *(card.name, card.description, card.n_slots, "slot" if card.n_slots == 1 else "slots", card.n_ctx),
            *(card.layout, card.n_cells),
        )
    if embedder is not None:
        logger.info(
            "%s: embeds inputs of up to %d tokens into %d dimensions by pooling `%s`",
            *(card.name, embedder.n_ctx, embedder.n_dim, embedder.pooling),
        )


def _remembered(model: Model, template: Template | None) -> Remembered:
    """The vocabulary, with prompts cut where the template puts control tokens."""
    vocab = model.vocab
    spelled = [spelling(vocab, token) for token in (*sorted(vocab.end_ids), vocab.bos)]
    sources = [each.source for each in (template, template.tool_use if template else None) if each]
    text = " ".join([*sources, *spelled])
    return Remembered(vocab, cuts_in(text, model.library, vocab.pointer, vocab.n_tokens))


def _open_backend(spec: ModelSpec, model: Model, machine: Machine) -> tuple[LlamaBackend, Shape]:
    """A context of the first shape that the device has room for. Raises LoadFailed."""
    if model.has_encoder:
        raise LoadFailed(f"{spec.path} ({model.architecture}) has an encoder; this version serves decoders only")
    if spec.n_ctx:
        model.check_positions(spec.n_ctx)
    if spec.n_ctx and model.n_ctx_train and spec.n_ctx > model.n_ctx_train:
        logger.warning("%s: n_ctx %d is above the %d it was trained on", spec.name, spec.n_ctx, model.n_ctx_train)
    is_on_host = spec.n_gpu_layers == 0 or not model.library.has_gpu
    facts = Facts(
        n_ctx_train=model.n_ctx_train,
        cell_bytes=kv_bytes_per_token(model.header, spec.kv_type_k, spec.kv_type_v),
        weight_bytes=model.n_bytes if is_on_host else 0,
    )
    failure: LoadFailed | None = None
    for shape in shapes(spec, facts, machine.available_bytes):
        if failure is not None:
            logger.warning("%s: %s; trying n_slots %d and n_cells %d", spec.name, failure, shape.n_slots, shape.n_cells)
        kv_bytes = int(shape.n_cells * facts.cell_bytes)
        left = max(0, machine.available_bytes - model.n_bytes_copied)  # the machine was read before the weights were
        if is_on_host and kv_bytes > left:
            # Not tried: the system grants it, and ends the process when the cells are written.
            failure = LoadFailed(
                f"a KV of {shape.n_cells} tokens takes {bytes_told(kv_bytes)}, and "
                f"{bytes_told(left)} are left to {spec.name}; lower n_ctx, n_slots or n_cells"
            )
            continue
        try:
            return LlamaBackend(model, _options(spec, shape, machine)), shape
        except LoadFailed as error:
            failure = error
    raise NoMemory(str(failure or f"{spec.path}: no context fits"))


def _open_embedder(spec: ModelSpec, model: Model, machine: Machine, shape: Shape | None) -> LlamaEmbedder:
    """A context for embeddings; where nothing is said of its length, the longest that there is room for."""
    if model.has_encoder:
        raise LoadFailed(f"{spec.path} ({model.architecture}) is an encoder beside a decoder, which is not served")
    n_ctx = shape.n_ctx if shape is not None else spec.n_ctx or min(model.n_ctx_train or DEFAULT_N_CTX, DEFAULT_N_CTX)
    if model.n_positions:
        n_ctx = min(n_ctx, model.n_positions)
    while True:
        options = EmbedOptions(
            n_ctx=n_ctx,
            pooling=None if spec.pooling == "auto" else spec.pooling,
            n_batch=spec.n_ubatch,
            flash_attention=spec.flash_attention,
            n_threads=spec.n_threads or machine.n_threads,
        )
        try:
            return LlamaEmbedder(model, options)
        except LoadFailed as error:
            if spec.n_ctx is not None or shape is not None or n_ctx <= LEAST_N_CTX:
                raise
            n_ctx = max(LEAST_N_CTX, n_ctx // 2)
            logger.warning("%s: %s; trying inputs of %d tokens", spec.name, error, n_ctx)


def _model_options(spec: ModelSpec, header: GgufHeader) -> ModelOptions:
    on_cpu = [f"blk\\.{k}\\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU" for k in range(spec.n_cpu_moe)]
    n_layer = max(0, header.number("block_count"))
    return ModelOptions(
        n_gpu_layers=-1 if spec.n_gpu_layers == "auto" else spec.n_gpu_layers,
        devices=() if spec.devices == "auto" else spec.devices,
        split_mode=spec.split_mode,
        tensor_split=spec.tensor_split,
        main_device=spec.main_device,
        overrides=(*on_cpu[:n_layer], *spec.override_tensor),
        mmap=spec.mmap,
        mlock=spec.mlock,
    )


def _options(spec: ModelSpec, shape: Shape, machine: Machine) -> ContextOptions:
    n_threads = min(spec.n_threads or machine.n_threads, machine.n_cpus)
    if spec.n_threads and spec.n_threads > n_threads:
        # More would wait for each other; and where the system grants no more, OpenMP ends the process.
        logger.warning(
            "%s: n_threads %d is more than the CPUs of the process: %d", spec.name, spec.n_threads, n_threads
        )
    return ContextOptions(
        n_ctx=shape.n_ctx,
        n_slots=shape.n_slots,
        n_cells=shape.n_cells if shape.is_unified else None,
        is_unified=shape.is_unified,
        n_batch=max(spec.n_batch, shape.n_slots),  # every slot has a token in a step
        n_ubatch=spec.n_ubatch,
        kv_type_k=spec.kv_type_k,
        kv_type_v=spec.kv_type_v,
        flash_attention=spec.flash_attention,
        n_threads=n_threads,
        n_threads_batch=n_threads,
        swa_full=spec.swa_full,
        rope_freq_base=spec.rope_freq_base or 0.0,
        rope_freq_scale=spec.rope_freq_scale or 0.0,
        rope_scaling=spec.rope_scaling,
        yarn_orig_ctx=spec.yarn_orig_ctx or 0,
        yarn_ext_factor=_or_own(spec.yarn_ext_factor),
        yarn_attn_factor=_or_own(spec.yarn_attn_factor),
        yarn_beta_fast=_or_own(spec.yarn_beta_fast),
        yarn_beta_slow=_or_own(spec.yarn_beta_slow),
    )


def _or_own(factor: float | None) -> float:
    """As C says that the file's own is meant."""
    return -1.0 if factor is None else factor


_SAMPLING_KEYS: dict[str, tuple[str, type[int] | type[float]]] = {
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "xtc_probability": ("xtc_probability", float),
    "xtc_threshold": ("xtc_threshold", float),
    "temp": ("temperature", float),
    "penalty_last_n": ("repeat_last_n", int),
    "penalty_repeat": ("repeat_penalty", float),
    "mirostat": ("mirostat", int),
    "mirostat_tau": ("mirostat_tau", float),
    "mirostat_eta": ("mirostat_eta", float),
}


def _defaults(model: str, metadata: Mapping[str, str]) -> Sampling:
    """llama.cpp's own, then what the file recommends. A bad value in the file is left out."""
    sampling = Sampling()
    for key, (name, kind) in _SAMPLING_KEYS.items():
        text = metadata.get(f"general.sampling.{key}")
        if text is None:
            continue
        try:
            sampling = sampling.with_options(cast("SamplingOptions", {name: kind(text)}))
        except (ValueError, InvalidRequest) as error:
            logger.warning("%s: general.sampling.%s in the file is ignored: %s", model, key, error)
    names = metadata.get("general.sampling.sequence", "").split(";")
    if known := tuple(SAMPLER_NAMES[name] for name in names if name in SAMPLER_NAMES):
        sampling = sampling.with_options({"samplers": known})
    return sampling
