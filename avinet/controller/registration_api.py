"""The routes of 8443: a machine becomes an SE or a controller, and who trusts the root fetches the membership list.

Strangers may call, so each route says little, takes little (64 KiB) and is bounded by ``Enrolment``.
"""

from collections.abc import Callable, Mapping

import attrs

from avinet.controller.enrolment import Enrolment
from avinet.model.engine import Lifecycle, SeRecord
from avinet.rest.openapi import Info, openapi
from avinet.rest.route import Auth, Request, Response, Route
from avinet.trust.keys import fingerprint, parse_line
from avinet.wire.registration import (
    ENROL_PATH,
    MAX_REQUEST_BYTES,
    MEMBERSHIP_CONTENT_TYPE,
    MEMBERSHIP_PATH,
    OPENAPI_PATH,
    REQUEST_CONTENT_TYPE,
    EnrolmentAnswer,
    PendingAnswer,
)

PENDING_RETRY_S = 15
"""How soon an approved SE comes up; a thousand that wait cost 70 requests a second."""
ENROL_TIMEOUT_S = 25.0
"""Below the 30 s that an SE waits for its answer."""

INFO = Info(
    title="avinet registration",
    version="1",
    description="How a machine becomes a service engine, and where the membership list is.",
)


@attrs.frozen(eq=False)
class RegistrationApi:
    """The handlers.  ``membership`` is the current signed list, ``services`` what SEs find behind the channel."""

    enrolment: Enrolment
    membership: Callable[[], str]
    services: Mapping[str, int]
    more: tuple[Route, ...] = ()
    """Of controllers that ask (``JoiningApi``)."""

    async def enrol(self, request: Request) -> Response:
        """``POST /v1/service-engines``."""
        record = await self.enrolment.enrol(request.body, request.peer)
        if record.lifecycle is Lifecycle.PENDING:
            pending = PendingAnswer(
                se=record.uuid, name=record.name, fingerprint=fingerprint(parse_line(record.se_key))
            )
            return Response(status=202, body=pending, headers={"Retry-After": str(PENDING_RETRY_S)})
        return Response(body=self._facts(record))

    def _facts(self, record: SeRecord) -> EnrolmentAnswer:
        return EnrolmentAnswer(
            se=record.uuid,
            name=record.name,
            group=record.group,
            cluster=self.enrolment.cluster,
            loopback=record.loopback,
            membership=self.membership(),
            services=dict(self.services),
        )

    async def list_members(self, request: Request) -> Response:
        """``GET /v1/membership``."""
        return Response(body=self.membership().encode(), content_type=MEMBERSHIP_CONTENT_TYPE)

    def routes(self) -> tuple[Route, ...]:
        """All of 8443, with the OpenAPI document of the very same table."""
        enrol = Route(
            method="POST",
            path=ENROL_PATH,
            handler=self.enrol,
            summary="Register a machine as a service engine, or ask again for the answer.",
            request=bytes,
            response=EnrolmentAnswer,
            statuses={
                200: "Enrolled; the facts as they are now.",
                202: "An operator must approve; ask again with the same bytes after Retry-After.",
                400: "Not a registration request.",
                403: "Refused; the controller's operator sees why.",
                409: "The token or the key is bound to another machine.",
                410: "This service engine was deleted.",
                429: "Too many failures from this address.",
                503: "The store cannot be reached or has no quorum; nothing was spent.",
                507: "The controller's disk is full; nothing was spent.",
            },
            consumes=(REQUEST_CONTENT_TYPE,),
            body_bytes=MAX_REQUEST_BYTES,
            timeout_s=ENROL_TIMEOUT_S,
            auth=Auth.ANYONE,
            leader=True,
        )
        members = Route(
            method="GET",
            path=MEMBERSHIP_PATH,
            handler=self.list_members,
            summary="The current membership list, a compact JWS signed by the root.",
            produces=MEMBERSHIP_CONTENT_TYPE,
            auth=Auth.ANYONE,
        )
        table = (enrol, *self.more, members)
        document = openapi(table, INFO)

        async def describe(request: Request) -> Response:
            return Response(body=document)

        description = Route(
            method="GET",
            path=OPENAPI_PATH,
            handler=describe,
            summary="This API, described.",
            auth=Auth.ANYONE,
        )
        return (*table, description)
