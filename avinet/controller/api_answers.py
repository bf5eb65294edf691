"""What several routes of the configuration answer, and how they read JSON."""

from typing import Any

import msgspec

from avinet.controller.configuration import Applied
from avinet.model.documents import DocumentError
from avinet.rest.route import Response

NOBODY = "unknown"


class ApplyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a change came to; objects as ``kind/name``."""

    version: int
    created: tuple[str, ...]
    updated: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: tuple[str, ...]


def applied_answer(applied: Applied) -> Response:
    """As JSON."""
    plan = applied.plan
    return Response(
        body=ApplyAnswer(
            version=applied.version,
            created=plan.created,
            updated=plan.updated,
            deleted=plan.deleted,
            unchanged=plan.unchanged,
        )
    )


def json_of(body: bytes, where: str) -> Any:
    """A JSON text's value; ``where`` names it in the error."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
        raise DocumentError(where=where, why=f"it is not JSON: {why}") from why
