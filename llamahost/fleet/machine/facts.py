"""Read what a model's file says that costs memory, and what it is made for. Blocking; opens no model."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path

from llamahost.core.errors import LoadFailed
from llamahost.fleet.machine.footprint import FileFacts
from llamahost.fleet.machine.located import located
from llamahost.fleet.settings.builtin import verify
from llamahost.fleet.settings.manifest import ModelSpec, Task, is_template_path
from llamahost.native.context import kv_bytes_per_token
from llamahost.native.gguf import GgufHeader, read_metadata

_LAYER = re.compile(r"blk\.(\d{1,9})\.")
_EXPERTS = re.compile(r"blk\.\d+\.ffn_(up|down|gate|gate_up)_(ch|)exps")
_PART = re.compile(r"(.+)-00001-of-(\d{5})\.gguf")
_TABLE = "token_embd."
_INPUTS = ("per_layer_token_embd.", "position_embd.", "token_types.")
"""Tables beside that of tokens from which single rows are read: llama.cpp leaves them with the host."""
_LAST, _RANK = 3, 4  # LLAMA_POOLING_TYPE_


def facts_of(spec: ModelSpec) -> FileFacts:
    """By the headers of the file, and of its other parts where it is split. Raises LoadFailed."""
    spec = located(spec)
    try:
        header = read_metadata(spec.path)
    except LoadFailed:
        verify(spec.path)  # a package that is not whole says what to do
        raise
    check(spec, header)
    others = parts_of(spec.path, header)
    layers: dict[int, int] = {}
    experts: dict[int, int] = {}
    matrix: dict[int, int] = {}
    expert: dict[int, int] = {}
    input_bytes = aside_bytes = rest_bytes = output_kind = 0
    is_tied = True
    for each in (header, *(read_metadata(path) for path in others)):
        for name, n_bytes in _bytes_of(each):
            if (layer := _LAYER.match(name)) is not None:
                k = int(layer[1])
                layers[k] = layers.get(k, 0) + n_bytes
                if _EXPERTS.match(name):
                    experts[k] = experts.get(k, 0) + n_bytes
                    expert[k] = max(expert.get(k, 0), n_bytes)
                else:
                    matrix[k] = max(matrix.get(k, 0), n_bytes)
            elif name.startswith(_INPUTS):
                aside_bytes += n_bytes
            elif name.startswith(_TABLE):
                input_bytes += n_bytes
                output_kind = each.tensors[name].kind if is_tied else output_kind
            else:
                rest_bytes += n_bytes
                if name == "output.weight":
                    is_tied, output_kind = False, each.tensors[name].kind
    n_ff = max(
        header.number("feed_forward_length"),
        header.number("expert_feed_forward_length") * header.number("expert_used_count"),
    )
    return FileFacts(
        task=task_of(spec, header),
        generates=generates(spec, header),
        n_ctx_train=header.number("context_length"),
        has_positions=header.has_positions,
        layers=tuple(layers[k] for k in sorted(layers)),
        experts=tuple(experts.get(k, 0) for k in sorted(layers)),
        matrix_bytes=tuple(matrix.get(k, 0) for k in sorted(layers)),
        expert_bytes=tuple(expert.get(k, 0) for k in sorted(layers)),
        input_bytes=input_bytes,
        aside_bytes=aside_bytes,
        rest_bytes=rest_bytes,
        has_pieces=_has_pieces(spec, header),
        is_tied=is_tied,
        cell_bytes=kv_bytes_per_token(header, spec.kv_type_k, spec.kv_type_v),
        state_bytes=_state_bytes(header),
        n_embd=header.number("embedding_length"),
        n_ff=n_ff,
        n_head=header.number("attention.head_count"),
        n_vocab=_n_vocab(header),
        output_kind=output_kind,
        adapter_bytes=sum(_size_of(adapter.path) for adapter in spec.adapters),
        path=spec.path,
        stamp=(spec.path, *(_stamp_of(path) for path in (spec.path, *others, *_template_of(spec)))),
    )


def _stamp_of(path: Path) -> tuple[int, int, int]:
    """Raises LoadFailed."""
    try:
        stat = path.stat()
    except OSError as error:  # it went while it was looked at
        raise LoadFailed(f"{path}: {error.strerror}") from error
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _template_of(spec: ModelSpec) -> tuple[Path, ...]:
    """The file that holds it, which people edit; one that is not there the load tells of."""
    path = Path(spec.template)
    with contextlib.suppress(OSError):
        return (path,) if is_template_path(spec.template) and path.is_file() else ()
    return ()


def _size_of(path: Path) -> int:
    """Of a file; one that is not there takes nothing, and its load tells more."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def generates(spec: ModelSpec, header: GgufHeader) -> bool:
    """Whether a context that writes is opened; the manifest's word outweighs the file's."""
    if spec.task in ("embedding", "rerank"):
        return False
    return _writes(header)


