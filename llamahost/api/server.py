"""Run the application on a socket until it is told to stop. Signals are ours: uvicorn would close its listeners first
and then die of the signal.

SIGHUP reads the manifest again, as POST /api/reload does; one that comes because the terminal is gone ends the server.
The first SIGTERM or Ctrl-C refuses new requests with 503 while the listener stays open, lets the running ones finish
within `drain_s`, and ends well (0). The second ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvicorn

from llamahost.api.app import App
from llamahost.api.auth import keys_of
from llamahost.api.hang_up import has_terminal, kept_hang_ups
from llamahost.api.http1 import Http1
from llamahost.api.service import Service
from llamahost.core.errors import LlamahostError, ManifestError
from llamahost.core.gil import switch_soon
from llamahost.fleet.settings.manifest import ServerSettings, in_effect

logger = logging.getLogger("llamahost.server")

BACKLOG = 2048
MAX_FILES = 2**16  # that are asked for; some containers allow a milliard
UNSENT_BYTES = 2**15
"""That the kernel keeps for a slow client. It would keep megabytes, and ask for more when a part of them is gone: a
client that reads slowly but steadily would look like one that does not."""

KEEP_ALIVE_S = 75  # longer than the 60 s of common proxies, so that they close first
FLUSH_S = 2.0  # for responses that are complete but not yet read, once draining is over
STOPPED_NOW = 130  # exit status after the second signal, as of a shell's Ctrl-C


def bind(host: str, port: int) -> socket.socket:
    """A listening place, taken before anything is loaded. Raises OSError when it cannot be had."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = infos[0]
    place = socket.socket(family, kind, protocol)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # some sandboxes' kernels do not know it
            place.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)  # its connections have it too
        place.bind(address)
        place.listen(BACKLOG)
    except OSError:
        place.close()
        raise
    place.setblocking(False)
    return place


