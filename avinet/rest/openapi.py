"""An OpenAPI 3.1 document from a table of routes: the same table that the router obeys."""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import msgspec

from avinet.rest.access import READS
from avinet.rest.problem import PROBLEM_TYPE
from avinet.rest.route import Auth, Route

_ROUTER_STATUSES = {
    400: "The path, the query, a header or the body is malformed.",
    408: "The request did not arrive in time.",
    414: "The path and the query are too long together; what is long goes in a body where there is a POST.",
    429: "Too many requests; Retry-After says when to ask again.",
    500: "A defect of avinet; the answer names the incident in the log.",
    504: "The answer took too long.",
}
_PROBLEM_SCHEMA = {
    "type": "object",
    "description": "RFC 9457: what went wrong. Beside these fields are the facts, such as the role that is needed.",
    "required": ["type", "title", "status", "detail", "reason"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "For a person: what happened, why, what next."},
        "reason": {"type": "string", "description": "For a program: a stable word."},
    },
    "additionalProperties": True,
}
_SECURITY_SCHEMES = {
    "basic": {"type": "http", "scheme": "basic", "description": "A user's name and password."},
    "bearer": {"type": "http", "scheme": "bearer", "description": "An access token."},
    "session": {"type": "apiKey", "in": "cookie", "name": "sessionid", "description": "From POST /login."},
    "csrf": {
        "type": "apiKey",
        "in": "header",
        "name": "X-CSRFToken",
        "description": "With a session's writes: the value of its cookie csrftoken.",
    },
}
_TENANT = {
    "name": "X-Avi-Tenant",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": ["admin", "*"]},
    "description": "As the Avi SDK sends it; there is one tenant.",
}


@attrs.frozen
class Info:
    """The document's head."""

    title: str
    version: str
    description: str = ""
    schemas: Mapping[str, Any] = attrs.field(factory=dict)
    """Those that routes refer to by ``request_schema`` and ``response_schema``."""


def openapi(routes: Iterable[Route], info: Info) -> dict[str, Any]:
    """The document, as JSON-ready data."""
    table = tuple(routes)
    types = _types_of(table)
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = {_key(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of, components)
    for route in table:
        if route.query is not None and not _used_in_bodies(route.query, table):
            components.pop(route.query.__name__, None)
    return {
        "openapi": "3.1.0",
        "info": {"title": info.title, "version": info.version, "description": info.description},
        "paths": paths,
        "components": {
            "schemas": {**components, **info.schemas, "Problem": _PROBLEM_SCHEMA},
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


def _operation(route: Route, schema_of: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": _operation_id(route),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in route.parameter_names
        ]
        + _query_parameters(route, components)
        + _header_parameters(route),
        "responses": _responses(route, schema_of),
        "security": _security(route),
    }
    if route.auth is Auth.OPERATOR:
        operation["x-role"] = route.least_role.value
        operation["description"] = f"Needs the role {route.least_role.value}."
    if route.request is not None:
        schema = route.request_schema or ({} if route.request is bytes else schema_of[_key(route.request)])
        operation["requestBody"] = {
            "required": True,
            "content": {media_type: {"schema": schema} for media_type in route.consumes},
        }
    return operation


def _security(route: Route) -> list[dict[str, list[str]]]:
    if route.auth is not Auth.OPERATOR:
        return []
    session: dict[str, list[str]] = {"session": []} if route.method in READS else {"session": [], "csrf": []}
    return [{"basic": []}, {"bearer": []}, session]


def _responses(route: Route, schema_of: dict[str, Any]) -> dict[str, Any]:
    statuses = dict(_ROUTER_STATUSES)
    if route.request is not None:
        statuses |= {413: "The body is too large.", 415: "The body is of another media type."}
        statuses[503] = "Too many requests with large bodies are under way."
    if route.auth is Auth.OPERATOR:
        statuses[401] = "A login is needed, or this one is wrong."
        statuses[403] = "The login may not do this; the answer names the role that may."
    if not route.reads:
        statuses |= {503: "The store does not answer, or too much is under way.", 507: "The disk is full."}
    if route.leader:
        statuses[502] = (
            "It was handed on to the cluster's leader, whose answer was lost: it may have been done."
        )
    statuses |= route.statuses
    responses: dict[str, Any] = {}
    for status, text in sorted(statuses.items()):
        responses[str(status)] = answer = dict[str, Any](description=text)
        if status >= 400:
            answer["content"] = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        elif status != 204:
            schema = schema_of[_key(route.response)] if route.response is not None else {}
            content = {"schema": route.response_schema or schema}
            answer["content"] = dict.fromkeys(route.media_types, content)
    return responses


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    made = [
        {
            "name": name,
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": what,
        }
        for name, what in route.headers.items()
    ]
    return [*made, _TENANT] if route.auth is Auth.OPERATOR else made


def _query_parameters(route: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = components[route.query.__name__]
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _never_null(part)}
        for name, part in schema["properties"].items()
    ]


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query has no null: what may be left out is left out."""
    parts = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    made = {
        name: value
        for name, value in schema.items()
        if name != "anyOf" and not (name == "default" and value is None)
    }
    return {**parts[0], **made} if len(parts) == 1 else ({**made, "anyOf": parts} if parts else made)


def _types_of(table: tuple[Route, ...]) -> list[Any]:
    types: dict[str, Any] = {}
    for route in table:
        for kind in (route.request, route.response, route.query):
            if kind is not None and kind is not bytes:
                types[_key(kind)] = kind
    return list(types.values())


def _used_in_bodies(kind: Any, table: tuple[Route, ...]) -> bool:
    return any(kind in {route.request, route.response} for route in table)


def _key(kind: Any) -> str:
    return f"{kind!r}"


def _operation_id(route: Route) -> str:
    words = [segment.strip("{}").replace(".", "_").replace("-", "_") for segment in route.segments]
    return "_".join([route.method.lower(), *filter(None, words)])
