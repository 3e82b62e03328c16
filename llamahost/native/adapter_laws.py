"""What llama.cpp takes for granted of a LoRA adapter, and ends the process over when it is loaded or first computed.

Where llama.cpp refuses by itself, that is said here all the same where its words do not help. Knows two headers and the
numbers in a file; knows no C.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llamahost.core.errors import LoadFailed
from llamahost.native.gguf import GgufHeader, read_metadata
from llamahost.native.gguf_laws import Tensor

_STRING, _FLOAT32 = 8, 6  # GGUF's types of values
_F32, _F16, _BF16 = 0, 1, 30  # ggml's types of tensors
_NVFP4 = 40
_STRIDE = 1 << 22
_EMBEDDINGS = "token_embd.weight"


def read_adapter(path: Path, base: GgufHeader) -> GgufHeader:
    """The header of an adapter that this base can take. Raises LoadFailed with what is wrong."""
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long, or a folder of another user's
        raise LoadFailed(f"cannot read {path}: {error.strerror or error}") from error
    if is_folder or path.suffix == ".safetensors":
        raise LoadFailed(f"{path} is no GGUF file; llama.cpp's convert_lora_to_gguf.py makes one of a PEFT adapter")
    header = read_metadata(path)
    fault = next(_faults(header, base), "") or _fault_of_numbers(path, header)
    if fault:
        raise LoadFailed(f"{path} cannot be used as an adapter: {fault}")
    return header


def _faults(header: GgufHeader, base: GgufHeader) -> Iterator[str]:
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        if header.kinds.get(key) != _STRING or header.metadata[key] != wanted:
            yield f"its {key} is {header.metadata.get(key)!r:.40}, not `{wanted}`"
    if header.kinds.get("general.architecture") != _STRING:
        yield "its general.architecture is no text"
    if header.architecture != base.architecture:
        yield f"it was made for {header.architecture[:40]!r}, and the model is {base.architecture!r}"
    alpha = header.metadata.get("adapter.lora.alpha", 0.0)
    if header.kinds.get("adapter.lora.alpha", _FLOAT32) != _FLOAT32 or not isinstance(alpha, float):
        yield "its adapter.lora.alpha is no number of 32 bits"
    elif not math.isfinite(alpha):
        yield f"its adapter.lora.alpha is {alpha}"
    if "adapter.alora.invocation_tokens" in header.metadata:
        yield "it is activated by tokens of the prompt (aLoRA), which is not served"
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in header.tensors.items():
        of, dot, side = name.rpartition(".")
        if dot and side in ("lora_a", "lora_b"):
            pairs.setdefault(of, {})[side] = tensor
        elif not name.endswith("_norm.weight"):  # llama.cpp leaves those out
            yield f"tensor `{name[:80]}` belongs to no LoRA"
    if not pairs:
        yield "it changes nothing: it holds no pair of matrices"
    for of, pair in pairs.items():
        if len(pair) < 2:
            yield f"of `{of[:80]}` it has one matrix of two"
        yield from _faults_of_pair(of, pair["lora_a"], pair["lora_b"], base)


def _faults_of_pair(of: str, a: Tensor, b: Tensor, base: GgufHeader) -> Iterator[str]:
    """Shapes are as ggml has them: the inner dimension first, 1 where none is given."""
    if not all((*a.shape, *b.shape)):
        yield f"the matrices of `{of[:80]}` are empty"
    rank_of_a, rank_of_b = (0, 0) if of == _EMBEDDINGS else (1, 0)
    if _n(a, rank_of_a) != _n(b, rank_of_b):
        yield f"the matrices of `{of[:80]}` do not fit each other: {list(a.shape)} and {list(b.shape)}"
    tensor = base.tensors.get(of)
    if tensor is None:
        if base.tensors and "split.count" not in base.metadata:
            yield f"it changes `{of[:80]}`, which the model does not have; is it for another base?"
        return
    if of == _EMBEDDINGS:
        ends = (_n(b, 1), _n(a, 1))
        if "output.weight" not in base.tensors:  # llama.cpp would take its matrices, which are turned there, for both
            yield f"it changes `{of}`, which is the output as well in this model; llama.cpp cannot do that"
    else:
        ends = (_n(a, 0), _n(b, 1))
    if ends != (_n(tensor, 0), _n(tensor, 1)) or any(
        _n(side, axis) != _n(tensor, axis) for side in (a, b) for axis in range(2, 4)
    ):
        yield (
            f"its matrices for `{of[:80]}`, {list(a.shape)} and {list(b.shape)}, do not fit the model's "
            f"{list(tensor.shape)}; is it for another base?"
        )
    if tensor.kind == _NVFP4:
        yield f"`{of}` is quantised as NVFP4, where llama.cpp takes no adapter"


def _n(tensor: Tensor, axis: int) -> int:
    return tensor.shape[axis] if axis < len(tensor.shape) else 1


def _fault_of_numbers(path: Path, header: GgufHeader) -> str:
    """One that is no number would spoil every row that it meets, and cells that others' rows are beside."""
    widths = {_F32: 4, _F16: 2, _BF16: 2}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for name, shape, kind, offset in header.tensors.values():
            width = widths.get(kind, 0)
            start, n_bytes = header.data_at + offset, math.prod(shape) * width
            if start + n_bytes > len(data):
                return f"it ends within tensor `{name[:80]}`; is the download complete?"
            for at in range(start, start + n_bytes, _STRIDE):
                if not _all_finite(data[at : min(at + _STRIDE, start + n_bytes)], kind):
                    return f"tensor `{name[:80]}` holds values that are no numbers"
    return ""


def _all_finite(data: bytes, kind: int) -> bool:
    if kind == _BF16:
        exponents = np.frombuffer(data, np.uint16) & 0x7F80
        return not (exponents == 0x7F80).any()
    return bool(np.isfinite(np.frombuffer(data, np.float32 if kind == _F32 else np.float16)).all())
