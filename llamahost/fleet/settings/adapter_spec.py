"""An adapter to load with a model: the typed form of `[[models.adapters]]`. Raises ManifestError on a wrong value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llamahost.core.errors import ManifestError

MAX_ADAPTERS = 1000
"""Of one model."""

MAX_TOGETHER = 8
"""In one answer: each adds matrices to every layer, and llama.cpp's graph of some models has room for a few."""

MAX_SCALE = 100.0
"""Either way; beyond it 16 bits no longer hold what comes of it, and a number that is none spoils what is beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """An adapter to load with a model. Raises ManifestError on a value of the wrong kind or out of range.

    It works with `scale` for requests that name it, and with `default_scale` for those that name none.
    """

    name: str
    path: Path
    scale: float = 1.0
    default_scale: float = 0.0

    def __post_init__(self) -> None:
        name = self.name
        if not isinstance(name, str) or not name.strip() or len(name) > 256 or not name.isprintable():
            raise ManifestError(f"an adapter needs a name of 1 to 256 characters, not {self.name!r:.80}", key="name")
        if ":" in self.name:
            raise ManifestError(f"an adapter's name has no colon, which stands before it: {self.name!r}", key="name")
        if not isinstance(self.path, str | Path):
            raise ManifestError(f"path must be text, not {self.path!r}", key="path")
        if "\0" in str(self.path):
            raise ManifestError(f"path {str(self.path)!r:.80} is none: no file has a NUL in its name", key="path")
        object.__setattr__(self, "path", Path(self.path))
        for key in ("scale", "default_scale"):
            check_scale(getattr(self, key), key)


def check_scale(value: object, key: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MAX_SCALE:
        raise ManifestError(f"{key} must be a number between {-MAX_SCALE:g} and {MAX_SCALE:g}, not {value!r}", key=key)


def check_together(specs: Sequence[AdapterSpec]) -> None:
    """Raises ManifestError where one is none, two are called the same, or they are too many."""
    seen: set[str] = set()
    for spec in specs:
        if not isinstance(spec, AdapterSpec):
            raise ManifestError(f"adapters must be AdapterSpecs, not {spec!r:.40}", key="adapters")
        if spec.name in seen:
            raise ManifestError(f"two adapters are called `{spec.name}`", key="name")
        seen.add(spec.name)
    if len(specs) > MAX_ADAPTERS:
        raise ManifestError(f"a model has at most {MAX_ADAPTERS} adapters", key="adapters")
    if sum(spec.default_scale != 0 for spec in specs) > MAX_TOGETHER:
        raise ManifestError(f"at most {MAX_TOGETHER} adapters have a default_scale that is not 0", key="adapters")