def _writes(header: GgufHeader) -> bool:
    return header.is_causal and header.number("pooling_type") <= 0


def check(spec: ModelSpec, header: GgufHeader) -> None:
    """Raises LoadFailed on what is no model, or is there for a task that it cannot do: it would refuse each request."""
    architecture, kind = header.architecture, header.text("general.type")
    if kind == "adapter":
        raise LoadFailed(f"{spec.path} is a LoRA adapter, not a model")
    if kind == "mmproj" or architecture == "clip":
        raise LoadFailed(f"{spec.path} is a multimodal projector, not a model")
    if architecture in ("t5", "t5encoder"):
        raise LoadFailed(f"{spec.path} ({architecture}) has an encoder; this version serves decoders only")
    has_head = header.number("pooling_type") == _RANK
    scores = has_head and spec.pooling in ("auto", "rank")
    match spec.task:
        case "rerank" if not has_head:
            why = "it has no head for scores"
        case "rerank" if not scores:
            why = f'pooling = "{spec.pooling}" does without its head for scores'
        case "embedding" if scores:
            why = "it scores documents, and has no embeddings"
        case "chat" | "completion" if not _writes(header):
            why = "it generates no text"
        case _:
            return
    raise LoadFailed(f'{spec.path} cannot be there for task = "{spec.task}": {why}')


def _has_pieces(spec: ModelSpec, header: GgufHeader) -> bool:
    """Whether its last token is all that is pooled, and sees what came before in the cache: as native/embed has it."""
    pooled = header.number("pooling_type", _LAST) in (_LAST, _RANK)
    return header.is_causal and (pooled if spec.pooling == "auto" else spec.pooling in ("last", "rank"))


def task_of(spec: ModelSpec, header: GgufHeader) -> Task:
    """What it is there for, by the manifest or by the file."""
    if spec.task != "auto":
        return spec.task
    if not generates(spec, header):
        return "rerank" if header.number("pooling_type") == _RANK else "embedding"
    return "chat" if spec.template or header.text("tokenizer.chat_template") else "completion"


def parts_of(path: Path, header: GgufHeader) -> list[Path]:
    """The other files of a split model, by the name of its first. Raises LoadFailed where one is missing."""
    n = header.metadata.get("split.count")
    named = _PART.fullmatch(path.name)
    if not isinstance(n, int) or n < 2 or named is None:
        return []
    found = [path.with_name(f"{named[1]}-{k:05d}-of-{named[2]}.gguf") for k in range(2, min(n, int(named[2])) + 1)]
    missing = [each for each in found if not each.is_file()]
    if missing:
        raise LoadFailed(f"{path.name} is the first of {n} parts, and there is no {missing[0].name} beside it")
    return found


def _bytes_of(header: GgufHeader) -> Iterator[tuple[str, int]]:
    """Each tensor's bytes: up to where the next one begins, and for the last as others of its type."""
    tensors = sorted(header.tensors.values(), key=lambda each: each.offset)
    density: dict[int, float] = {}
    for tensor, following in itertools.pairwise(tensors):
        n_bytes = following.offset - tensor.offset
        density[tensor.kind] = n_bytes / max(1, math.prod(tensor.shape))
        yield tensor.name, n_bytes
    if tensors:
        last = tensors[-1]
        yield last.name, int(math.prod(last.shape) * density.get(last.kind, 4.0))


def _state_bytes(header: GgufHeader) -> int:
    """Of one slot, in all recurrent layers; a hybrid's attention layers are counted too, which is little."""
    inner, state, width = (header.number(f"ssm.{key}") for key in ("inner_size", "state_size", "conv_kernel"))
    if inner <= 0:
        return 0
    groups = header.number("ssm.group_count")
    convolved = max(0, width - 1) * (inner + 2 * groups * state)
    return 4 * (convolved + state * inner) * header.number("block_count")


def _n_vocab(header: GgufHeader) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    n = getattr(tokens, "n", None)
    return n if isinstance(n, int) else len(tokens) if isinstance(tokens, list) else header.number("vocab_size")
