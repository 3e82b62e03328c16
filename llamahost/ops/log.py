"""One line an event, as text for people or JSON for machines, on standard error. Content is nobody's business here."""

from __future__ import annotations

import logging
import sys
import time
from typing import Literal, TextIO

import orjson

Format = Literal["text", "json"]
LEVELS = ("debug", "info", "warning", "error")


def set_up(level: str = "info", form: Format = "text", stream: TextIO | None = None) -> None:
    """Send every log of the process to one place. Called by commands alone, never by the library."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("llamahost").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # No line says where in the code it was written, nor by which thread or process: nobody looks for it.
    logging._srcfile = None  # as the documentation of logging has it, like the next
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class TextLines(logging.Formatter):
    """2026-01-31 12:00:00.123 info  llamahost.fleet: …"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        head = f"{clock}.{record.msecs:03.0f} {record.levelname.lower():7} {record.name}: "
        return head + _message(self, record)


class JsonLines(logging.Formatter):
    """One object a line; what a record has as `fields` stands beside its own keys."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update(fields)
        else:
            line["message"] = _message(self, record)
        return orjson.dumps(line, default=str).decode()


def _message(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return text
