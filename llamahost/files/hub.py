"""Ask the Hugging Face hub: what a repository holds, and the bytes of a file from some point on.

The session, its token and what its refusals mean are huggingface_hub's; it is imported when something is first asked.
Its own download is not used: since version 1 it begins anew after each interruption. Nor is Xet, which only the real
hub speaks and which cannot be continued either: every file also comes by plain HTTP, the largest ones in pieces.
Knows no folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from llamahost.core.errors import PullFailed, network_told
from llamahost.files.repo import Reference, RepoFile

if TYPE_CHECKING:
    import httpx2

ENDPOINT = "https://huggingface.co"
WHOLE_BYTES = 50 * 10**9  # of one file, above which the real hub's network sends it by HTTP in pieces alone
PIECE_BYTES = 8 * 2**30
CONNECT_S = 10.0
SILENCE_S = 30.0  # within an answer, until it counts as broken off
LISTING_BYTES = 64 * 2**20  # the largest repositories have tens of thousands of files
LISTING_TRIES = 3
PATIENCE = 5  # tries without a single byte of news
BACKOFF_S = 1.0  # before the second try, doubled for each further one

_TRUE = {"1", "on", "yes", "true"}
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_importing = threading.Lock()


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit."""

    commit: str
    files: tuple[RepoFile, ...]


class Offline(PullFailed):
    """The hub cannot be reached, or must not be: what is on the machine is all there is."""


class BrokenOff(Exception):
    """The connection ended or the hub had trouble; asking again may help. `is_busy`: it said so itself."""

    def __init__(self, message: str, *, is_busy: bool = False) -> None:
        super().__init__(message)
        self.is_busy = is_busy


