"""Pull from the hub on the loopback, and see what has come."""

from __future__ import annotations

from pathlib import Path

from llamahost.files.download import Pulled, Puller, Step
from llamahost.files.hub import Hub
from llamahost.files.local import Places
from llamahost.files.repo import parse_reference
from tests.loopback_hub import LoopbackHub

NAME = "Maker/Tiny-GGUF"


def puller(hub: LoopbackHub, places: Places, token: str = "none") -> Puller:
    return Puller(hub=Hub(hub.endpoint, token=token), places=places, backoff_s=0.0)


def pulled(hub: LoopbackHub, places: Places, text: str, steps: list[Step] | None = None) -> Pulled:
    return puller(hub, places).pull(parse_reference(text), (steps if steps is not None else []).append)


def remains(places: Places) -> list[Path]:
    """Files that lie in the cache, whole or not."""
    return sorted(path for path in places.hub.rglob("*") if path.is_file())
