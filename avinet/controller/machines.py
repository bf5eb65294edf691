"""Records and machines kept together: an SE is created with its machine, resumed with it, deleted with it.

The record comes first when an SE is made and ends first when it goes.  What a crash leaves in between is
finished when a controller leads next: a driver's SE that never enrolled gets a new token and is created again, a deleted
one's machine is taken away.  Machines that a driver keeps on the controller's own host are that controller's to run and
to take away, whoever leads.
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from avinet.cloud.interface import Cloud, UnknownCloudError
from avinet.controller.engines import Engines
from avinet.errors import AvinetError
from avinet.model.engine import Lifecycle, SeRecord
from avinet.model.events import Level
from avinet.wire.registration import MetaInfo

MANUAL = "manual"
"""The operator makes the machine."""

_log = Logger()

ImageFile = Callable[[], Awaitable[Path]]
"""An image on disk, good for any group's token, for drivers to start machines from."""
Ready = Callable[[], Awaitable[None]]
"""What a cloud's machines need beyond its driver: an error says what is missing."""
MakeMeta = Callable[[str], MetaInfo]
"""Meta-info of this cluster around a token's text."""


@attrs.define(eq=False)
class Machines:
    """``start`` once the registry is loaded and 8443 listens, ``lead`` when this controller leads; ``stop`` before the
    store is closed.
    """

    engines: Engines
    clouds: Mapping[str, Cloud]
    image_file: ImageFile
    meta: MakeMeta
    ready: Mapping[str, Ready] = attrs.field(factory=dict)
    """By cloud; asked before there is a record."""
    alone: bool = True
    """Whether no other controller has machines."""
    leads: Callable[[], bool] = lambda: True

    def __attrs_post_init__(self) -> None:
        self.engines.listen(self._changed)

    def require_cloud(self, name: str) -> None:
        """Refuse a cloud that there is not."""
        if name != MANUAL and name not in self.clouds:
            raise UnknownCloudError(cloud=name, known=", ".join((MANUAL, *self.clouds)))

    async def create(self, name: str, group: str, cloud: str) -> tuple[SeRecord, MetaInfo]:
        """An SE and, unless by hand, its machine.  When the driver fails, the record goes again."""
        self.require_cloud(cloud)
        if cloud in self.ready:
            await self.ready[cloud]()
        record, token = await self.engines.create(name, group, cloud)
        meta = self.meta(token.text)
        if cloud != MANUAL:
            try:
                await self.clouds[cloud].create(record, await self.image_file(), meta)
            except AvinetError:
                await self.engines.delete(record.uuid)
                raise
        return record, meta

    async def delete(self, se: str) -> SeRecord:
        """The record first, so that the machine is a stranger from now on; then the machine."""
        record = await self.engines.delete(se)
        await self._take_away(record)
        return record

    async def start(self) -> None:
        """What drivers keep running runs again; a failure is an event and stops no other."""
        for record in self.engines.all():
            if record.lifecycle is not Lifecycle.CREATING and self._is_here(record):
                await self._try(record, "SE_RESUME_FAILED", self.clouds[record.cloud].resume)

    async def lead(self) -> None:
        """Finish what was begun."""
        for record in self.engines.index.deleted():
            await self._try(record, "SE_DELETE_FAILED", self._take_away)
        for record in self.engines.all():
            if record.lifecycle is Lifecycle.CREATING and record.cloud in self.clouds:
                await self._try(record, "SE_RESUME_FAILED", self._create_again)

    async def _create_again(self, record: SeRecord) -> None:
        token = await self.engines.reissue(record.uuid)
        await self.clouds[record.cloud].create(record, await self.image_file(), self.meta(token.text))

    def _is_here(self, record: SeRecord) -> bool:
        """Whether its machine is this controller's to run; where there are no others, every one is."""
        cloud = self.clouds.get(record.cloud)
        return cloud is not None and (self.alone or cloud.has(record))

    async def _take_away(self, record: SeRecord) -> None:
        cloud = self.clouds.get(record.cloud)
        if cloud is not None:
            await cloud.delete(record)

    async def _try(self, record: SeRecord, code: str, action: Callable[[SeRecord], Awaitable[None]]) -> None:
        try:
            await action(record)
        except AvinetError as failure:
            self.engines.emit(
                code, Level.ERROR, record.uuid, str(failure), name=record.name, reason=failure.reason
            )

    async def stop(self) -> None:
        """Stop what drivers keep running."""
        for cloud in self.clouds.values():
            await cloud.stop()

    def _changed(self, before: SeRecord | None, after: SeRecord) -> None:
        cloud = self.clouds.get(after.cloud)
        if cloud is not None and after.connected_once and not (before and before.connected_once):
            cloud.connected(after)
        if after.lifecycle is Lifecycle.DELETED and not self.leads() and self._is_here(after):
            taking = Deferred.fromCoroutine(self._try(after, "SE_DELETE_FAILED", self._take_away))
            taking.addErrback(lambda f: _log.failure("taking away {se} failed", f, se=after.uuid))
