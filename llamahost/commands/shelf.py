"""`llamahost list`, `show` and `rm`: the models on this machine, whoever brought them. Serves and loads nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamahost.commands.exits import NO_MODEL, fail, told
from llamahost.commands.opening import ManifestPath, manifest_at
from llamahost.commands.words import table
from llamahost.core.sizes import bytes_told

if TYPE_CHECKING:
    from llamahost.files.local import Found, Places

AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def list_models(as_json: AsJson = False) -> None:
    """List the models that lie on this machine, by the names that `serve`, `run`, `chat`, `show` and `rm` know.

    Looks into Hugging Face's and llama.cpp's caches, LM Studio's folder and Ollama's. `llamahost models` tells of the
    manifest.
    """
    from llamahost.files.local import models, unfinished

    places = _places()
    with told():
        found = models(places)
    if as_json:
        print(json.dumps([_described(each) for each in found], ensure_ascii=False, indent=2))
        return
    left = unfinished(places)
    if not found:
        print(f"no model lies in {places.hub} or where llama.cpp, LM Studio and Ollama keep theirs")
        print("`llamahost pull OWNER/NAME` fetches one from Hugging Face")
    else:
        _print(found)
    if left:
        taken = bytes_told(sum(path.stat().st_size for path in left if path.is_file()))
        print(f"{len(left)} unfinished: {taken}; `llamahost pull` goes on, `llamahost rm --unfinished` gives up")


def _print(found: list[Found]) -> None:
    rows = [("name", "size", "of", "")]
    rows += (
        (each.name, bytes_told(each.n_bytes), each.owner, "" if each.is_whole else "files are missing")
        for each in found
    )
    print(table(rows))


def show(
    model: Annotated[
        str, typer.Argument(help="A name that `list` tells, a GGUF file, a name in the manifest, or OWNER/NAME.")
    ],
    as_json: AsJson = False,
    manifest: ManifestPath = None,
) -> None:
    """Tell what a model's file says of itself; of a repository that is not here, what there is to pull."""
    with told():
        found = _found(model, manifest)
        details = _of_file(*found) if found is not None else _of_repo(model)
    if as_json:
        print(json.dumps(details, ensure_ascii=False, indent=2))
        return
    rows = [(key, _line(value)) for key, value in details.items() if value not in ("", None, [])]
    print(table(rows))


def rm(
    model: Annotated[str | None, typer.Argument(help="A name that `list` tells, of Hugging Face's cache.")] = None,
    of_broken: Annotated[
        bool, typer.Option("--unfinished", help="What pulls that broke off left behind, in place of a model.")
    ] = False,
) -> None:
    """Remove a pulled model from this machine, and the bytes that nothing else names."""
    from llamahost.files.local import models, named
    from llamahost.files.remove import remove, remove_unfinished

    places = _places()
    if (model is None) != of_broken:
        raise typer.BadParameter("give a model, or --unfinished", param_hint="MODEL")
    with told():
        if model is None:
            print(f"{bytes_told(remove_unfinished(places))} are free")
            return
        known = models(places)
        ours = [each for each in known if each.name == model]
        found = next((each for each in ours if each.owner == "Hugging Face"), None) or next(iter(ours), None)
        found = found or named(places, model)
        if found is None:
            fail(NO_MODEL, f"no model `{model}` lies here; `llamahost list` tells which do")
        n_freed = remove(found, places)
    print(f"removed {found.name}, {bytes_told(n_freed)} are free" + ("" if n_freed else ": another program has it too"))


def _places() -> Places:
    from llamahost.files.local import Places

    return Places.of(os.environ)


def _described(found: Found) -> dict[str, object]:
    return {
        "name": found.name,
        "of": found.owner,
        "repo": found.repo,
        "quant": found.quant,
        "size_bytes": found.n_bytes,
        "is_whole": found.is_whole,
        "paths": [str(path) for path in found.paths],
    }


def _found(text: str, manifest: Path | None) -> tuple[Path, Found | None] | None:
    """Where the model's file lies, if it does."""
    from llamahost.files.local import named
    from llamahost.fleet.machine.located import located
    from llamahost.fleet.settings.builtin import builtin, is_named

    if Path(text).is_file():
        return Path(text), None
    for spec in manifest_at(manifest).models:
        if text in (spec.name, *spec.aliases):
            return located(spec).path, None
    if is_named(text):
        return builtin(model=text).path, None
    found = named(_places(), text)
    return None if found is None else (found.path, found)


def _of_file(path: Path, found: Found | None) -> dict[str, Any]:
    from llamahost.files.local import files_of
    from llamahost.files.repo import quant_of
    from llamahost.native.gguf import read_metadata

    header = read_metadata(path)
    shards = [each for each in files_of(path) if each.is_file()]
    of_general = {
        key: header.text(f"general.{key}")
        for key in ("name", "basename", "size_label", "finetune", "license", "organization", "quantized_by")
    }
    return {
        "path": str(path),
        **({k: v for k, v in _described(found).items() if k != "paths"} if found else {}),
        "size_bytes": sum(each.stat().st_size for each in shards),
        "quant": found.quant if found and found.quant else quant_of(path.name),
        "architecture": header.architecture,
        **{f"general.{key}": value for key, value in of_general.items()},
        "n_params": sum(read_metadata(each).n_params for each in shards),
        "n_ctx_train": header.number("context_length") or None,
        "n_layers": header.number("block_count") or None,
        "n_embd": header.number("embedding_length") or None,
        "n_experts": header.number("expert_count") or None,
        "has_chat_template": bool(header.text("tokenizer.chat_template")),
        "is_causal": header.is_causal,
    }


def _of_repo(text: str) -> dict[str, Any]:
    """What the hub has of it. Raises InvalidRequest, PullFailed."""
    from llamahost.files.hub import Hub
    from llamahost.files.repo import choose, is_model, parse_reference, quant_of, shard_names

    if "/" not in text:
        fail(NO_MODEL, f"no model `{text}` lies here; `llamahost list` tells which do")
    reference = parse_reference(text)
    listing = Hub.of(os.environ).listing(reference)
    sizes = {file.path: file.size for file in listing.files}
    return {
        "repo": reference.repo,
        "commit": listing.commit,
        "is_here": False,
        "pull_takes": choose(reference, listing.files).files[0].path,
        "files": [
            f"{path} ({quant_of(path) or '-'}, {bytes_told(sum(sizes.get(name, 0) for name in shard_names(path)))})"
            for path in sorted(sizes, key=lambda path: sizes[path])
            if is_model(path)
        ],
    }


def _line(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
