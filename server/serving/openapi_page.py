"""The OpenAPI description as a page without scripts: it works offline and under the service's content policy."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any


def openapi_page(description: dict[str, Any]) -> str:
    """HTML of every operation and every schema.

    Args:
        description: OpenAPI 3, as /openapi.json has it.
    """
    info = description["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>{html.escape(info['title'])} API</title>",
        f"<h1>{html.escape(info['title'])} {html.escape(info['version'])}</h1>",
        f"<p>{html.escape(info['description'])} For programs: <a href=openapi.json>openapi.json</a></p>",
    ]
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method.upper(), path, operation)
    parts.append("<h2>Schemas</h2>")
    for name, schema in description.get("components", {}).get("schemas", {}).items():
        text = html.escape(json.dumps(schema, indent=1, ensure_ascii=False))
        parts.append(
            f"<details id='{html.escape(name)}'><summary>{html.escape(name)}</summary><pre>{text}</pre></details>"
        )
    return "\n".join(parts) + "</html>\n"


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{method} {html.escape(path)}</code></h2>"
    yield f"<p>{html.escape(operation.get('description', ''))}</p>"
    if rows := [*_parameters(operation)]:
        yield f"<ul>{''.join(rows)}</ul>"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    answer = (
        operation.get("responses", {}).get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
    )
    links = [
        f"{word}: {_link(schema['$ref'])}" for word, schema in (("body", body), ("answer", answer)) if "$ref" in schema
    ]
    if links:
        yield f"<p>{'; '.join(links)}</p>"


def _parameters(operation: dict[str, Any]) -> Iterator[str]:
    for one in operation.get("parameters", []):
        need = "needed" if one.get("required") else "optional"
        says = html.escape(one.get("description", ""))
        yield f"<li><code>{html.escape(one['name'])}</code> ({one['in']}, {need}) {says}</li>"


def _link(reference: str) -> str:
    name = html.escape(reference.rpartition("/")[2])
    return f"<a href='#{name}'>{name}</a>"
