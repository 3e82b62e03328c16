"""HTTP by hand, so that it can be done badly: half a request, a part of an answer, long pauses. Knows no dialect."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field


class Cut(Exception):
    """The connection ended inside a response, or instead of one."""


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes = b""
    took_s: float = 0.0
    was_cut: bool = field(default=False)

    def json(self) -> object:
        return json.loads(self.body)


def request_bytes(method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: soak", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class Connection:
    """Owned by one client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, *, is_narrow: bool = False) -> Connection:
        """`is_narrow`: what is not read soon stays with the server."""
        sock = socket.socket()
        if is_narrow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**13 if is_narrow else 2**24)
        return cls(reader, writer)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):  # a refusal may lie there to be read
            await self.writer.drain()

    async def response(self, *, pauses: tuple[float, ...] = ()) -> Response:
        """One whole response; between its pieces the pauses are made, one after the other. Raises Cut."""
        left = list(pauses)

        async def rest() -> None:
            if left:
                await asyncio.sleep(left.pop())

        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Cut("before a head") from error
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        response = Response(int(first.split()[1]), headers)
        pieces: list[bytes] = []
        try:
            if "content-length" in headers:
                pieces.append(await self.reader.readexactly(int(headers["content-length"])))
            elif headers.get("transfer-encoding") == "chunked":
                while True:
                    await rest()
                    size = int(await self.reader.readline() or b"x", 16)
                    pieces.append((await self.reader.readexactly(size + 2))[:-2])
                    if not size:
                        break
            else:
                pieces.append(await self.reader.read())
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            response.was_cut = True
        response.body = b"".join(pieces)
        response.took_s = clock() - began
        return response

    def abort(self) -> None:
        self.writer.transport.abort()
