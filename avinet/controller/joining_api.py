"""What controllers ask on 8443: to join, to have the list say what has changed, and the root's signature of an image."""

import attrs

from avinet.controller.joining import Joining
from avinet.controller.manifest_signing import ManifestSigning
from avinet.controller.root_holder import HandOn, RootElsewhereError
from avinet.model.ids import ControllerName
from avinet.rest.route import Auth, Request, Response, Route
from avinet.wire.joining import JOIN_PATH, MANIFEST_PATH, JoinAnswer
from avinet.wire.registration import MAX_REQUEST_BYTES, MEMBERSHIP_CONTENT_TYPE, REQUEST_CONTENT_TYPE

JOIN_TIMEOUT_S = 60.0
"""The state engine takes a member in within seconds, or says that it has no quorum."""


@attrs.frozen(eq=False)
class JoiningApi:
    """The handlers; ``hand_on`` asks another controller what this one was asked."""

    joining: Joining
    signing: ManifestSigning
    hand_on: HandOn | None = None

    async def join(self, request: Request) -> Response:
        """``POST /v1/controllers``."""
        try:
            return Response(body=await self.joining.judge(request.body, request.peer))
        except RootElsewhereError as elsewhere:
            if self.hand_on is None or request.handed_on:
                raise
            return await self.hand_on(ControllerName(elsewhere.holder), request)

    async def sign(self, request: Request) -> Response:
        """``POST /v1/manifests``."""
        signed = await self.signing.judge(request.body, request.peer)
        return Response(body=signed.encode(), content_type=MEMBERSHIP_CONTENT_TYPE)

    def routes(self) -> tuple[Route, ...]:
        """Both."""
        return (
            Route(
                method="POST",
                path=JOIN_PATH,
                handler=self.join,
                summary="Become a controller of this cluster, or tell what has changed about one.",
                request=bytes,
                response=JoinAnswer,
                statuses={
                    200: "A member; the facts as they are now.",
                    400: "Not such a request.",
                    403: "Refused; the answer and the operator's event say why.",
                    409: "The bundle is spent, or something is taken by another controller.",
                    410: "This controller was removed from the cluster.",
                    429: "Too many failures from this address.",
                    503: "The root key, the store or its engine cannot be reached; the same request may be sent again.",
                    507: "The controller's disk is full.",
                },
                consumes=(REQUEST_CONTENT_TYPE,),
                body_bytes=MAX_REQUEST_BYTES,
                timeout_s=JOIN_TIMEOUT_S,
                auth=Auth.ANYONE,
            ),
            Route(
                method="POST",
                path=MANIFEST_PATH,
                handler=self.sign,
                summary="For a controller: the root's signature of an image that it builds.",
                request=bytes,
                statuses={
                    200: "The manifest, a compact JWS signed by the root.",
                    400: "Not such a request.",
                    403: "Refused; the answer and the operator's event say why.",
                    429: "Too many failures from this address.",
                    503: "The root key is elsewhere.",
                },
                consumes=(REQUEST_CONTENT_TYPE,),
                produces=MEMBERSHIP_CONTENT_TYPE,
                body_bytes=MAX_REQUEST_BYTES,
                auth=Auth.ANYONE,
            ),
        )
