"""What a backup takes from a running controller, ``/api/backup/store``; and that a restored configuration is accepted.

The store leaves by the UNIX socket alone: whoever may open that can read every key beside it, and whoever logs in from
elsewhere gets none of them.  The keys themselves do not pass through here at all.
"""

import io
from typing import BinaryIO, ClassVar, cast

import attrs
import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from avinet.controller.api_answers import NOBODY
from avinet.controller.configuration import ConfigService
from avinet.controller.engines import Emit
from avinet.controller.state_engine import InThread
from avinet.errors import AvinetError, Kind, error
from avinet.model.events import Level
from avinet.rest.access import Role
from avinet.rest.file_body import FileBody
from avinet.rest.route import Request, Response, Route
from avinet.store.content_records import framed, records_of
from avinet.store.copying import Content, take

BYTES_TYPE = "application/octet-stream"
STORE_TIMEOUT_S = 120.0
"""The largest store there may be, 8 GiB of etcd's, is not read in that; one of 10,000 objects in a second."""


@error
class BackupElsewhereError(AvinetError):
    """A backup holds every key of this controller, so it is taken on its machine, by its UNIX socket: avinet backup FILE --state DIR."""

    kind: ClassVar[Kind] = Kind.DENIED


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /api/config/accept-restored``."""

    version: int


@attrs.frozen(eq=False)
class BackupApi:
    """The handlers."""

    config: ConfigService
    emit: Emit
    clock: IReactorTime
    in_thread: InThread
    _turn: DeferredLock = attrs.field(factory=DeferredLock, init=False)

    async def content(self, request: Request) -> Response:
        """``GET /api/backup/store``."""
        if request.peer or request.handed_on:
            raise BackupElsewhereError
        # One at a time: each holds all of the store for a moment.
        await self._turn.acquire()
        try:
            content = await take(self.config.stored.store)
            size: int = await cast("Deferred[int]", self.in_thread(_size, content))
        finally:
            self._turn.release()
        self.emit("BACKUP_TAKEN", Level.INFO, "controller", "The store was read for a backup.", bytes=size)
        return Response(
            body=FileBody(cast("BinaryIO", _Frames(content)), size, self.clock), content_type=BYTES_TYPE
        )

    async def accept(self, request: Request) -> Response:
        """``POST /api/config/accept-restored``."""
        version = await self.config.accept_restored(request.principal or NOBODY)
        text = f"The restored configuration was accepted as version {version}: it replaces newer ones."
        self.emit("RESTORED_ACCEPTED", Level.WARNING, "controller", text, version=version)
        return Response(body=Accepted(version=version))

    def routes(self) -> tuple[Route, ...]:
        """Both."""
        return (
            Route(
                method="GET",
                path="/api/backup/store",
                handler=self.content,
                summary="All of the store as of one revision, for avinet backup; by the UNIX socket only.",
                produces=BYTES_TYPE,
                role=Role.ADMIN,
                timeout_s=STORE_TIMEOUT_S,
                statuses={200: "MessagePack in frames.", 403: "Not by the UNIX socket."},
            ),
            Route(
                method="POST",
                path="/api/config/accept-restored",
                handler=self.accept,
                summary="After a restore: send its configuration to service engines that have a newer one, too.",
                response=Accepted,
                statuses={200: "Sent from now on.", 409: "No restored configuration waits for that."},
            ),
        )


class _Frames(io.RawIOBase):
    """Content as a file to read once: made as it goes, since all of it is large."""

    def __init__(self, content: Content) -> None:
        self._frames = framed(records_of(content))
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        """As a file's; ``size`` is given."""
        if not self._left:
            self._left = next(self._frames, b"")
        piece, self._left = self._left[:size], self._left[size:]
        return piece


def _size(content: Content) -> int:
    return sum(map(len, framed(records_of(content))))