def bind_unix(path: Path) -> socket.socket:
    """A unix socket, for this user alone. One that a dead server left behind is replaced. Raises OSError."""
    place = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and not _answers(path):
            path.unlink()
        elif path.exists() and not path.is_socket():
            raise FileExistsError(errno.EEXIST, "there is something of that name, and it is no socket")
        place.bind(str(path))
        path.chmod(0o600)
        place.listen(BACKLOG)
    except OSError:
        place.close()
        raise
    place.setblocking(False)
    return place


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def many_files() -> int:
    """As many as the process may have open from now on. What it is given first, 1024 mostly, is for programs that
    select(); each connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_FILES if soft == resource.RLIM_INFINITY else soft
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def tls_of(settings: ServerSettings) -> ssl.SSLContext | None:
    """What to speak https with; None for plain http. Raises ManifestError on files that do not serve."""
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    key = settings.tls_key or settings.tls_cert
    for name, path in (("tls_cert", settings.tls_cert), ("tls_key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ManifestError(f"{name} {path} cannot be read: {error.strerror}", key=name) from None

    def refuse_to_ask() -> str:
        raise ManifestError(f"tls_key {key} is encrypted; a server has nobody to ask for its password", key="tls_key")

    try:
        context.load_cert_chain(settings.tls_cert, key, password=refuse_to_ask)
    except ssl.SSLError as error:
        reason = error.reason or "not PEM"
        raise ManifestError(
            f"tls_cert {settings.tls_cert} and its key {key} do not serve: {reason.lower().replace('_', ' ')}",
            key="tls_cert",
        ) from None
    return context


def _succeed(tls: ssl.SSLContext, successor: ssl.SSLContext) -> None:
    """Have whoever connects to the one be served by the other; whoever is connected goes on.

    Its files are not read again: they may be others by now, and a half of a pair would leave no certificate at all.
    """

    def choose(connection: ssl.SSLObject, name: str, context: ssl.SSLContext) -> None:
        connection.context = successor

    tls.sni_callback = choose  # called also for who names no server


@contextmanager
def _interrupted_quietly() -> Iterator[None]:
    """Until the loop hears it, Ctrl-C ends the process at once, as SIGTERM does, and says nothing of coroutines."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Runner:
    """Owned by the main thread's loop. One server from its start to its end."""

    def __init__(
        self,
        service: Service,
        place: socket.socket,
        *,
        settings: ServerSettings,
        tls: ssl.SSLContext | None = None,
        on_start: Callable[[], Coroutine[None, None, None]],
        flush_s: float = FLUSH_S,
    ) -> None:
        self._service = service
        self._place = place
        self._settings = settings
        self._tls = tls
        self._on_start = on_start
        self._flush_s = flush_s
        self._starting: asyncio.Task[None] | None = None
        self._status = 0
        self._server: uvicorn.Server | None = None
        self._app: App | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._is_told_again = False
        self._hang_ups = kept_hang_ups()

    def run(self, make_app: Callable[[Callable[[], None]], App]) -> int:
        """Serve until told to stop; the exit status. `make_app` gets what the app must call when it begins to live."""
        switch_soon()
        app = make_app(self._begin)
        self._app = app
        tls = self._tls
        proxies = self._settings.forwarded_allow_ips
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=partial(Http1, stall_s=lambda: self._settings.stall_s, n_files=many_files()),  # type: ignore[arg-type]  # it is called
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips="*" if "*" in proxies else list(proxies),
            ssl_context_factory=None if tls is None else lambda config, default: tls,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(FLUSH_S),
        )
        self._server = uvicorn.Server(config)
        try:
            with _interrupted_quietly():
                self._server.run(sockets=[self._place])
        except SystemExit:  # uvicorn's way to say that the lifespan failed; the reason is logged
            return 1
        return self._status

    def _begin(self) -> None:
        """On the loop, after uvicorn has set its own handlers, which these replace."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # A loop outside the main thread cannot; whoever runs it there stops it in another way.
            with contextlib.suppress(ValueError, RuntimeError):
                loop.add_signal_handler(number, self.stop)
        with contextlib.suppress(ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGHUP, self.hang_up)
        if self._hang_ups.has_come:  # before there was anything that could be read again
            self.hang_up()
        self._starting = loop.create_task(self._start())

    async def _start(self) -> None:
        await self._on_start()
        # Modules and models stay. Looking through them for garbage holds the GIL for 20 ms, so it is done once, here,
        # and not in the middle of somebody's answer.
        gc.collect()
        gc.freeze()

    def hang_up(self) -> None:
        """Read the manifest again, unless it is the terminal that went away."""
        if self._hang_ups.ends_with_terminal and not has_terminal():
            self.stop()
        elif self._stopping is not None:
            logger.info("the manifest is not read again: the server is stopping")
        elif self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())
        else:  # it may have been changed since it was read
            self._is_told_again = True

    async def _reload(self) -> None:
        assert self._app is not None
        self._is_told_again = True
        while self._is_told_again:
            self._is_told_again = False
            try:
                await self._app.admin.again()
            except LlamahostError as error:
                logger.error("%s", error)
            except Exception:  # nobody awaits this task, so nobody else would say it
                logger.exception("the manifest could not be read again")
            else:
                logger.info("the manifest was read again")

    async def adopt(self, wanted: ServerSettings) -> Callable[[], None]:
        """What has these hold, once keys and certificate are seen to serve. Raises ManifestError."""
        assert self._app is not None
        app, tls, settings = self._app, self._tls, in_effect(self._settings, wanted)
        keys, successor = await asyncio.to_thread(lambda: (keys_of(wanted), tls_of(wanted)))

        def hold() -> None:
            self._settings = settings
            if tls is not None and successor is not None:
                _succeed(tls, successor)
            app.adopt(settings, keys)

        return hold

    def fail(self, status: int) -> None:
        """There is nothing to serve; end with this status."""
        self._status = status
        if self._stopping is None:
            self.stop()

    def stop(self) -> None:
        """The first call drains, the second ends the process."""
        if self._stopping is not None:
            logger.warning("stopping now")
            logging.shutdown()
            os._exit(STOPPED_NOW)
        self._stopping = asyncio.get_running_loop().create_task(self._drain())

    def _connections(self) -> list[Http1]:
        assert self._server is not None
        return [each for each in self._server.server_state.connections if isinstance(each, Http1)]

    async def _drain(self) -> None:
        assert self._app is not None
        assert self._server is not None
        gate, drain_s = self._app.gate, self._settings.drain_s
        if gate.n_inside:
            logger.info("stopping: %d running may take %g s more; again to stop now", gate.n_inside, drain_s)
        else:
            logger.info("stopping")
        gate.close()
        for connection in self._connections():
            connection.refuse_unfinished()
        self._service.drain()
        if self._starting is not None:
            self._starting.cancel()
        try:
            if not await gate.empty(drain_s):
                logger.warning("stopping: %d that did not finish in time ended now", gate.n_inside)
            await self._service.aclose()
            if not await gate.empty(self._flush_s):
                for connection in self._connections():
                    connection.transport.abort()  # nobody reads what it has to send
                await gate.empty(self._flush_s)
        finally:
            self._server.should_exit = True
