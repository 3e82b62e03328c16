"""A log line is one line, for people or for machines."""

import json
import logging
from typing import Any

from llamahost.ops.log import JsonLines, TextLines


def record(message: str, *values: object, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("llamahost.x", logging.WARNING, "file", 1, message, values, None)
    vars(made).update(extra)
    return made


def test_text_has_clock_level_and_place() -> None:
    line = TextLines().format(record("%s left", "one"))
    assert line.endswith(" warning llamahost.x: one left")
    assert "\n" not in line


def test_json_is_one_object_with_the_fields_beside_it() -> None:
    line = json.loads(JsonLines().format(record("said", fields={"status": 200, "path": "/x"})))
    assert (line["level"], line["logger"], line["status"], line["path"]) == ("warning", "llamahost.x", 200, "/x")
    assert json.loads(JsonLines().format(record("a\nb")))["message"] == "a\nb"
