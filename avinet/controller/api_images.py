"""The operator's routes for SE images: ``/api/image``."""

from collections.abc import Callable

import attrs
import msgspec

from avinet.controller.api_engines import CREATE_TIMEOUT_S, GroupNotFoundError
from avinet.controller.engines import Engines
from avinet.controller.image_keys import ImageRecord
from avinet.controller.images import Images
from avinet.model.events import Level
from avinet.rest.route import Request, Response, Route
from avinet.trust.keys import fingerprint, parse_line

BASE = "/api/image"
TAR_TYPE = "application/x-tar"
IMAGE_HEADER = "X-Avinet-Image"
"""The id of the image in the answer's body."""


class ImageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One image; times are UNIX seconds, ``state`` is ``active``, ``expired`` or ``revoked``."""

    uuid: str
    url: str
    group: str
    se: str | None
    software: str
    fingerprint: str
    state: str
    created_at: float
    expires_at: float


class ImageList(msgspec.Struct, frozen=True, kw_only=True):
    """All images, newest first."""

    count: int
    results: tuple[ImageRow, ...]


class ImageWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For any machine with a token; for machines of ``group``; or, with its token inside, for one SE: ``se``."""

    group: str = ""
    se: str | None = None


@attrs.frozen(eq=False)
class ImageApi:
    """The handlers."""

    images: Images
    engines: Engines
    has_group: Callable[[str], bool]

    def row(self, record: ImageRecord) -> ImageRow:
        """An image as lists show it."""
        return ImageRow(
            uuid=record.id,
            url=f"{BASE}/{record.id}",
            group=record.group,
            se=record.se,
            software=record.software,
            fingerprint=fingerprint(parse_line(record.key)),
            state=record.state(self.engines.clock.seconds()),
            created_at=record.created_at,
            expires_at=record.expires_at,
        )

    async def list(self, request: Request) -> Response:
        """``GET /api/image``."""
        rows = tuple(self.row(record) for record in self.images.keys.all())
        return Response(body=ImageList(count=len(rows), results=rows))

    async def build(self, request: Request) -> Response:
        """``POST /api/image``."""
        wish: ImageWish = request.body
        if wish.se is not None:
            engine = self.engines.named(wish.se)
            token = await self.engines.reissue(engine.uuid)
            record, tar = await self.images.build(engine.group, se=engine.uuid, token=token.text)
        else:
            if wish.group and not self.has_group(wish.group):
                raise GroupNotFoundError(group=wish.group)
            record, tar = await self.images.build(wish.group)
        text = f"Image {record.id} was built for {record.se or record.group or 'any group'}."
        self.engines.emit("IMAGE_BUILT", Level.INFO, record.id, text, group=record.group, se=record.se)
        return Response(
            status=201,
            body=tar,
            content_type=TAR_TYPE,
            headers={IMAGE_HEADER: record.id, "Content-Disposition": 'attachment; filename="avinet-se.tar"'},
        )

    async def revoke(self, request: Request) -> Response:
        """``DELETE /api/image/{uuid}``."""
        record = await self.images.keys.revoke(request.params["uuid"])
        self.engines.emit("IMAGE_REVOKED", Level.WARNING, record.id, f"Image {record.id} was revoked.")
        return Response(status=204)

    def routes(self) -> tuple[Route, ...]:
        """All of ``/api/image``."""
        return (
            Route(method="GET", path=BASE, handler=self.list, summary="Every SE image.", response=ImageList),
            Route(
                method="POST",
                path=BASE,
                handler=self.build,
                summary="Build an SE image; the answer is the tar, its id is in X-Avinet-Image.",
                request=ImageWish,
                produces=TAR_TYPE,
                statuses={
                    201: "Built.",
                    404: "No such group or service engine.",
                    409: "The service engine enrolled already.",
                },
                timeout_s=CREATE_TIMEOUT_S,
            ),
            Route(
                method="DELETE",
                path=BASE + "/{uuid}",
                handler=self.revoke,
                summary="No machine enrols from this image any more; those that did are not touched.",
                statuses={204: "Revoked.", 404: "No such image."},
            ),
        )