@dataclass(frozen=True, slots=True)
class Hub:
    """One endpoint. `token` None: the one that `hf auth login` or HF_TOKEN left on this machine, if any."""

    endpoint: str = ENDPOINT
    token: str | None = field(default=None, repr=False)
    is_offline: bool = False

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Hub:
        """HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE as every program for the hub reads them."""
        offline = environ.get("HF_HUB_OFFLINE") or environ.get("TRANSFORMERS_OFFLINE") or ""
        return cls(
            endpoint=(environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/"),
            token=environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN") or None,
            is_offline=offline.lower() in _TRUE,
        )

    @property
    def name(self) -> str:
        """As people call it."""
        return urlsplit(self.endpoint).netloc or self.endpoint

    def listing(self, reference: Reference) -> Listing:
        """What the repository holds at the revision. Raises PullFailed; Offline where nothing answers; BrokenOff."""
        url = f"{self.endpoint}/api/models/{reference.repo}/revision/{quote(reference.revision, safe='')}"
        try:
            with self._stream(url, reference, params={"blobs": "true"}) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > LISTING_BYTES:
                        raise PullFailed(f"{self.name} lists {reference.repo} without end")
            return _listing(bytes(body))
        except BrokenOff as error:
            if error.is_busy:
                raise
            raise Offline(f"{self.name} does not answer: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise PullFailed(
                f"{self.name} answers for {reference.repo} what no hub does; is HF_ENDPOINT right?"
            ) from error

    @contextmanager
    def content(
        self, reference: Reference, commit: str, path: str, start: int, end: int | None = None
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The file's bytes up to `end`, or all, and from where on: `start`, or 0 where it must be sent whole.

        Ends early in a BrokenOff. Raises PullFailed where asking again is no use.
        """
        url = f"{self.endpoint}/{reference.repo}/resolve/{commit}/{quote(path)}"
        headers = {"range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        with self._stream(url, reference, headers=headers) as response:
            begins = start
            if response.status_code != 206:
                begins = 0
            elif not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
                raise PullFailed(f"{self.name} was asked for {path} from byte {start} on and sends something else")
            yield begins, response.iter_raw()

    @contextmanager
    def _stream(
        self,
        url: str,
        reference: Reference,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpx2.Response]:
        """An answer of 2xx. Raises BrokenOff or PullFailed, also for what happens while it is read."""
        if self.is_offline:
            raise Offline("HF_HUB_OFFLINE is set, so the hub is not asked")
        client = _client()
        errors, transport = client.errors, client.transport
        token = self.token or client.get_token()
        sent = {"user-agent": "llamahost", "accept-encoding": "identity", **(headers or {})}
        if token:
            sent["authorization"] = f"Bearer {token}"  # left behind where a redirection leads to another host
        try:
            with client.get_session().stream(
                "GET",
                url,
                params=params,
                headers=sent,
                follow_redirects=True,
                timeout=transport.Timeout(SILENCE_S, connect=CONNECT_S),
            ) as response:
                if response.status_code in _PASSING:
                    raise BrokenOff(f"{response.status_code} {response.reason_phrase}".rstrip().lower(), is_busy=True)
                client.raise_for_status(response)
                yield response
        except errors.GatedRepoError as error:
            raise PullFailed(
                f"{reference.repo} is gated: agree to its terms at {self.endpoint}/{reference.repo}, and give a token "
                f"that may read it as HF_TOKEN{_token_told(token)}"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise PullFailed(f"{reference.repo} has no revision {reference.revision}", is_unknown=True) from error
        except errors.EntryNotFoundError as error:
            raise PullFailed(f"{reference.repo} has no {url.rpartition('/')[2]}", is_unknown=True) from error
        except errors.RepositoryNotFoundError as error:
            raise PullFailed(
                f"{self.name} knows no repository {reference.repo}, or it is private and HF_TOKEN must be a token that "
                f"may read it{_token_told(token)}",
                is_unknown=True,
            ) from error
        except errors.OfflineModeIsEnabled as error:
            raise Offline("HF_HUB_OFFLINE is set, so the hub is not asked") from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            if status == 404:
                raise PullFailed(f"{self.name} knows no repository {reference.repo}", is_unknown=True) from error
            hint = f"; is HF_TOKEN right?{_token_told(token)}" if status in (401, 403) else ""
            raise PullFailed(f"{self.name} refuses {reference.repo} with {status}{hint}") from error
        except transport.TransportError as error:
            raise BrokenOff(network_told(error)) from error
        except (transport.InvalidURL, transport.TooManyRedirects, transport.DecodingError) as error:
            raise PullFailed(f"{self.name}: {str(error).lower() or type(error).__name__}") from error


@dataclass(frozen=True, slots=True)
class _Client:
    """What is used of huggingface_hub."""

    get_session: Any
    get_token: Any
    raise_for_status: Any
    errors: Any
    transport: Any


def _client() -> _Client:
    """Imported here, by whoever asks first: it takes a third of a second."""
    with _importing, _quiet():
        import httpx2
        from huggingface_hub import errors
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # it exports by importing
            get_session,
            get_token,
            hf_raise_for_status,
        )

    return _Client(get_session, get_token, hf_raise_for_status, errors, httpx2)


@contextmanager
def _quiet() -> Iterator[None]:
    """Where nothing else was said, huggingface_hub tells nobody what runs here. It reads this when it is imported."""
    if any(name in os.environ for name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")):
        yield
        return
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        yield
    finally:
        with contextlib.suppress(KeyError):
            del os.environ["HF_HUB_DISABLE_TELEMETRY"]


def _token_told(token: str | None) -> str:
    return "" if token else " (none is set)"


def _listing(body: bytes) -> Listing:
    """Raises ValueError, KeyError, TypeError, AttributeError, OverflowError or RecursionError on what is none."""
    found = json.loads(body)
    files = []
    for each in found["siblings"]:
        lfs = each.get("lfs") or {}
        files.append(
            RepoFile(
                str(each["rfilename"]),
                int(lfs.get("size", each.get("size")) or 0),
                sha256=_hex(lfs.get("sha256") or lfs.get("oid"), 64),
                git_sha1="" if lfs else _hex(each.get("blobId"), 40),
            )
        )
    commit = _hex(found["sha"], 40)
    if not commit:
        raise ValueError("no commit")
    return Listing(commit, tuple(files))


def _hex(text: object, n: int) -> str:
    """The digest, empty where there is none: it becomes a file's name. Raises ValueError."""
    if not text:
        return ""
    if not isinstance(text, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{n}}}", text):
        raise ValueError(f"{text!r:.80} is no digest")
    return text.lower()
