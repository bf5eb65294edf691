"""The routes of each kind of configuration object, in the Avi API's shapes."""

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from avinet.controller.api_answers import NOBODY, ApplyAnswer, applied_answer
from avinet.controller.api_lists import page_of, query_of
from avinet.controller.api_schemas import answered, listed, taken
from avinet.controller.api_shapes import shape
from avinet.controller.configuration import ConfigService, Terms
from avinet.model.advice import advice
from avinet.model.config import KINDS
from avinet.model.configuration import Stored
from avinet.model.documents import DocumentError, parse_json
from avinet.rest.problem import InvalidBodyError
from avinet.rest.route import Request, Response, Route
from avinet.units import MIB

OBJECT_BODY_BYTES = MIB
"""Twice what an object may be as stored: JSON with its field names is that much longer."""


IF_MATCH = {
    "If-Match": "The ETag that the change is based on, or * for any; instead of _last_modified in the body."
}


class DeleteQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``note``: kept with the version."""

    note: str = ""


@attrs.frozen(eq=False)
class ObjectApi:
    """The handlers."""

    config: ConfigService

    def _answer(self, stored: Stored, status: int = 200, *, changed: bool = False) -> Response:
        now = self.config.clock.seconds()
        body = shape(self.config.current, stored, now)
        if changed and (warnings := advice(self.config.current, [stored.thing.uuid], now)):
            body["warnings"] = warnings
        return Response(status=status, body=body, headers={"ETag": f'"{stored.modified_us}"'})

    async def list(self, kind: str, request: Request) -> Response:
        """``GET /api/<kind>``."""
        now, at = self.config.current, self.config.clock.seconds()
        return Response(body=page_of(kind, request.query, now, lambda stored: shape(now, stored, at)))

    async def get(self, kind: str, request: Request) -> Response:
        """``GET /api/<kind>/{uuid}``."""
        return self._answer(self.config.find(kind, request.params["uuid"]))

    async def post(self, kind: str, request: Request) -> Response:
        """``POST /api/<kind>``."""
        document = _object(kind, request.body)
        made = await self.config.create(kind, document, request.principal or NOBODY)
        return self._answer(made, 201, changed=True)

    async def put(self, kind: str, request: Request) -> Response:
        """``PUT /api/<kind>/{uuid}``."""
        document = _object(kind, request.body)
        expected = self._expected(kind, request, document)
        author = request.principal or NOBODY
        made = await self.config.replace(kind, request.params["uuid"], document, author, expected)
        return self._answer(made, changed=True)

    async def delete(self, kind: str, request: Request) -> Response:
        """``DELETE /api/<kind>/{uuid}``."""
        author = request.principal or NOBODY
        expected = self._expected(kind, request, {})
        query: DeleteQuery = request.query
        terms = Terms(note=query.note)
        return applied_answer(await self.config.delete(kind, request.params["uuid"], author, expected, terms))

    def _expected(self, kind: str, request: Request, document: Mapping[str, Any]) -> str | None:
        """The ``_last_modified`` that a change is based on: ``If-Match`` before the body's."""
        match = request.headers.get("if-match")
        if match is None:
            modified = document.get("_last_modified")
            return None if modified is None else str(modified)
        if match.strip() == "*":
            return str(self.config.find(kind, request.params["uuid"]).modified_us)
        return match.strip().removeprefix("W/").strip('"')

    def routes(self) -> tuple[Route, ...]:
        """Each kind's five."""
        return tuple(route for kind in KINDS for route in self._routes_of(kind))

    def _routes_of(self, kind: str) -> tuple[Route, ...]:
        one, many, name = f"/api/{kind}/{{uuid}}", f"/api/{kind}", KINDS[kind].__name__

        def handler(method: Any) -> Any:
            async def handle(request: Request) -> Response:
                answer: Response = await method(kind, request)
                return answer

            return handle

        wrong = {400: "Each wrong field by its path."}
        return (
            Route(
                method="GET",
                path=many,
                handler=handler(self.list),
                summary=f"List {name} objects.",
                query=query_of(kind),
                response_schema=listed(kind),
            ),
            Route(
                method="POST",
                path=many,
                handler=handler(self.post),
                summary=f"Create a {name}.",
                request=bytes,
                request_schema=taken(kind),
                response_schema=answered(kind),
                body_bytes=OBJECT_BODY_BYTES,
                statuses={201: "Made.", 409: "The name is taken.", **wrong},
            ),
            Route(
                method="GET",
                path=one,
                handler=handler(self.get),
                summary=f"One {name}, by UUID or name.",
                response_schema=answered(kind),
                statuses={200: "As stored.", 404: "There is none."},
            ),
            Route(
                method="PUT",
                path=one,
                handler=handler(self.put),
                summary=f"Replace a {name}; needs _last_modified in the body, or If-Match.",
                request=bytes,
                request_schema=taken(kind),
                response_schema=answered(kind),
                headers=IF_MATCH,
                body_bytes=OBJECT_BODY_BYTES,
                statuses={
                    200: "Replaced.",
                    404: "There is none.",
                    412: "Stale.",
                    428: "Which version?",
                    **wrong,
                },
            ),
            Route(
                method="DELETE",
                path=one,
                handler=handler(self.delete),
                summary=f"Delete a {name} that no other object refers to.",
                query=DeleteQuery,
                headers=IF_MATCH,
                response=ApplyAnswer,
                statuses={200: "Gone.", 404: "There is none.", 409: "Something refers to it.", 412: "Stale."},
            ),
        )


def _object(kind: str, body: bytes) -> dict[str, Any]:
    """A JSON object.  Its fields are checked by the intake, which names every wrong one, not by the router."""
    found = parse_json(body, "the body")
    if not isinstance(found, dict):
        raise DocumentError(where="the body", why="it is not a JSON object")
    given = found.get("kind", kind)
    if not isinstance(given, str) or given.lower() != kind:
        raise InvalidBodyError(where="kind", what=f"this is the place of {KINDS[kind].__name__}")
    return found
