"""The objects of the Avi API that have fixed names here: to be looked up and referred to, not to be changed."""

import enum

import attrs
import msgspec

from avinet.controller.api_lists import ListQuery, called, fields_of, paged
from avinet.controller.api_shapes import TENANT
from avinet.controller.config_errors import ObjectNotFoundError
from avinet.model.config import ApplicationProfile, SslProfile
from avinet.rest.route import Request, Response, Route


class BuiltIn(msgspec.Struct, frozen=True, kw_only=True):
    """One that is always there.  Its UUID is its name.  In a list ``fields`` may have left out the rest."""

    uuid: str
    url: str
    name: str
    tenant_ref: str = TENANT
    description: str = ""


class BuiltInList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of them."""

    count: int
    """How many there are, on all pages."""
    results: tuple[BuiltIn, ...]
    next: str | None = None
    """Where the next page is, if there is one."""


PROFILES: dict[str, dict[enum.StrEnum, str]] = {
    "applicationprofile": {
        ApplicationProfile.HTTP: "HTTP, and HTTPS at ports with TLS.",
        ApplicationProfile.TCP: "TCP; TLS is ended at ports that have it.",
    },
    "sslprofile": {
        SslProfile.STANDARD: "TLS 1.2 (ECDHE with AEAD ciphers) and 1.3.",
        SslProfile.MODERN: "TLS 1.3 alone.",
    },
}
"""By kind, in the order of the list."""


@attrs.frozen
class ProfileApi:
    """The handlers of one kind."""

    kind: str

    def _all(self) -> list[BuiltIn]:
        return [
            BuiltIn(uuid=name, url=f"/api/{self.kind}/{name}", name=name, description=description)
            for name, description in PROFILES[self.kind].items()
        ]

    async def list(self, request: Request) -> Response:
        """``GET /api/<kind>``."""
        query: ListQuery = request.query
        names = fields_of(query, BuiltIn.__struct_fields__)
        chosen = [one for one in self._all() if called(one.name, query)]
        return Response(body=paged(self.kind, query, chosen, msgspec.structs.asdict, names))

    async def get(self, request: Request) -> Response:
        """``GET /api/<kind>/{uuid}``."""
        wanted = request.params["uuid"]
        for one in self._all():
            if one.name == wanted:
                return Response(body=one)
        raise ObjectNotFoundError(kind_word=self.kind, name=wanted)

    def routes(self) -> tuple[Route, ...]:
        """Both."""
        return (
            Route(
                method="GET",
                path=f"/api/{self.kind}",
                handler=self.list,
                summary=f"List what {self.kind} references may name: all of it is built in.",
                query=ListQuery,
                response=BuiltInList,
            ),
            Route(
                method="GET",
                path=f"/api/{self.kind}/{{uuid}}",
                handler=self.get,
                summary=f"One {self.kind}, by name.",
                response=BuiltIn,
                statuses={200: "As it is built in.", 404: "There is none."},
            ),
        )


def profile_routes() -> tuple[Route, ...]:
    """Each kind's."""
    return tuple(route for kind in PROFILES for route in ProfileApi(kind).routes())
