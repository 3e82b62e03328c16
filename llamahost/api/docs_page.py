"""An OpenAPI document as one page to read: no script, and no request to anybody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .25rem; }
section h3 { font-size: 1rem; margin: 2rem 0 .25rem; font-family: ui-monospace, monospace; }
p { margin: .25rem 0 .75rem; }
code { font-family: ui-monospace, monospace; font-size: .92em; overflow-wrap: anywhere; }
.method { display: inline-block; min-width: 3rem; font-weight: 700; text-transform: uppercase; font-size: .85rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8884; }
th { font-weight: 600; }
td:first-child { width: 16rem; }
nav ul { margin: 1rem 0 0; padding: 0; list-style: none; columns: 20rem; }
nav a { text-decoration: none; }
.needed { font-weight: 700; }
a { color: LinkText; }
"""


def render(document: Mapping[str, Any]) -> bytes:
    """The page, in UTF-8."""
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}: API</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body><main><h1>{title}</h1>",
        f"<p>{_prose(info['description'])}</p>",
        '<p>For programs: <a href="openapi.json">openapi.json</a></p>',
    ]
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    parts.append("<nav><ul>")
    parts += [
        f'<li><a href="#{_anchor(path, method)}">{_named(path, method)}</a></li>' for path, method, _ in operations
    ]
    parts.append('<li><a href="#types">Types</a></li></ul></nav>')
    for path, method, operation in operations:
        parts += _operation(path, method, operation)
    parts.append('<section><h2 id="types">Types</h2>')
    for name, schema in document["components"]["schemas"].items():
        parts += _type(name, schema)
    parts.append("</section></main></body></html>\n")
    return "".join(parts).encode()


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{_anchor(path, method)}">{_named(path, method)}</h2>'
    yield f"<p>{_prose(operation['summary'])}</p><table>"
    for parameter in operation.get("parameters", ()):
        told = f"<code>{escape(parameter['name'])}</code> {_prose(parameter.get('description', ''))}"
        yield f"<tr><td>{escape(parameter['in'])}</td><td>{told}</td></tr>"
    body = operation.get("requestBody")
    if body is not None:
        yield f"<tr><td>body</td><td>{_content(body['content'])}</td></tr>"
    for status, response in operation["responses"].items():
        content = _content(response.get("content", {}))
        yield f"<tr><td>{escape(status)}</td><td>{content}<br>{_prose(response['description'])}</td></tr>"
    yield "</table>"


def _anchor(path: str, method: str) -> str:
    return escape(f"{method}{path}")


def _named(path: str, method: str) -> str:
    return f'<span class="method">{method}</span> <code>{escape(path)}</code>'


def _content(content: Mapping[str, Any]) -> str:
    return " or ".join(
        spelled(form["schema"]) if kind == "application/json" else f"<code>{escape(kind)}</code>"
        for kind, form in content.items()
    )


def _type(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h3 id="{escape(name)}">{escape(name)}</h3>'
    if "description" in schema:
        yield f"<p>{_prose(schema['description'])}</p>"
    needed = set(schema.get("required", ()))
    yield "<table>"
    for field, inner in schema.get("properties", {}).items():
        kind = ' class="needed"' if field in needed else ""
        yield f"<tr><td><code{kind}>{escape(field)}</code></td><td>{spelled(inner)}</td></tr>"
    yield "</table>"


def spelled(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, as HTML; null, which every field may be, is left out."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        kinds = [spelled(inner) for inner in schema["anyOf"] if inner.get("type") != "null"]
        return " or ".join(kinds) or "null"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"list of {spelled(schema['items'])}" if schema.get("items") else "list"
    kind = schema.get("type", "anything")
    return escape(kind if isinstance(kind, str) else " or ".join(kind))


def _prose(text: str) -> str:
    """Text whose `code` stands between backquotes."""
    parts = escape(text).split("`")
    return "".join(part if k % 2 == 0 else f"<code>{part}</code>" for k, part in enumerate(parts))
