"""`llamahost load` and `llamahost unload`: bring a model into a running server's memory, or take it out, by hand."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from llamahost.commands.exits import told
from llamahost.commands.layers import LayersOfLoad
from llamahost.commands.ps import ANSWER_S, HERE, ApiKey, Url
from llamahost.commands.words import counted
from llamahost.core.errors import LlamahostError, LoadFailed, Unavailable
from llamahost.core.sizes import bytes_told

if TYPE_CHECKING:
    from llamahost.api.admin_types import ModelDetails
    from llamahost.commands.remote import Remote

LOAD_S = 6 * 3600.0  # hundreds of gigabytes from a slow disk, or fetched first
LOOK_S = 0.3

Name = Annotated[str, typer.Argument(metavar="MODEL", help="Its name or an alias, as `llamahost ps` lists it.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Begin it, and return at once.")]
AsJson = Annotated[bool, typer.Option("--json", help="How the model is then, as GET /api/models/MODEL answers.")]


def load(
    model: Name,
    device: Annotated[
        list[str] | None,
        typer.Option(help="Put it there, as `llamahost check` names it, or `auto`; again: split it over several."),
    ] = None,
    n_ctx: Annotated[int | None, typer.Option("--n-ctx", help="Tokens that one request may hold.")] = None,
    slots: Annotated[int | None, typer.Option(help="Requests computed at once.")] = None,
    gpu_layers: LayersOfLoad = None,
    url: Url = HERE,
    api_key: ApiKey = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Load a model of a running server, and wait until it is ready.

    What is not given is as the manifest says. A model that is loaded already, with other settings, is loaded anew once
    the requests that use it have ended. Ctrl-C stops waiting; the load goes on.

    \b
      llamahost load qwen3-8b
      llamahost load qwen3-8b --device CUDA1 --n-ctx 32768
      llamahost load llama-70b --device CUDA0 --device CUDA1
    """
    given = {"devices": _devices(device), "n_ctx": n_ctx, "n_slots": slots, "n_gpu_layers": gpu_layers}
    body: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    with told(), _remote(url, api_key, LOAD_S) as remote, _bar(model, url, api_key):
        try:
            now = _changed(remote, model, "load", {**body, "wait": not no_wait})
        except Unavailable as error:
            raise LoadFailed(str(error)) from error
    tell(now, is_json=as_json)


def unload(
    model: Name,
    url: Url = HERE,
    api_key: ApiKey = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Take a model of a running server out of memory, when the requests that use it have ended.

    It is loaded again when somebody asks for it, where the manifest says so, or by `llamahost load`.
    """
    with told(), _remote(url, api_key, LOAD_S) as remote:
        now = _changed(remote, model, "unload", {"wait": not no_wait})
    tell(now, is_json=as_json)


def _devices(given: list[str] | None) -> list[str] | str | None:
    return "auto" if given == ["auto"] else given or None


def _remote(url: str, api_key: str | None, timeout_s: float) -> Remote:
    from llamahost.commands.remote import Remote

    return Remote(url, api_key, timeout_s=timeout_s)


def _path(model: str) -> str:
    return f"/api/models/{quote(model)}"


def _changed(remote: Remote, model: str, way: str, body: dict[str, Any]) -> ModelDetails:
    from llamahost.api.admin_types import ModelDetails

    return remote.told(f"{_path(model)}/{way}", ModelDetails, body)


def tell(model: ModelDetails, *, is_json: bool) -> None:
    from llamahost.commands.frame import clean, state_told

    if is_json:
        import msgspec

        print(json.dumps(msgspec.to_builtins(model), ensure_ascii=False, indent=2))
        return
    line = f"{model.id}: {state_told(model.state, model.progress, is_stalled=model.is_stalled)}"
    ready = [each.measured or each.estimated for each in model.replicas if each.state == "ready"]
    if n_bytes := sum(each.total_bytes for each in ready) or model.memory_bytes:  # not of those that leave for them
        line += f", {bytes_told(n_bytes)} on {', '.join(model.devices)}"
    if model.n_ctx and model.state == "ready":
        line += f", {counted(model.n_slots, 'slot')} of {model.n_ctx} tokens"
    print(clean(line + (f": {model.reason}" if model.reason else "")))


@contextmanager
def _bar(model: str, url: str, api_key: str | None) -> Iterator[None]:
    """A bar for whoever looks, from a second connection: the first one waits for the answer."""
    if not sys.stderr.isatty():
        yield
        return
    from llamahost.api.admin_types import ModelDetails
    from llamahost.commands.progress import bar

    is_over = threading.Event()
    with bar(model) as show, _remote(url, api_key, ANSWER_S) as watching:

        def look() -> None:
            while not is_over.wait(LOOK_S):
                try:
                    show(watching.told(_path(model), ModelDetails).progress)
                except LlamahostError:  # told by the one that waits
                    return

        looking = threading.Thread(target=look, name="progress", daemon=True)
        looking.start()
        try:
            yield
        finally:
            is_over.set()
            looking.join(ANSWER_S)
