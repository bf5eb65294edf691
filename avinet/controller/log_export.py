"""Records of all controllers as one file: parts are fetched to this disk, and one job of the store makes the file of them.

What the store does with its own files it does with parts: it sorts them by time in bounded memory, and knows every format.
A file is whole or not there; a controller whose part does not come is named as missing.
"""

import uuid
from collections.abc import Mapping
from pathlib import Path

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from avinet.controller.api_logs import Exported
from avinet.controller.log_census import Learnt, Tally, missing_of
from avinet.controller.log_parts import AskPart, PartFetcher, PartHead, Room
from avinet.controller.log_peers import ATTEMPTS, ClusterSearch
from avinet.controller.log_search import MAX_EXPORT_BYTES, StoreSearch
from avinet.controller.together import together
from avinet.logs.query.answers import Missing
from avinet.logs.query.shapes import Query, Stored
from avinet.logs.store.folders import unlink
from avinet.model.ids import ControllerName

PARTS_TIMEOUT_S = 450.0
"""For all parts together; of the 600 s that whoever asks waits, the rest is for the file."""


@attrs.frozen(eq=False)
class ClusterExport:
    """``own`` makes files of this controller's records and of parts, ``fetcher`` brings those."""

    search: ClusterSearch
    own: StoreSearch
    fetcher: PartFetcher
    _log: Logger = attrs.field(factory=Logger, init=False)

    async def make(self, query: Query, kind: str) -> Exported:
        """The file; ``missing`` names the controllers whose records are not in it."""
        me, learnt = self.search.questions.peers.me, Learnt()
        for attempt in range(1, ATTEMPTS + 1):
            tally = Tally(self.search.census(learnt))
            asked = tally.census.asked
            targets = {name: self.own.exports / f"{uuid.uuid4().hex}.part" for name in asked if name != me}
            try:
                parts, missing = await self._parts(query, tally, targets)
                if tally.moved and attempt < ATTEMPTS:
                    # Something would be in it twice, or not at all.
                    learnt.stores |= tally.moved
                    continue
                made = await self.own.export(query, kind, asked[me], parts)
            finally:
                if targets:
                    self.fetcher.in_thread(unlink, list(targets.values())).addErrback(
                        lambda why: self._log.failure("parts of an export are still there", why)
                    )
            break
        tally.count(me, self.own.counted(asked[me]))
        here = missing_of(me, made.missing) if targets else made.missing
        return attrs.evolve(made, missing=(*here, *missing, *tally.missing(query)))

    async def _parts(
        self, query: Query, tally: Tally, targets: Mapping[ControllerName, Path]
    ) -> tuple[list[Path], list[Missing]]:
        """Those that have come and have something, and what their controllers say is not in them."""
        room = Room(MAX_EXPORT_BYTES)
        heads = await together(
            self._fetch(name, AskPart(_stored(query), tally.census.asked[name]), target, room)
            for name, target in targets.items()
        )
        parts, missing = list[Path](), list[Missing]()
        for (name, target), head in zip(targets.items(), heads, strict=True):
            if head.why:
                tally.failed[name] = head.why
                continue
            tally.count(name, head.counted, head.store)
            missing += missing_of(name, head.missing)
            if head.records:
                parts.append(target)
        return parts, missing

    async def _fetch(self, name: ControllerName, question: AskPart, target: Path, room: Room) -> PartHead:
        def late(_: object, limit_s: float) -> PartHead:
            return PartHead(why=f"Its part of the export was not here within {limit_s:.0f} s.")

        fetching = Deferred.fromCoroutine(self.fetcher.fetch(name, question, target, room))
        return await fetching.addTimeout(PARTS_TIMEOUT_S, self.fetcher.clock, onTimeoutCancel=late)


def _stored(query: Query) -> Query:
    return msgspec.structs.replace(query, shape=Stored())
