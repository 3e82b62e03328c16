"""What can go wrong, said once. Knows no HTTP status and no dialect; `api/problems` translates.

LlamahostError
 ├─ InvalidRequest            the caller can mend it; `param` names the field
 │   ├─ ContextTooLong        the prompt does not fit
 │   ├─ NotThere              what a field names does not exist
 │   ├─ NotAble               this model cannot do that
 │   └─ TemplateFailed        the chat template refused the messages
 ├─ ModelNotFound             no model of that name
 ├─ Overloaded                the queue is full; `retry_after_s`
 ├─ Unavailable               nothing loaded, still loading, or shutting down; `retry_after_s`
 │   ├─ OutOfReach            nor about to be: its load failed, or is left to somebody's hand
 │   └─ NotBegun              it only waits where it is, and another may take it sooner
 ├─ DeadlineExceeded          the request's own time limit passed
 ├─ GenerationFailed          the engine could not finish this request
 │   └─ NotRead               its reader stalled
 ├─ LoadFailed                a model file could not be opened
 │   └─ NoMemory              it opens, and a smaller context might fit
 ├─ PullFailed                a model could not be brought to this machine
 ├─ ManifestError             model_manifest.toml is wrong; says where
 └─ BackendError              raised by a backend to the engine, never seen by a caller
     ├─ NoRoom                no KV cells for this plan; the state is as before
     └─ BackendLost           the context is unusable and must be made anew
"""

from __future__ import annotations

import re
from collections.abc import Sequence

N_KNOWN = 8
"""Names of models that are told where another was asked for."""


def network_told(error: BaseException) -> str:
    """What went wrong on the way to another program, in words: without numbers of errors and lines of C."""
    words = re.sub(r"^\[[^]]*\] ?|\s*\(_ssl\.c:\d+\)$", "", str(error)).lower()
    return words or type(error).__name__


class LlamahostError(Exception):
    """The root of every error that llamahost raises on purpose. It can be copied, and sent to another process."""

    def __reduce__(self) -> tuple[object, ...]:  # Exception's own would call the class with the message alone
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[LlamahostError], args: tuple[object, ...], state: dict[str, object]) -> LlamahostError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class InvalidRequest(LlamahostError):
    """The request cannot be served as it is; `param` is the path of the field at fault, when there is one."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextTooLong(InvalidRequest):
    """The prompt needs more positions than one request may hold. Both counts are in tokens."""

    def __init__(
        self,
        *,
        n_prompt: int,
        n_ctx: int,
        model: str,
        param: str | None = None,
        advice: str = "shorten it, or have the model served with a larger n_ctx",
    ) -> None:
        # "exceeds the available context size" are llama.cpp's words, by which some clients know this error.
        super().__init__(
            f"prompt has {n_prompt} tokens, which exceeds the available context size of `{model}`, {n_ctx} tokens; "
            f"{advice}",
            param=param,
        )
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx


class NotThere(InvalidRequest):
    """What the field names does not exist."""


class NotAble(InvalidRequest):
    """This model cannot do that, whatever is asked of it."""


class TemplateFailed(InvalidRequest):
    """The model's chat template raised on these messages; the message quotes it."""


class ModelNotFound(LlamahostError):
    """No model answers to this name, for that `reason`; `nearest` is the closest known name, or empty.

    Where none is near, `known` are told, as many as a person reads.
    """

    def __init__(self, model: str, *, nearest: str = "", reason: str = "", known: Sequence[str] = ()) -> None:
        hint = f"; did you mean `{nearest}`?" if nearest else ""
        if known and not nearest:
            n = len(known) - N_KNOWN
            rest = f" and {n} {'other' if n == 1 else 'others'}" if n > 0 else ""
            told = ", ".join(f"`{name}`" for name in known[:N_KNOWN])
            hint = f"; served {'is' if len(known) == 1 else 'are'} {told}{rest}"
        super().__init__((reason or f"model `{model}` is not known here") + hint)
        self.model = model
        self.nearest = nearest


class Overloaded(LlamahostError):
    """The bounded queue of the model is full."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(LlamahostError):
    """Nothing can answer now: no model, still loading, or shutting down."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OutOfReach(Unavailable):
    """The model is not loaded, and not about to be."""


class NotBegun(Unavailable):
    """Nothing was begun of it where it waits, so another may take it, who is sooner there."""


class DeadlineExceeded(LlamahostError):
    """The request's own time limit passed before it finished."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"the request did not finish within its {timeout_s:g} s")
        self.timeout_s = timeout_s


class GenerationFailed(LlamahostError):
    """The engine failed while this request was in its plan."""


class NotRead(GenerationFailed):
    """The answer was not read for too long; whoever made it is not to blame."""


class LoadFailed(LlamahostError):
    """A model could not be opened; the message names the file and the reason."""


class PullFailed(LlamahostError):
    """A model could not be brought to this machine. `is_unknown`: there is nothing of that name to bring."""

    def __init__(self, message: str, *, is_unknown: bool = False) -> None:
        super().__init__(message)
        self.is_unknown = is_unknown


class NoMemory(LoadFailed):
    """The weights are there, and the context that was asked for could not be had beside them."""


class ManifestError(LlamahostError):
    """The manifest, or an option in its place, is wrong; `key` and `line` tell where, if that is known."""

    def __init__(self, message: str, *, key: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.key = key
        self.line = line


class BackendError(LlamahostError):
    """A step failed; the jobs of its plan fail, the engine goes on."""


class NoRoom(BackendError):
    """The plan needs more KV cells than are free. Nothing was changed; a smaller plan may succeed."""


class BackendLost(BackendError):
    """The context cannot be trusted any more; the engine must be made anew."""
