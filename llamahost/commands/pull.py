"""`llamahost pull`: a model from the hub, or all that the manifest takes from there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamahost.commands.exits import USAGE, fail, told
from llamahost.commands.fetching import fetched
from llamahost.commands.opening import MANIFEST, ManifestPath, said_at
from llamahost.core.sizes import bytes_told

if TYPE_CHECKING:
    from llamahost.files.download import Pulled
    from llamahost.files.repo import Reference
    from llamahost.fleet.settings.manifest import Manifest


def pull(
    model: Annotated[
        str | None,
        typer.Argument(
            help="OWNER/NAME, OWNER/NAME:Q4_K_M or OWNER/NAME/FILE.gguf on Hugging Face, or a model's name in the "
            "manifest. [all that the manifest takes from there]"
        ),
    ] = None,
    revision: Annotated[str, typer.Option(help="A branch, tag or commit of the repository.")] = "",
    add: Annotated[bool, typer.Option("--add", help="Write it into the manifest, whose comments stay.")] = False,
    name: Annotated[str, typer.Option(help="With --add: what clients send as `model`.")] = "",
    manifest: ManifestPath = None,
) -> None:
    """Fetch a model from Hugging Face, or go on where that broke off.

    Without a quantisation Q4_K_M is taken, or what is nearest. What this machine has already is linked: Hugging Face's
    and llama.cpp's caches, LM Studio's folder, Ollama's blobs. HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and
    HF_HUB_OFFLINE are read as by other programs.
    """
    if (name or add) and model is None:
        raise typer.BadParameter("needs a model to add", param_hint="--add")
    with told():
        found = said_at(manifest)
        if model is None:
            _pull_all(found)
            return
        reference = _meant(found, model, revision)
        here = fetched(reference)
        print(f"{here.reference} is here, {_size(here)}: {here.paths[0]}")
        if add:
            _add(manifest or MANIFEST, found, reference, here.quant, name)
        else:
            print(f"next: llamahost serve {_pinned(here)}")


def _meant(manifest: Manifest, text: str, revision: str) -> Reference:
    """A model's name in the manifest weighs more than what it may mean on the hub. Raises InvalidRequest."""
    from dataclasses import replace

    from llamahost.files.repo import checked, parse_reference
    from llamahost.fleet.machine.located import reference_of

    for spec in manifest.models:
        if text in (spec.name, *spec.aliases):
            if not spec.repo:
                fail(USAGE, f"`{text}` is a file of its own in the manifest: {spec.path}")
            meant = reference_of(spec)
            return checked(replace(meant, revision=revision)) if revision else meant
    return parse_reference(text, revision=revision)


def _pull_all(manifest: Manifest) -> None:
    from llamahost.core.errors import PullFailed
    from llamahost.fleet.machine.located import reference_of

    specs = [spec for spec in manifest.models if spec.repo]
    if not specs:
        print('the manifest takes no model from Hugging Face; one with `repo = "OWNER/NAME"` is fetched by this')
        return
    failures = []
    for spec in specs:
        try:
            here = fetched(reference_of(spec))
        except PullFailed as error:
            failures.append(f"{spec.name}: {error}")
            typer.echo(f"llamahost: {failures[-1]}", err=True)
            continue
        print(f"{spec.name} is here, {_size(here)}: {here.paths[0]}", flush=True)
    if failures:
        raise PullFailed(f"{len(failures)} of {len(specs)} models could not be fetched")


def _size(here: Pulled) -> str:
    """And how much was fetched, where not all was: the rest was here, of an earlier pull or another program's."""
    if here.n_fetched == here.n_bytes:
        return bytes_told(here.n_bytes)
    return (
        f"{bytes_told(here.n_bytes)}, {bytes_told(here.n_fetched) if here.n_fetched else 'nothing'} of it fetched now"
    )


def _pinned(here: Pulled) -> str:
    """What serves this very model from now on."""
    reference = here.reference
    if reference.revision != "main":
        return str(here.paths[0])
    return str(reference) if reference.file or reference.quant or not here.quant else f"{reference.repo}:{here.quant}"


def _add(path: Path, manifest: Manifest, reference: Reference, quant: str, name: str) -> None:
    from dataclasses import replace

    from llamahost.fleet.settings.manifest_add import added, name_for, naming

    pinned = reference if reference.file or reference.quant else replace(reference, quant=quant)
    if spec := naming(manifest, pinned) or naming(manifest, reference):
        print(f"{path} has it already, as `{spec.name}`")
        return
    name = name or name_for(reference)
    place = path.resolve()  # of what a symbolic link means, not the link
    text = place.read_bytes().decode() if place.is_file() else ""  # its ends of lines, and a mark before it, stay
    whole = added(text, name, pinned, folder=path.parent, source=str(path))
    new = place.with_name(f".{place.name}.{os.getpid()}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(whole.encode())
        new.chmod(place.stat().st_mode & 0o7777 if place.is_file() else 0o644)  # it may hold a key
        new.replace(place)
    except OSError as error:
        new.unlink(missing_ok=True)
        fail(1, f"cannot write {path}: {error.strerror or error}")
    print(f"added to {path} as `{name}`; next: llamahost serve")
