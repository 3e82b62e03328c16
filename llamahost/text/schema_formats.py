"""`format` of JSON Schema, as the grammar compiler takes it. Knows names of formats; knows no schema.

What OpenAPI and pydantic call formats and JSON Schema does not have says what a value is for, and nothing of its form:
that is let through. Any other unknown name is a mistake, or asks for what no grammar here expresses.
"""

from __future__ import annotations

import re

FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")

_NOTES = (
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float", "double", "decimal",
    "byte", "binary", "base64", "base64url", "password", "path", "file-path", "directory-path", "json-string",
    "multi-host-uri", "html", "markdown", "commonmark",
)  # fmt: skip
_VERSION = re.compile("uuid([1-8])")
_HEX = "[0-9a-fA-F]"


def keywords_of(name: object) -> dict[str, str] | None:
    """What the schema gets in its place, if anything; None where it cannot be kept."""
    if name in FORMATS:
        return {"format": str(name)}
    if name in _NOTES:
        return {}
    version = _VERSION.fullmatch(name) if isinstance(name, str) else None
    if version is None:
        return None
    return {"pattern": f"^{_HEX}{{8}}-{_HEX}{{4}}-{version.group(1)}{_HEX}{{3}}-[89abAB]{_HEX}{{3}}-{_HEX}{{12}}$"}
