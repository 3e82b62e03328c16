"""Where the file of a spec lies on this machine, or why it cannot be opened. Asks no hub."""

from __future__ import annotations

import os
from dataclasses import replace

from llamahost.core.errors import LlamahostError, LoadFailed, PullFailed
from llamahost.files.local import Places, files_of, find
from llamahost.files.repo import MAIN, Reference, checked
from llamahost.fleet.settings.manifest import PACKAGED, ModelSpec


def located(spec: ModelSpec, places: Places | None = None) -> ModelSpec:
    """The spec with the path of its file, which is found here where a repository was named. Raises LoadFailed."""
    if spec.is_resolved:
        return spec
    try:
        reference = reference_of(spec)
        found = find(places or Places.of(os.environ), reference)
    except LlamahostError as error:
        raise LoadFailed(f"{spec.name}: {error}") from error
    if found is None:
        raise LoadFailed(f"{reference} is not on this machine yet; `llamahost pull {spec.name}` fetches it")
    return replace(spec, path=found.path)


def missing(spec: ModelSpec, places: Places | None = None) -> str:
    """Why its file cannot be opened: it is not on this machine. Empty where it is, or where loading tells more."""
    try:
        path = located(spec, places).path
        files = files_of(path)
        is_folder, absent = path.is_dir(), next((each for each in files if not each.is_file()), None)
    except (LoadFailed, PullFailed) as error:
        return str(error)
    except OSError as error:  # in a folder that is another user's, say
        return f"cannot read {error.filename or spec.path}: {error.strerror or error}"
    if is_folder:
        return f"{path} is a folder, and no GGUF file"
    return f"there is no file {absent}" if absent and path not in PACKAGED.values() else ""


def reference_of(spec: ModelSpec) -> Reference:
    """What a spec with a repository means on the hub. Raises InvalidRequest."""
    return checked(Reference(spec.repo, quant=spec.quant, file=spec.file, revision=spec.revision or MAIN))
