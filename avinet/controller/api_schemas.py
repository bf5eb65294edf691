"""JSON Schemas of the configuration objects, from the very types that the intake reads and the API answers with.

Two of each kind: what is answered (``Pool``: every field, references as URLs, without secrets), and what is taken
(``PoolInput``: fields with defaults may be left out, unknown ones are refused, a bare address stands for
``{addr, type}``, a reference is a name, a UUID or an URL, and what the API adds to its answers is ignored).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from avinet.controller.api_shapes import NAMED
from avinet.model.config import KINDS, CertificateText, IpAddr
from avinet.model.intake import MAX_TEXT, READ_ONLY, READ_ONLY_WITHIN
from avinet.model.shown import SECRET_FIELDS

REFERENCE = "#/components/schemas/{name}"
_ADDED = {
    "url": {"type": "string"},
    "_last_modified": {"type": "string", "description": "Microseconds; send it back with a PUT."},
    "tenant_ref": {"type": "string"},
    "warnings": {"type": "array", "items": {}, "description": "After a change: what may not be meant so."},
}
_NEEDED = ("url", "_last_modified", "tenant_ref")
SHORTHAND = (IpAddr, CertificateText)
"""A bare text stands for one of these."""


def answered(kind: str) -> dict[str, Any]:
    """A reference to the schema of one object as it is answered."""
    return {"$ref": REFERENCE.format(name=KINDS[kind].__name__)}


def taken(kind: str) -> dict[str, Any]:
    """A reference to the schema of one object as it is taken."""
    return {"$ref": REFERENCE.format(name=f"{KINDS[kind].__name__}Input")}


def listed(kind: str) -> dict[str, Any]:
    """The schema of a list of objects; ``fields`` may have left out some of each."""
    return {
        "type": "object",
        "required": ["count", "results"],
        "properties": {
            "count": {"type": "integer", "description": "How many there are, on all pages."},
            "results": {"type": "array", "items": {"anyOf": [answered(kind), {"type": "object"}]}},
            "next": {"type": "string", "description": "Where the next page is, if there is one."},
        },
    }


def documents_schema() -> dict[str, Any]:
    """What an apply takes as JSON: an object with its ``kind``, or a list of them.  As YAML it is text."""
    each = {"type": "object", "required": ["kind", "name"], "properties": {"kind": {"type": "string"}}}
    return {"anyOf": [each, {"type": "array", "minItems": 1, "items": each}, {"type": "string"}]}


def components() -> dict[str, Any]:
    """Every schema that the above refer to."""
    _, shared = msgspec.json.schema_components(list(KINDS.values()), ref_template=REFERENCE)
    made: dict[str, Any] = dict(shared)
    for name, schema in shared.items():
        made[f"{name}Input"] = _input(schema, set(shared))
    for cls in KINDS.values():
        secret = SECRET_FIELDS.get(cls, ())
        made[cls.__name__] = _output(shared[cls.__name__], secret)
        _take_answers(made[f"{cls.__name__}Input"], READ_ONLY, ("uuid", *secret))
    for within, names in READ_ONLY_WITHIN.items():
        made[within.__name__] = {**shared[within.__name__], "additionalProperties": True}
        _take_answers(made[f"{within.__name__}Input"], names, ())
    for short in SHORTHAND:
        whole = made[f"{short.__name__}Input"]
        made[f"{short.__name__}Input"] = {"anyOf": [{"type": "string"}, whole]}
    return made


def _output(schema: Mapping[str, Any], secret: tuple[str, ...]) -> dict[str, Any]:
    properties = _as_references({n: part for n, part in schema["properties"].items() if n not in secret})
    required = [name for name in schema.get("required", ()) if name not in secret]
    return {**schema, "properties": {**_ADDED, **properties}, "required": [*_NEEDED, *required]}


def _input(schema: Mapping[str, Any], shared: set[str]) -> dict[str, Any]:
    """The same, strict, and made of inputs itself."""
    made: dict[str, Any] = _renamed(schema, shared)
    if made.get("type") == "object":
        made["additionalProperties"] = False
        made["properties"] = _as_references(made["properties"])
        for part in made["properties"].values():
            if part.get("type") == "string":
                part.setdefault("maxLength", MAX_TEXT)
    return made


def _as_references(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Names out of a closed set that are written as references; null where they may be left out."""
    return {name: _reference(part) if name in NAMED else part for name, part in properties.items()}


def _reference(part: Mapping[str, Any]) -> dict[str, Any]:
    null = {"type": "null"}
    return {"anyOf": [{"type": "string"}, null]} if null in part.get("anyOf", ()) else {"type": "string"}


def _take_answers(schema: dict[str, Any], added: Iterable[str], optional: tuple[str, ...]) -> None:
    """What the API adds to its answers may be sent back, and is ignored but for ``_last_modified``."""
    schema["properties"] = {**schema["properties"], **{name: {} for name in sorted(added)}}
    schema["required"] = [name for name in schema.get("required", ()) if name not in optional]


def _renamed(schema: Any, shared: set[str]) -> Any:
    if isinstance(schema, Mapping):
        made = {name: _renamed(part, shared) for name, part in schema.items()}
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.rpartition("/")[2] in shared:
            made["$ref"] = f"{reference}Input"
        return made
    return [_renamed(part, shared) for part in schema] if isinstance(schema, list) else schema
