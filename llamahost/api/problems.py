"""Errors become a status and OpenAI's error body, here and nowhere else. Never a stack trace, never HTML.

InvalidRequest 400 · no or wrong key 401 · not over HTTP 403 · unknown model, adapter or path 404 · wrong method 405 ·
body that does not come 408 · superseded 409 · body too large 413 · queue full 429 · a model without marks asked to
/infill 501 · the hub refuses 502 · nothing can answer 503 · deadline passed 504 · anything else 500 with the request
id, logged whole.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

import orjson
from starlette.exceptions import HTTPException

from llamahost.api.patience import LEAST_RATE
from llamahost.core.errors import (
    ContextTooLong,
    DeadlineExceeded,
    GenerationFailed,
    InvalidRequest,
    LlamahostError,
    LoadFailed,
    ModelNotFound,
    NotThere,
    Overloaded,
    PullFailed,
    Unavailable,
)

logger = logging.getLogger("llamahost.api")


class Unauthorized(LlamahostError):
    """No key, or not one of ours."""


class Forbidden(LlamahostError):
    """Nobody may do that over HTTP as this server is set up."""


class Superseded(LlamahostError):
    """A later request has taken the place of this one."""


class NotServed(LlamahostError):
    """llama-server's word for what a model cannot do."""


class BodyTooLarge(LlamahostError):
    """The request's body is over the limit. `is_read`: nothing of it is left on the line."""

    def __init__(self, n_max: int, *, is_read: bool = False) -> None:
        told = f"the request's body is larger than {n_max} bytes; max_body_bytes is the limit of what models answer"
        super().__init__(told)
        self.is_read = is_read


class BodyTooSlow(LlamahostError):
    """The request's body has not come whole while anybody could wait for it. What is left of it may come yet."""

    def __init__(self, stall_s: float) -> None:
        super().__init__(
            f"the request's body did not come whole: for {stall_s:g} s (stall_s) nothing of it came, "
            f"or all of it slower than {LEAST_RATE:g} bytes a second"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error as a client sees it; `details` stand beside the four fields of OpenAI's body."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    details: dict[str, int] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code, **self.details}
        return orjson.dumps({"error": error})


def problem_of(error: Exception, request_id: str = "") -> Problem:
    """What to tell the client of `error`. What nobody foresaw is logged here, with its traceback."""
    message = str(error)
    match error:
        case ContextTooLong():
            return Problem(
                status=400,
                message=message,
                type="exceed_context_size_error",
                param=error.param,
                code="context_length_exceeded",
                details={"n_prompt_tokens": error.n_prompt, "n_ctx": error.n_ctx},
            )
        case NotThere():
            return Problem(status=404, message=message, type="not_found_error", param=error.param)
        case InvalidRequest():
            return Problem(status=400, message=message, type="invalid_request_error", param=error.param)
        case Unauthorized():
            return Problem(
                status=401,
                message=message,
                type="authentication_error",
                code="invalid_api_key",
                headers=((b"www-authenticate", b"Bearer"),),
            )
        case Forbidden():
            return Problem(status=403, message=message, type="permission_error", code="forbidden")
        case ModelNotFound():
            return Problem(status=404, message=message, type="not_found_error", param="model", code="model_not_found")
        case NotServed():
            return Problem(status=501, message=message, type="not_supported_error")
        case Superseded():
            return Problem(status=409, message=message, type="invalid_request_error", code="superseded")
        case BodyTooLarge():
            return Problem(status=413, message=message, type="invalid_request_error", code="body_too_large")
        case BodyTooSlow():
            return Problem(
                status=408,
                message=message,
                type="timeout_error",
                code="request_timeout",
                headers=((b"connection", b"close"),),  # what comes next on it would be taken for a request
            )
        case Overloaded():
            return Problem(
                status=429,
                message=message,
                type="rate_limit_error",
                code="queue_full",
                headers=(_retry_after(error.retry_after_s),),
            )
        case Unavailable():
            return Problem(
                status=503,
                message=message,
                type="unavailable_error",
                code="unavailable",
                headers=(_retry_after(error.retry_after_s),),
            )
        case PullFailed():
            status = 404 if error.is_unknown else 502
            return Problem(
                status=status, message=message, type="not_found_error" if error.is_unknown else "server_error"
            )
        case LoadFailed():
            return Problem(status=503, message=message, type="unavailable_error", code="model_failed_to_load")
        case DeadlineExceeded():
            return Problem(status=504, message=message, type="timeout_error", param="timeout", code="deadline_exceeded")
        case GenerationFailed():
            logger.error("request %s failed: %s", request_id, message)
            return Problem(status=500, message=message, type="server_error", code="generation_failed")
        case HTTPException():
            headers = tuple((k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items())
            type_ = "not_found_error" if error.status_code == 404 else "invalid_request_error"
            allowed = sorted(set((error.headers or {}).get("Allow", "").split(", ")) - {"HEAD", ""})
            message = f"this path takes {' and '.join(allowed)} and no other method" if allowed else error.detail
            return Problem(status=error.status_code, message=message, type=type_, headers=headers)
    logger.error("request %s failed unexpectedly", request_id, exc_info=error)
    hint = f"; the log has the reason under request id {request_id}" if request_id else ""
    return Problem(status=500, message=f"the server failed on this request{hint}", type="server_error")


def _retry_after(seconds: float) -> tuple[bytes, bytes]:
    return (b"retry-after", b"%d" % max(1, math.ceil(seconds)))
