"""Serve: bind, put the host and the application together, say what becomes of them, and run until told to stop.

Knows what is wanted, as a manifest; knows no flag but by its name.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

from llamahost import __version__
from llamahost.commands.exits import NO_ADDRESS, NO_MODEL, fail, leave, told
from llamahost.commands.flags import given_by_flags
from llamahost.commands.progress import watched
from llamahost.commands.words import counted

if TYPE_CHECKING:
    import socket

    from llamahost.fleet.replica.card import ModelCard
    from llamahost.fleet.settings.manifest import Manifest, ModelSpec, ServerSettings
    from llamahost.host import AsyncHost, ModelStatus


def serve(
    wanted: Manifest,
    again: Callable[[], Manifest],
    flags: Collection[str],
    *,
    is_strict: bool,
    from_manifest: bool,
) -> None:
    """Until it is told to stop; leaves with the status that tells why. `again` reads what is wanted anew."""
    import asyncio
    import gc

    gc.disable()  # what is imported stays: to look through it for garbage again and again takes as long as a module
    from llamahost.api.app import App, create_app
    from llamahost.api.auth import keys_of
    from llamahost.api.server import Runner, bind, bind_unix, tls_of
    from llamahost.host import AsyncHost
    from llamahost.ops.tally import Tally

    gc.enable()
    settings = wanted.server
    unix_socket = settings.unix_socket
    with told(), given_by_flags(flags):
        keys, tls = keys_of(settings), tls_of(settings)
    try:
        place = bind(settings.host, settings.port) if unix_socket is None else bind_unix(unix_socket)
    except OSError as error:
        where = f"{settings.host}:{settings.port}" if unix_socket is None else str(unix_socket)
        fail(NO_ADDRESS, f"cannot listen on {where}: {(error.strerror or str(error)).lower()}")
    address = _address(place, is_tls=tls is not None)
    tally = Tally()
    host = AsyncHost(wanted, observer=tally, is_strict=is_strict)
    fingerprint = f"llamahost-{__version__}"

    reloading = asyncio.Lock()

    async def reload() -> tuple[str, ...]:
        async with reloading:  # whichever was read last holds
            manifest = await asyncio.to_thread(again)
            waiting = await adopted(manifest, runner.adopt, host.adopt)
            if unix_socket is None and not (manifest.server.api_key or manifest.server.api_key_file):
                _warn_if_open(settings.host)
            return waiting

    def make_app(on_start: Callable[[], None]) -> App:
        return create_app(
            host,
            settings,
            tally=tally,
            reload=reload,
            keys=keys,
            from_manifest=from_manifest,
            fingerprint=fingerprint,
            on_start=on_start,
        )

    async def announce() -> None:
        await _announce(host, wanted, address, needs_key=not keys.is_open, end=runner.fail)

    runner = Runner(host, place, settings=settings, tls=tls, on_start=announce)
    try:
        status = runner.run(make_app)
    finally:
        if unix_socket is not None:
            unix_socket.unlink(missing_ok=True)
    leave(status)


async def adopted(
    manifest: Manifest,
    see: Callable[[ServerSettings], Awaitable[Callable[[], None]]],
    adopt: Callable[[Manifest], Awaitable[tuple[str, ...]]],
) -> tuple[str, ...]:
    """What waits for a restart. Once `see` found that the settings serve, they hold: a key that was taken back is not
    good for as long as it takes to look at the files of models, nor where that fails.
    """
    hold = await see(manifest.server)
    hold()
    return await adopt(manifest)


async def _announce(
    host: AsyncHost, wanted: Manifest, address: str, *, needs_key: bool, end: Callable[[int], None]
) -> None:
    """Say where it listens, what loads, what is ready and how to try it, until all is there that loads at the start."""
    settings = wanted.server
    _say(f"llamahost {__version__} listens on {address}")
    if settings.unix_socket is None and not needs_key:
        _warn_if_open(settings.host)
    for spec in (each for each in wanted.models if each.load == "start"):
        _say(f"loading {spec.name} from {_source(spec)}")
    ready: list[ModelStatus] = []
    shown: list[ModelStatus] = []

    def show(status: ModelStatus) -> None:
        shown.append(status)
        _say(_example(address, settings, status.card, needs_key=needs_key))

    def settled(status: ModelStatus) -> None:
        if status.state == "ready":
            ready.append(status)
            _say(f"ready: {_told(status)}")
            if not shown and status.card is not None and status.card.generates:
                show(status)

    await watched(host, settled)
    if ready and not shown:
        show(ready[0])
    models = host.models()
    if all(status.state == "failed" for status in models):  # none can come to answer
        logging.getLogger("llamahost.server").error("no model could be loaded")  # why, each has said
        end(NO_MODEL)


def _source(spec: ModelSpec) -> str:
    from llamahost.fleet.settings.manifest import BUILTIN_PATH

    if spec.path == BUILTIN_PATH:
        return "the package, a small one to try; `llamahost serve OWNER/NAME` fetches and serves one of Hugging Face"
    return str(spec.path) if spec.is_resolved else spec.repo


def _say(line: str) -> None:
    print(line, flush=True)


def _address(place: socket.socket, *, is_tls: bool) -> str:
    name = place.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{'https' if is_tls else 'http'}://{host}:{name[1]}"


def _warn_if_open(host: str) -> None:
    from llamahost.api.hosts import is_on_loopback

    if not is_on_loopback(host):
        logging.getLogger("llamahost.server").warning(
            "anyone who reaches %s can use this server; --api-key asks for a key", host
        )


def _told(status: ModelStatus) -> str:
    card = status.card
    if card is None:
        return status.name
    if not card.generates:
        does = "scores documents" if card.pooling == "rank" else f"embeds into {card.n_dim} dimensions"
        return f"{status.name}, {does}, {card.n_ctx} tokens an input ({card.description})"
    return f"{status.name}, {counted(card.n_slots, 'slot')}, {card.n_ctx} tokens a request ({card.description})"


def _example(address: str, settings: ServerSettings, card: ModelCard | None, *, needs_key: bool) -> str:
    """A command that shows the server at work with this model."""
    where = address
    if settings.unix_socket is not None:
        where = f"--unix-socket {settings.unix_socket} {'http' if settings.tls_cert is None else 'https'}://localhost"
    key = " -H 'Authorization: Bearer …'" if needs_key else ""
    route, body = "chat/completions", """'{"messages": [{"role": "user", "content": "Hello"}]}'"""
    if card is not None and not card.generates:
        route, body = "embeddings", """'{"input": "Hello"}'"""
        if card.pooling == "rank":
            route, body = "rerank", """'{"query": "Hello", "documents": ["Hi", "Bye"]}'"""
    return f"try: curl {where}/v1/{route}{key} -H 'Content-Type: application/json' -d {body}"
