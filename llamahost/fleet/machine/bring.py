"""Have a model's file on this machine: found where it lies, else fetched from the hub. Blocking; one thread a model.

Knows what to say where neither can be. Who waits meanwhile, and who may end it, `fetches` knows.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from llamahost.core.errors import LlamahostError, LoadFailed, PullFailed
from llamahost.files.download import Cancelled, Puller, Step
from llamahost.files.hub import Offline
from llamahost.files.local import find
from llamahost.fleet.machine.located import reference_of
from llamahost.fleet.settings.manifest import ModelSpec

MAX_AT_ONCE = 2  # more would only share one line
WAIT_S = 0.2  # between two looks whether it is this one's turn

_turns = threading.BoundedSemaphore(MAX_AT_ONCE)


def brought(
    spec: ModelSpec,
    on_step: Callable[[Step], None],
    cancelled: threading.Event,
    *,
    puller: Puller | None = None,
) -> ModelSpec:
    """The spec with the path of its file. The hub is asked only for what is not here. Raises LoadFailed, Cancelled."""
    if spec.is_resolved:
        return spec
    puller = puller or Puller.of(os.environ)
    try:
        reference = reference_of(spec)
        found = find(puller.places, reference)
    except LlamahostError as error:
        raise LoadFailed(f"{spec.name}: {error}") from error
    if found is not None:
        return replace(spec, path=found.path)
    try:
        with _turn(on_step, cancelled):
            return replace(spec, path=puller.pull(reference, on_step, cancelled).paths[0])
    except Cancelled:
        raise
    except Offline as error:
        raise LoadFailed(
            f"{reference} is not on this machine, and {error}; `llamahost pull {spec.name}` fetches it where the hub "
            f"answers, or give the model a `path`"
        ) from error
    except PullFailed as error:
        raise LoadFailed(f"{reference} could not be fetched: {error}") from error


@contextmanager
def _turn(on_step: Callable[[Step], None], cancelled: threading.Event) -> Iterator[None]:
    if not _turns.acquire(blocking=False):
        on_step(Step("waiting"))
        while not _turns.acquire(timeout=WAIT_S):
            if cancelled.is_set():
                raise Cancelled("it is not wanted any more")
    try:
        yield
    finally:
        _turns.release()
