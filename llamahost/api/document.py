"""The OpenAPI document, made of the very types that read the bodies. Knows no request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

import msgspec

from llamahost.api.openai_answers import ErrorAnswer
from llamahost.api.openapi_limits import limit
from llamahost.api.operations import ERRORS, HEADERS, OPERATIONS, TOLD, Operation

Json = dict[str, object]

_WHOLE: Json = {"type": "integer", "minimum": 1}


def document() -> Json:
    """OpenAPI 3.1 of what is served, at the root of a server."""
    types: list[object] = [ErrorAnswer]
    types += [
        kind
        for operation in OPERATIONS
        for kind in (operation.body, operation.answer, operation.lines, operation.complaint)
        if kind is not None
    ]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    limit(components)
    refs = dict(zip(types, schemas, strict=True))
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llamahost",
            "version": _version(),
            "description": "OpenAI's chat completions, completions and embeddings on GGUF models, and rerank, with "
            "llama.cpp's extra fields. A field that is null is absent; unknown fields are passed over.",
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "Where a key is set."}},
        },
    }


def _operation(operation: Operation, refs: Mapping[object, dict[str, object]]) -> Json:
    told: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": dict(_responses(operation, refs)),
    }
    if operation.is_open:
        told["security"] = [{}]
    if operation.body is not None:
        told["requestBody"] = {"required": operation.needs_body, "content": _json_of(refs[operation.body])}
    text = {"type": "string"}
    parameters: list[Json] = [{"name": name, "in": "query", "schema": text} for name in operation.query]
    parameters += [
        {"name": name, "in": "header", "schema": text, "description": HEADERS[name]} for name in operation.headers
    ]
    if "{name}" in operation.path:
        parameters.append({"name": "name", "in": "path", "required": True, "schema": text})
    if parameters:
        told["parameters"] = parameters
    return told


def _responses(operation: Operation, refs: Mapping[object, dict[str, object]]) -> Iterator[tuple[str, Json]]:
    plain: Json = {"text/plain": {"schema": {"type": "string"}}}
    content = plain if operation.answer is None else _json_of(refs[operation.answer])
    if operation.is_events:
        content = {"text/event-stream": {}}
    if operation.lines is not None:
        content = {**content, "application/x-ndjson": {"schema": refs[operation.lines]}}
    elif operation.body is not None and operation.is_streamed:
        content = {**content, "text/event-stream": {}}  # events have no schema that all readers agree on
    headers: Json = {}
    if operation.headers:
        headers = {name: {"description": told, "schema": {"type": "string"}} for name, told in TOLD.items()}
    yield "200", {"description": "The answer.", "content": content, **({"headers": headers} if headers else {})}
    if operation.body is not None and not operation.needs_body:
        yield "202", {"description": "It is begun, and not waited for.", "content": content}
    if operation.is_open:
        yield "503", {"description": "Nothing can answer now.", "content": content}
    wrong = refs[ErrorAnswer]
    if operation.complaint is not None:
        wrong = {"anyOf": [refs[operation.complaint], wrong]}
    for status in operation.errors:
        told: Json = {"description": ERRORS[status], "content": _json_of(wrong)}
        of_error = headers if status not in (401, 404, 408, 413) else {}
        if status in (429, 503):
            of_error = {"Retry-After": {"required": True, "description": "Seconds.", "schema": _WHOLE}, **of_error}
        yield str(status), {**told, "headers": of_error} if of_error else told
    yield "default", {"description": "Any other error.", "content": _json_of(wrong)}


def _json_of(schema: dict[str, object]) -> Json:
    return {"application/json": {"schema": schema}}


def _version() -> str:
    try:
        return version("llamahost")
    except PackageNotFoundError:  # from a folder that was not installed
        return "0"
