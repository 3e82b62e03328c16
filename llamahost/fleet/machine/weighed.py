"""What loads were seen to take, remembered from one process to the next: the next load of the same file in the same
shape is granted that, and no estimate.

One small file, which may be lost or nonsense: then it is estimated again. Blocking; opens no model.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import threading
from dataclasses import astuple, dataclass
from pathlib import Path

from llamahost.fleet.machine.cache import read_json, write_json
from llamahost.fleet.machine.fit import Shape
from llamahost.fleet.machine.footprint import Footprint
from llamahost.fleet.settings.manifest import ModelSpec

MAX_MODELS, MAX_SHAPES = 256, 16
_MOST = 2**50
_COSTS = (
    *("kv_type_k", "kv_type_v", "flash_attention", "n_batch", "n_ubatch", "swa_full", "embeddings", "pooling", "task"),
    *("split_mode", "override_tensor", "n_cpu_moe", "n_gpu_layers", "mmap"),
)
"""Settings beside the shape that what is allocated depends on."""

_writing = threading.Lock()


@dataclass(frozen=True, slots=True)
class Weighed:
    """`machine` tells one set of devices from another, and one build of the library."""

    file: Path
    machine: str

    @classmethod
    def of(cls, folder: Path, devices: tuple[str, ...]) -> Weighed:
        version = importlib.metadata.version("llama-cpp-python")
        return cls(folder / "weighed.json", f"{version} on {', '.join(devices)}")

    def known(self, stamp: object, spec: ModelSpec) -> dict[Shape, Footprint]:
        """By loads of this very file with these settings."""
        rows = self._read().get(self._key(stamp, spec), []) if stamp is not None else []
        found: dict[Shape, Footprint] = {}
        for row in rows if isinstance(rows, list) else []:
            with contextlib.suppress(TypeError, ValueError):
                n_ctx, n_slots, n_cells, is_unified, weights, kv, compute = row
                numbers = (n_ctx, n_slots, n_cells, weights, kv, compute)
                if all(isinstance(each, int) and 0 <= each < _MOST for each in numbers) and weights > 0:
                    shape = Shape(n_ctx=n_ctx, n_slots=n_slots, n_cells=n_cells, is_unified=bool(is_unified))
                    found[shape] = Footprint(weights_bytes=weights, kv_bytes=kv, compute_bytes=compute)
        return found

    def add(self, stamp: object, spec: ModelSpec, shape: Shape, footprint: Footprint) -> None:
        """Remember it; where that cannot be written, the next process estimates."""
        if stamp is None or footprint.weights_bytes <= 0:
            return
        key = self._key(stamp, spec)
        with _writing, contextlib.suppress(OSError):
            models = self._read()
            known = {**self.known(stamp, spec)}
            if known.get(shape) == footprint:
                return
            known.pop(shape, None)
            known[shape] = footprint
            models.pop(key, None)  # the last to be forgotten
            rows = [[*astuple(each), *astuple(taken)] for each, taken in known.items()]
            models[key] = rows[-MAX_SHAPES:]
            write_json(self.file, dict(list(models.items())[-MAX_MODELS:]))

    def _key(self, stamp: object, spec: ModelSpec) -> str:
        said = repr((stamp, self.machine, [getattr(spec, name) for name in _COSTS]))
        return hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()

    def _read(self) -> dict[str, object]:
        found = read_json(self.file)
        return found if isinstance(found, dict) else {}
