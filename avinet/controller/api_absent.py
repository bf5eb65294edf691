"""What clients of the Avi API may ask for and is not here: told as that, not as a path that does not exist."""

from typing import ClassVar

from avinet.errors import AvinetError, Kind, error
from avinet.model.config import KINDS
from avinet.rest.route import Request, Response, Route


@error
class NotOfferedError(AvinetError):
    """{what} is not offered here. {instead}"""

    kind: ClassVar[Kind] = Kind.INVALID
    what: str
    instead: str


def absent_routes() -> tuple[Route, ...]:
    """PATCH of an object, and macros."""

    async def patch(request: Request) -> Response:
        instead = "Read the object, change it, and PUT it back with its _last_modified."
        raise NotOfferedError(what="PATCH", instead=instead)

    async def macro(request: Request) -> Response:
        instead = (
            "POST the objects to /api/config instead: all of them or none become visible, in one version."
        )
        raise NotOfferedError(what="/api/macro", instead=instead)

    said = {400: "It is not offered; the answer says what is."}
    patches = tuple(
        Route(
            method="PATCH",
            path=f"/api/{kind}/{{uuid}}",
            handler=patch,
            summary="Not offered.",
            request=bytes,
            statuses=said,
            leader=False,
        )
        for kind in KINDS
    )
    return (
        *patches,
        Route(
            method="POST",
            path="/api/macro",
            handler=macro,
            summary="Not offered.",
            request=bytes,
            statuses=said,
            leader=False,
        ),
    )
