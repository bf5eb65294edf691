"""The log store as the operator API asks it: what was received counts, files are unlinked as soon as they are open."""

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import msgspec
from twisted.internet.defer import Deferred

from avinet.controller.api_logs import Exported
from avinet.controller.log_status import StoreStatus
from avinet.controller.log_store import LogStoreService
from avinet.controller.log_whereabouts import NOT_STORED
from avinet.logs.entries import Waiting
from avinet.logs.query.answers import Answer, Missing
from avinet.logs.query.shapes import Query, Records
from avinet.logs.query.times import show_instant
from avinet.logs.query.windows import is_page, of_whole, windows
from avinet.logs.store.jobs import ExportFormat
from avinet.units import MIB

MAX_EXPORT_BYTES = 16_384 * MIB
"""Of one file: what a controller's disk has room for beside its logs."""


@attrs.frozen(eq=False)
class StoreSearch:
    """``exports`` is the folder where the store writes files for askers."""

    service: LogStoreService
    exports: Path
    in_thread: Callable[..., Deferred[Any]]

    async def ask(self, query: Query) -> Answer:
        """The answer; what was received before and is not in it is ``missing``."""
        behind = await self.service.fresh()
        answer = await self._searched(query)
        return answer if behind is None else msgspec.structs.replace(answer, missing=(_behind(behind),))

    async def _searched(self, query: Query) -> Answer:
        store = self.service.store
        if not isinstance(query.shape, Records):
            return await store.query(query)
        there = await store.status()
        for part in windows(query, there.first_us or 0, there.last_us or 0):
            answer = await store.query(part)
            if is_page(answer):
                break
        return of_whole(answer, query)

    async def ask_files(self, query: Query, names: Sequence[str]) -> Answer:
        """Of these alone."""
        return await self.service.store.query(query, names)

    async def check(self, query: Query) -> None:
        """Whether the store's engine takes it."""
        await self.service.store.check(query)

    async def export(self, query: Query, kind: str) -> Exported:
        """A file that nobody else can open."""
        await self.service.fresh()
        target = self.exports / f"{uuid.uuid4().hex}.{kind}"
        made = await self.service.store.export(query, target, ExportFormat(kind), MAX_EXPORT_BYTES)

        def opened() -> BinaryIO:
            try:
                return target.open("rb")
            finally:
                target.unlink(missing_ok=True)

        return Exported(await self.in_thread(opened), made.size, made.records)

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


def _behind(waiting: Waiting) -> Missing:
    return Missing(se="", se_uuid="", segments=waiting.segments, raw_bytes=waiting.raw_bytes, why=NOT_STORED)
