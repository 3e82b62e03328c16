"""How a command ends: its status, and one line on standard error. Knows errors; knows no command."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from llamahost.core.errors import InvalidRequest, LlamahostError, LoadFailed, ManifestError, ModelNotFound, PullFailed

DONE, UNEXPECTED, USAGE, NO_MODEL, NO_ADDRESS, BAD_MANIFEST, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

EPILOG = """\b
Exit status:
  0    done
  1    something failed that should not have; `check`: something is wrong
  2    wrong usage, or a request that the model cannot serve as it is
  3    no model could be loaded, or fetched
  4    the address cannot be listened on, or does not answer
  5    the manifest is wrong
  130  interrupted by Ctrl-C; `serve`: by a second signal

Every LLAMAHOST_* variable stands in .env.example; `llamahost config` tells each value and where it came from."""


class Unreachable(LlamahostError):
    """Nothing answers at the address."""


def fail(status: int, message: str) -> NoReturn:
    """One clear line, and the status that scripts read."""
    print(f"llamahost: {message}", file=sys.stderr, flush=True)
    raise typer.Exit(status)


def status_of(error: LlamahostError) -> int:
    match error:
        case InvalidRequest():
            return USAGE
        case LoadFailed() | ModelNotFound() | PullFailed():
            return NO_MODEL
        case ManifestError():
            return BAD_MANIFEST
        case Unreachable():
            return NO_ADDRESS
    return UNEXPECTED


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong inside ends the command with its line and its status."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except LlamahostError as error:
        fail(status_of(error), str(error))
    except OSError as error:
        if error.filename is None:  # a pipe, a socket
            raise
        fail(USAGE, f"{error.filename!s:.200}: {(error.strerror or str(error)).lower()}")


def leave(status: int) -> NoReturn:
    """End the process. A load or a step that does not return would hold up Python's own way out for ever."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        os._exit(status)
    raise typer.Exit(status)
