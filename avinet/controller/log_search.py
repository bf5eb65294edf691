"""The log store as the operator API asks it: what was received counts, files are unlinked as soon as they are open."""

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import msgspec
from twisted.internet.defer import Deferred

from avinet.controller.api_logs import Exported
from avinet.controller.log_sets import CopySets, NoCopySets
from avinet.controller.log_status import CopyStatus, StoreStatus
from avinet.controller.log_store import LogStoreService
from avinet.controller.log_whereabouts import NOT_STORED
from avinet.controller.together import together
from avinet.logs.copies import CopiesHere
from avinet.logs.entries import Waiting
from avinet.logs.query.answers import Answer, Missing
from avinet.logs.query.shapes import Query, Records
from avinet.logs.query.times import show_instant
from avinet.logs.query.windows import is_page, of_whole, windows
from avinet.logs.store.interface import ExportTerms, LogStore
from avinet.logs.store.jobs import ExportFormat
from avinet.model.ids import ControllerName
from avinet.units import MIB

NOT_DECIDED = "whether they count elsewhere is being found out"
"""Of copies of one that was lost a moment ago, or while others cannot be asked."""
MAX_EXPORT_BYTES = 16_384 * MIB
"""Of one file: what a controller's disk has room for beside its logs."""


@attrs.frozen(eq=False)
class StoreSearch:
    """``exports`` is the folder where the store writes files for askers."""

    service: LogStoreService
    exports: Path
    in_thread: Callable[..., Deferred[Any]]
    copies: CopySets = attrs.field(factory=NoCopySets)

    async def ask(self, query: Query, sets: Sequence[str] = ()) -> Answer:
        """The answer, with the copy sets of these stores, as far as they are here; what was received before and is not in
        it is ``missing``.
        """
        services, held = self._with(sets), await self._held(sets)
        behind = await _fresh(services)
        answer = await self._searched(query, [one.store for one in services])
        return msgspec.structs.replace(answer, missing=(*held, *_behind(behind)))

    def counted(self, sets: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Those of these that are here, each with how many records its store had that are in no set, and the newest's time."""
        here = self.copies.ids()
        lacks = {id_: self.copies.uncopied(id_) for id_ in sets if id_ in here}
        return {id_: (lack.records, lack.newest_us) for id_, lack in lacks.items()}

    async def _held(self, sets: Sequence[str]) -> tuple[Missing, ...]:
        """What of these sets does not count yet: looked at first, for what is decided meanwhile is in the answer."""
        found = []
        for id_, name in self.copies.ids().items():
            for service in self.copies.search((id_,)) if id_ in sets else ():
                held = await self.in_thread(CopiesHere(service.ledger).held)
                if held:
                    found.append(
                        Missing(se="", se_uuid="", segments=held.count, why=NOT_DECIDED, controller=name)
                    )
        return tuple(found)

    def _with(self, sets: Sequence[str]) -> list[LogStoreService]:
        return [self.service, *self.copies.search(sets)]

    async def _searched(self, query: Query, stores: Sequence[LogStore]) -> Answer:
        store, also = stores[0], stores[1:]
        if not isinstance(query.shape, Records):
            return await store.query(query, also=also)
        there = [await one.status() for one in stores]
        first_us = min((one.first_us for one in there if one.first_us is not None), default=0)
        last_us = max((one.last_us for one in there if one.last_us is not None), default=0)
        for part in windows(query, first_us, last_us):
            answer = await store.query(part, also=also)
            if is_page(answer):
                break
        return of_whole(answer, query)

    async def ask_files(self, query: Query, names: Sequence[str]) -> Answer:
        """Of these alone."""
        return await self.service.store.query(query, names)

    async def check(self, query: Query) -> None:
        """Whether the store's engine takes it."""
        await self.service.store.check(query)

    async def export(
        self, query: Query, kind: str, sets: Sequence[str] = (), parts: Sequence[Path] = ()
    ) -> Exported:
        """A file that nobody else can open: of what is here, and of ``parts`` of other stores, in the exports' folder."""
        services, held = self._with(sets), await self._held(sets)
        behind = await _fresh(services)
        target = self.exports / f"{uuid.uuid4().hex}.{kind}"
        terms = ExportTerms(ExportFormat(kind), MAX_EXPORT_BYTES, tuple(map(str, parts)))
        also = [one.store for one in services[1:]]
        made = await self.service.store.export(query, target, terms, also)

        def opened() -> BinaryIO:
            try:
                return target.open("rb")
            finally:
                target.unlink(missing_ok=True)

        missing = (*held, *_behind(behind))
        return Exported(await self.in_thread(opened), made.size, made.records, missing)

    async def kept(self) -> tuple[CopyStatus, ...]:
        """The copy sets that are here."""
        found = [await _copy_status(id_, name, self.copies) for id_, name in self.copies.ids().items()]
        return tuple(one for of_set in found for one in of_set)

    async def status(self) -> StoreStatus:
        """What there is."""
        found = await self.service.store.status()
        mended_us, mended = found.mended or (0, None)
        return StoreStatus(
            records=found.records,
            bytes=found.bytes,
            files=found.files,
            since="" if found.first_us is None else show_instant(found.first_us),
            until="" if found.last_us is None else show_instant(found.last_us),
            waiting_segments=found.waiting.segments,
            waiting_bytes=found.waiting.raw_bytes,
            trouble=self.service.trouble,
            mended="" if mended is None else mended.text,
            mended_at=show_instant(mended_us) if mended else "",
        )


async def _fresh(services: Sequence[LogStoreService]) -> Waiting | None:
    """Wait for what all of them have received; what is not stored then."""
    behind = [one for one in await together(one.fresh() for one in services) if one is not None]
    if not behind:
        return None
    return Waiting(sum(one.segments for one in behind), sum(one.raw_bytes for one in behind))


async def _copy_status(id_: str, name: ControllerName, copies: CopySets) -> list[CopyStatus]:
    lack = copies.uncopied(id_)
    there = [await service.store.status() for service in copies.search((id_,))]
    return [
        CopyStatus(store_id=id_, controller=name, records=one.records, bytes=one.bytes, uncopied=lack.records)
        for one in there
    ]


def _behind(waiting: Waiting | None) -> tuple[Missing, ...]:
    if waiting is None:
        return ()
    return (
        Missing(se="", se_uuid="", segments=waiting.segments, raw_bytes=waiting.raw_bytes, why=NOT_STORED),
    )
