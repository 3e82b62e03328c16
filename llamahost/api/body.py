"""Request bodies: read within their limits, decoded into a type, every mistake named by the path of its field.

Where a whole number is asked for 10.0 is one, as JSON has it and other servers do: some languages write no other.
Large bodies are decoded, and understood, beside the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec.inspect import ListType, LiteralType, StructType, Type, UnionType, type_info
from starlette.types import Receive, Scope

from llamahost.api.patience import IS_WHOLE, Passage
from llamahost.api.problems import BodyTooLarge, BodyTooSlow
from llamahost.core.errors import InvalidRequest
from llamahost.core.turn import in_turn

T = TypeVar("T")
Decoded = TypeVar("Decoded", covariant=True)

N_SMALL = 8192
"""Bytes of a body that are decoded on the loop itself, in 0.2 ms at most; the way to a thread and back costs that."""

MAX_ORDER_BYTES = 2**16
"""Of a body that says what is to be done with a model, and holds nobody's words: it is decoded on the loop."""

N_TOLD = 100
"""Characters of a wrong value that are told."""

COMPRESSED = "the request's body is compressed; send it as it is, without Content-Encoding"

_HALF = re.compile(
    rb"(?<!\\)\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\)(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
"""A surrogate without its other half, which JavaScript writes of an emoji that it cuts in two."""

_BYTE = re.compile(r"\(byte (\d+)\)$")
N_PAIR = 12
"""Bytes of a whole pair: so near to where reading ended, half of one stands. To look at all of 64 MB takes 8 s."""

_AT = re.compile(r" - at `(?:key in )?\$?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_STRANGE = re.compile(r"unknown field `(.*)`")


N_AGAIN = 2**20
"""Bytes of a refused body in which a key is looked for that stands twice: all of it becomes objects, in 0.1 s."""

N_WHOLE = 32
"""Numbers of a body that may be written with a point where whole ones are asked for; each costs a look at all of it."""

_NOT_WHOLE = re.compile(r"^Expected `(?:[^`]* )?int(?: [^`]*)?`, got `float` - at `\$((?:\.\w+|\[\d+\])+)`$")

ELSEWHERE = {"messages": ("prompt", "/v1/completions"), "prompt": ("messages", "/v1/chat/completions")}
"""What is given to one route where another takes it."""

_NO_CHOICE = re.compile(r"Invalid (?:enum )?value ((?s:.)*)$")
_STEP = re.compile(r"\[?([^.\[\]]+)\]?")


class Decoder(Protocol[Decoded]):
    """msgspec's, or one that raises as it does."""

    def decode(self, body: bytes, /) -> Decoded: ...


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, n_max: int, stall_s: float) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as it is known, ClientGone when the client leaves half-way, and
    BodyTooSlow when nothing comes for `stall_s`, or all too little."""
    if scope.get(IS_WHOLE):  # as most have come before this: nobody is waited for
        body = await _read(scope, receive, n_max)
    else:
        body = await _read_in_time(scope, receive, n_max, stall_s)
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.lower() not in (b"", b"identity"):
            raise InvalidRequest(COMPRESSED)
    return body


async def _read_in_time(scope: Scope, receive: Receive, n_max: int, stall_s: float) -> bytes:
    time = asyncio.get_running_loop().time
    passage = Passage(time())

    def moved(n_bytes: int) -> None:
        passage.moved(n_bytes, time())
        patience.reschedule(passage.ends(stall_s))

    try:
        async with asyncio.timeout_at(passage.ends(stall_s)) as patience:
            return await _read(scope, receive, n_max, moved)
    except TimeoutError:
        raise BodyTooSlow(stall_s) from None


async def _read(
    scope: Scope, receive: Receive, n_max: int, on_piece: Callable[[int], None] = lambda n_bytes: None
) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > n_max:
            raise BodyTooLarge(n_max)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > n_max:
            raise BodyTooLarge(n_max, is_read=True)
        return body
    # A list of pieces would cost a client of tiny ones nothing, and this process thirty times as much.
    whole = BytesIO()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        if whole.tell() + len(piece) > n_max:
            raise BodyTooLarge(n_max, is_read=not message.get("more_body", False))
        whole.write(piece)
        if not message.get("more_body", False):
            return whole.getvalue()
        on_piece(len(piece))
        message = await receive()


async def pass_over(receive: Receive, timeout_s: float) -> None:
    """Read what is left of a body and forget it; no longer than this."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while (await receive()).get("more_body", False):
                pass


class Reading:
    """Owned by the event loop. Large bodies are read in one thread beside it.

    In one, since decoding holds the GIL: a second would be no faster, and take it from the loop twice as often.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "read")

    async def run(self, work: Callable[[], T], n_bytes: int) -> T:
        """Do work on a body of `n_bytes`: here if small, else in the thread."""
        if n_bytes <= N_SMALL:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, in_turn, work)

    def close(self) -> None:
        """End the thread when it has done what it is doing. Does not wait for it."""
        self._thread.shutdown(wait=False)


def decode_body(body: bytes, decoder: Decoder[T]) -> T:
    """The body as the decoder's type. Raises InvalidRequest with the path of the field at fault as `param`."""
    if body.startswith(BOM_UTF8):  # as Windows' programs write files; RFC 8259 lets readers pass it over
        body = body[len(BOM_UTF8) :]
    if not body.strip():
        raise InvalidRequest("the request's body is empty; it must be a JSON object")
    try:
        return _decoded(body, decoder)
    except msgspec.ValidationError as error:
        told = _mistake(str(error), getattr(decoder, "type", None))
        if told.param in ELSEWHERE and str(told).endswith("is required"):
            other, path = ELSEWHERE[told.param]
            if b'"%s"' % other.encode() in body:
                told = InvalidRequest(f"{told}; `{other}` is for {path}", param=told.param)
        raise told from None
    except msgspec.DecodeError as error:
        at = _BYTE.search(str(error))
        seen = _no_json(body, int(at.group(1)) if at else len(body))
        raise InvalidRequest(seen or f"the request's body is not valid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            _no_json(body, error.start) or f"the request's body is not valid UTF-8: {error.reason}"
        ) from None
    except RecursionError:
        raise InvalidRequest("the request's body is nested too deeply") from None


def _no_json(body: bytes, at: int) -> str:
    """What else it is, where that can be seen; it was read up to `at`."""
    if body.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in body[:2]:
        return "the request's body is UTF-16; JSON is sent in UTF-8"
    if body.startswith(b"\x1f\x8b"):
        return COMPRESSED
    if half := _HALF.search(body, max(0, at - N_PAIR), at + N_PAIR):
        where = f"at byte {half.start()} stands {half.group().decode()}, half of a surrogate pair"
        return f"the request's body is not valid JSON: {where}, as a text has that was cut inside a character"
    return ""


def _decoded(body: bytes, decoder: Decoder[T]) -> T:
    """Raises what msgspec does, but of a key that stands twice only the last one counts, as everywhere with JSON.

    Of a body beyond N_AGAIN each one counts.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        mistake = error
    kind: type[T] | None = getattr(decoder, "type", None)
    if kind is None or (len(body) > N_AGAIN and _NOT_WHOLE.search(str(mistake)) is None):
        raise mistake
    try:
        told = msgspec.json.decode(body)
    except (msgspec.ValidationError, RecursionError):  # a number out of all ranges, or depth where none is asked for
        raise mistake from None
    for _ in range(N_WHOLE + 1):
        try:
            return msgspec.convert(told, kind)
        except msgspec.ValidationError as error:
            mistake = error
        at = _NOT_WHOLE.search(str(mistake))
        if at is None or not _made_whole(told, _STEP.findall(at.group(1))):
            break
    raise mistake


def _made_whole(told: Any, steps: list[str]) -> bool:
    """Whether the number that stands there is whole; now it is written so."""
    *above, last = (int(step) if step.isdigit() else step for step in steps)
    for step in above:
        told = told[step]
    number = told[last]
    if type(number) is not float or not number.is_integer():
        return False
    told[last] = int(number)
    return True


def _mistake(message: str, kind: Any) -> InvalidRequest:
    """msgspec's sentence with its path moved into `param`: `$.messages[0].role` becomes messages[0].role."""
    at = _AT.search(message)
    path = at.group(1).removeprefix(".") if at else ""
    sentence = message[: at.start()] if at else message
    missing = _MISSING.search(sentence)
    if missing:
        path = f"{path}.{missing.group(1)}" if path else missing.group(1)
        return InvalidRequest(f"`{path}` is required", param=path)
    if wrong := _NO_CHOICE.match(sentence):
        sentence = sentence[: wrong.start(1) + N_TOLD]
        if choices := ", ".join(choices_at(kind, path)):
            return InvalidRequest(f"`{path}` must be one of {choices}, not {sentence[wrong.start(1) :]}", param=path)
    if not path and (strange := _STRANGE.search(sentence)) and isinstance(kind, type):
        fields = ", ".join(kind.__struct_encode_fields__) if issubclass(kind, msgspec.Struct) else ""
        name = strange.group(1)[:N_TOLD]
        return InvalidRequest(f"`{name}` is no field of this request, which may have {fields}", param=name)
    if not path:
        return InvalidRequest(f"the request's body: {sentence[:1].lower()}{sentence[1:]}")
    return InvalidRequest(f"`{path}`: {sentence[:1].lower()}{sentence[1:]}", param=path)


def choices_at(kind: Any, path: str) -> list[str]:
    """The words that a body of this type may have at this path; none where other values may stand there."""
    found = _apart(_known(kind)) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else []
    for step in _STEP.findall(path):
        below: list[Type] = []
        for each in found:
            if isinstance(each, StructType):
                below += [field.type for field in each.fields if field.encode_name == step]
                if each.tag_field == step:
                    below.append(LiteralType((each.tag,)))
            elif isinstance(each, ListType):
                below.append(each.item_type)
        found = [part for each in below for part in _apart(each)]
    return [str(value) for each in found if isinstance(each, LiteralType) for value in each.values]


@lru_cache(maxsize=64)
def _known(kind: type[msgspec.Struct]) -> Type:
    """It takes 5 ms to look at a chat's, which the loop has once for all mistakes."""
    return type_info(kind)


def _apart(kind: Type) -> list[Type]:
    return list(kind.types) if isinstance(kind, UnionType) else [kind]
