"""The log store of one controller: Parquet files in a folder, a catalogue in the ledger, two workers.

What counts is what the ledger says, in one transaction each: which segments are in which file, and which files there are.
A worker makes a file first; the ledger lists it and says of its segments that they are stored; only then the segments go.
A crash anywhere leaves a file that is not listed (``mending``), or segments that are no longer waited for (the
intake removes them at the start).

A segment that a worker does not survive is found by halving: the job is done again in two parts, down to one segment,
which is set aside when it fails twice.
"""

from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TypeVar

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from avinet.errors import AvinetError
from avinet.logs.entries import Segment, StoreFile, Waiting
from avinet.logs.ledger import Ledger
from avinet.logs.mended import Mended
from avinet.logs.query.answers import Answer
from avinet.logs.query.shapes import Query
from avinet.logs.store.contents import listed
from avinet.logs.store.damage import Damage
from avinet.logs.store.errors import (
    LogQueryRefusedError,
    LogStoreBrokenError,
    LogStoreFullError,
    LogStoreStoppedError,
)
from avinet.logs.store.folders import Folders, unlink
from avinet.logs.store.interface import (
    BadLines,
    BadSegment,
    ExportTerms,
    Keeping,
    StoreStatus,
    Taken,
    Upkeep,
)
from avinet.logs.store.jobs import (
    Ask,
    Attempt,
    Export,
    Exported,
    Found,
    Ingest,
    Merge,
    Rows,
    SegmentFile,
    Written,
)
from avinet.logs.store.mending import Mending
from avinet.logs.store.reading import Readers
from avinet.logs.store.shares import evicted, heavy, owners, to_evict
from avinet.logs.store.shelves import Reading, Shelf, read
from avinet.logs.store.surroundings import Surroundings
from avinet.logs.store.upkeep import Stamps, new_name, owner_of, partition, partition_of, to_merge, too_old
from avinet.logs.store.whole_files import beside_of
from avinet.logs.store.workers import Asking, Workers, answer_as
from avinet.model.ids import SeId
from avinet.model.logs import LogClass
from avinet.units import DAY_S, MIB

TAKEN_RAW_BYTES = 512 * MIB
"""In one file, when much waits: 800,000 records, 40 MiB, two or three seconds.  Larger ones would make large row groups
of small services, but keep a query waiting for longer that wants all that was received."""
INGEST_LIMIT_S = 600.0
"""A hundred times what a job takes: then the worker hangs."""
QUERY_LIMIT_S = 60.0
EXPORT_LIMIT_S = 3_600.0
CHECK_LIMIT_S = 10.0
"""It takes a few ms, and may wait behind others."""
MAX_SUSPECTS = 1_000
MENDED_SHOWN_US = int(30 * DAY_S * 1e6)
"""The event is long gone by then."""

_log = Logger()
_T = TypeVar("_T")


@attrs.define(eq=False)
class EmbeddedLogStore:
    """As ``LogStore`` says."""

    ledger: Ledger
    folders: Folders
    around: Surroundings
    workers: Workers
    _readers: Readers = attrs.field(factory=Readers, init=False)
    _suspects: set[Segment] = attrs.field(factory=set, init=False)
    """Each was alone in a job that failed."""
    _heavy: frozenset[SeId] = attrs.field(default=frozenset(), init=False)
    """Whose logs go into files of their own."""
    _stamps: Stamps = attrs.field(factory=Stamps, init=False)

    @property
    def _damage(self) -> Damage:
        return Damage(self.ledger, self.folders, self.workers.querying.ask, self.around)

    @property
    def shelf(self) -> Shelf:
        """Its files, for whoever reads them."""
        return Shelf(self.ledger, self.folders, self.around, self._readers, self._damage)

    def start(self) -> Deferred[Mended]:
        """Remove what a crash left, have the ledger and the files fit each other, then work."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> Mended:
        await self.around.in_thread(self.folders.tidy)
        self.workers.querying.start()
        in_thread = self.around.in_thread
        mended = await Mending(self.ledger, self.folders, self.workers.querying.ask, in_thread).mend()
        if mended.removed:
            _log.info("removed {count} files of the log store that others have in them", count=mended.removed)
        if mended.noteworthy:
            await in_thread(self.ledger.note_mended, self._now_us(), mended)
        self._stamps.saw(file.name for file in await in_thread(self.ledger.files))
        self.workers.ingesting.start()
        return mended

    def stop(self) -> Deferred[None]:
        """End the workers."""
        return gatherResults([self.workers.ingesting.stop(), self.workers.querying.stop()]).addCallback(
            lambda _: None
        )

    # Taking in

    def take(self) -> Deferred[Taken]:
        """The longest waiting segments."""
        return Deferred.fromCoroutine(self._take())

    async def _take(self) -> Taken:
        waiting: list[Segment] = await self.around.in_thread(self.ledger.waiting, TAKEN_RAW_BYTES)
        hours: dict[tuple[str, str], list[Segment]] = {}
        own = owners(waiting, self._heavy)
        for segment in waiting:
            hour = partition(segment.head.last_us, self._now_us())
            hours.setdefault((hour, own.get(segment.se, "")), []).append(segment)
        taken = Taken()
        for where, segments in hours.items():
            taken = taken.plus(await self._take_these(where, segments))
        behind: Waiting = await self.around.in_thread(self.ledger.waiting_totals)
        return attrs.evolve(taken, more=bool(waiting) and behind.raw_bytes >= TAKEN_RAW_BYTES // 4)

    async def _take_these(self, where: tuple[str, str], segments: Sequence[Segment]) -> Taken:
        name = new_name(where[0], self._stamps.at(self._now_us()), where[1])
        bad_lines = self.folders.bad / f"{Path(name).name}.ndjson"
        job = Ingest(
            segments=tuple(
                SegmentFile(
                    path=str(self.folders.segment(one)),
                    offset=None if one.place is None else one.place.offset,
                    se_uuid=one.se,
                    se=self.around.name_of(one.se),
                    head=one.head,
                )
                for one in segments
            ),
            target=str(self.folders.store / name),
            bad_lines=str(bad_lines),
        )
        try:
            written = await self._written(self.workers.ingesting, job, name)
        except (LogStoreFullError, LogStoreStoppedError):
            raise
        except AvinetError as why:
            if len(segments) > 1:
                half = len(segments) // 2
                first = await self._take_these(where, segments[:half])
                return first.plus(await self._take_these(where, segments[half:]))
            return await self._suspect(segments[0], why)
        self._suspects.difference_update(segments)
        taken = Taken(
            segments=len(segments),
            records=written.records,
            bad=tuple(BadSegment(segments[one.number], one.why) for one in written.bad),
            bad_lines=tuple(BadLines(segments[one.number], one.lines, one.why) for one in written.bad_lines),
        )
        file = _listed(name, written)
        await self._commit(file, segments, taken)
        if file is None:
            return taken
        full_only = all(segment.head.log_class is LogClass.FULL for segment in segments)
        return attrs.evolve(taken, files=(name,), full_only=(name,) if full_only else ())

    async def _suspect(self, segment: Segment, why: AvinetError) -> Taken:
        """It failed alone: once may be chance (a worker that somebody killed), twice is not."""
        if segment not in self._suspects and len(self._suspects) < MAX_SUSPECTS:
            self._suspects.add(segment)
            raise why
        self._suspects.discard(segment)
        taken = Taken(segments=1, bad=(BadSegment(segment, str(why)),))
        await self._commit(None, (segment,), taken)
        return taken

    async def _commit(self, file: StoreFile | None, segments: Sequence[Segment], taken: Taken) -> None:
        bad = [one.segment for one in taken.bad]
        good = [segment for segment in segments if segment not in set(bad)]

        def commit() -> None:
            done = self.ledger.stored(file, good, bad)
            self.ledger.lose(taken.lost, self._now_us())
            for segment in bad:
                self.folders.set_aside(segment)
            unlink(self.folders.received(se) / name for se, name in done)
            if taken.bad or taken.bad_lines:
                self.folders.bound_bad()

        await self.around.in_thread(commit)

    async def _written(self, worker: Asking, job: Ingest | Merge, name: str) -> Written:
        """What a worker wrote; when it did not, nothing of it is left."""
        try:
            return await answer_as(Written, worker.ask(job, INGEST_LIMIT_S))
        except AvinetError:
            target = self.folders.store / name
            await self.around.in_thread(unlink, (target, beside_of(target)))
            raise

    # Answers

    def query(
        self, query: Query, only: Sequence[str] = (), also: Sequence["EmbeddedLogStore"] = ()
    ) -> Deferred[Answer]:
        """From what is in the store now."""

        async def answered() -> Answer:
            wanted = Reading(lambda files: Ask(query=query, files=files), Found, QUERY_LIMIT_S, only)
            return (await self._read(query, wanted, also)).answer

        return Deferred.fromCoroutine(answered())

    def export(
        self, query: Query, target: Path, terms: ExportTerms, also: Sequence["EmbeddedLogStore"] = ()
    ) -> Deferred[Exported]:
        """All records of a query, as a file."""

        def job(files: tuple[str, ...]) -> Export:
            return Export(
                query=query,
                files=(*files, *terms.parts),
                target=str(target),
                format=terms.format,
                max_bytes=terms.max_bytes,
            )

        def remove() -> None:
            paths = (target, beside_of(target))
            self.around.in_thread(unlink, paths).addErrback(
                lambda why: _log.failure("an export that nobody wants is still there", why)
            )

        async def made() -> Exported:
            try:
                return await self._read(query, Reading(job, Exported, EXPORT_LIMIT_S, (), remove), also)
            except BaseException:
                # The worker may have died over it; where it was given up, it may also be there only later.
                remove()
                raise

        return Deferred.fromCoroutine(made())

    def _read(self, query: Query, wanted: Reading[_T], also: Sequence["EmbeddedLogStore"]) -> Awaitable[_T]:
        return read([store.shelf for store in (self, *also)], query, wanted, self.workers.querying)

    def check(self, query: Query) -> Deferred[None]:
        """Have each comparison made with one record that nobody wrote."""

        async def checked() -> None:
            await answer_as(Rows, self.workers.querying.ask(Attempt(query=query), CHECK_LIMIT_S))

        return Deferred.fromCoroutine(checked())

    # Upkeep

    def keep_up(self, keeping: Keeping) -> Deferred[Upkeep]:
        """Merge and remove."""
        return Deferred.fromCoroutine(self._keep_up(keeping))

    async def _keep_up(self, keeping: Keeping) -> Upkeep:
        files: list[StoreFile] = await self.around.in_thread(self.ledger.files)
        old = too_old(files, self._surely_us(), keeping.age_us)
        old += await self._evicted([file for file in files if file not in set(old)], keeping.bytes)
        if old:
            await self._replace(old, None)
        await self.around.in_thread(self.ledger.forget_oldest)
        merged = 0
        gone = {file.name for file in old}
        for group in to_merge([file for file in files if file.name not in gone], self._now_us()):
            behind: Waiting = await self.around.in_thread(self.ledger.waiting_totals)
            if behind.raw_bytes >= TAKEN_RAW_BYTES:
                # What was received goes first; the rest is merged a minute later.
                break
            try:
                await self._merge(group)
            except (LogStoreFullError, LogStoreStoppedError):
                raise
            except AvinetError as why:
                # The others are merged all the same; these are tried again a minute later.
                said = why.why if isinstance(why, LogQueryRefusedError | LogStoreBrokenError) else None
                if said is None or not await self._damage.set_aside(said, group):
                    _log.warn(
                        "{count} files of the log store are not merged: {why}", count=len(group), why=str(why)
                    )
                continue
            merged += len(group)
        return Upkeep(merged, len(old), sum(file.records for file in old))

    async def _evicted(self, files: Sequence[StoreFile], max_bytes: int) -> list[StoreFile]:
        """What has to go since the store is full; told as lost."""

        def evict() -> list[StoreFile]:
            self._heavy = heavy(self.ledger.held(), max_bytes)
            if sum(file.size for file in files) <= max_bytes:
                return []
            parts = self.ledger.parts()
            going = to_evict(files, parts, max_bytes)
            self.ledger.lose(evicted(going, parts), self._now_us())
            return going

        found: list[StoreFile] = await self.around.in_thread(evict)
        return found

    async def _merge(self, group: Sequence[StoreFile]) -> None:
        name = new_name(partition_of(group[0].name), self._stamps.at(self._now_us()), owner_of(group[0].name))
        sources = tuple(str(self.folders.store / file.name) for file in group)
        job = Merge(sources=sources, target=str(self.folders.store / name))
        written = await self._written(self.workers.ingesting, job, name)
        if written.records != sum(file.records for file in group):
            await self.around.in_thread(unlink, (self.folders.store / name,))
            raise LogStoreBrokenError(
                why=f"merging {len(group)} files made {written.records} records of them"
            )
        await self._replace(group, _listed(name, written))

    async def _replace(self, old: Sequence[StoreFile], new: StoreFile | None) -> None:
        await self.around.in_thread(
            self.ledger.replace, [file.name for file in old], [] if new is None else [new]
        )
        self._readers.doom([self.folders.store / file.name for file in old])
        await self.shelf.remove_unread()

    def status(self) -> Deferred[StoreStatus]:
        """What there is."""

        def look() -> StoreStatus:
            files, mended = self.ledger.files(), self.ledger.mended()
            return StoreStatus(
                waiting=self.ledger.waiting_totals(),
                files=len(files),
                records=sum(file.records for file in files),
                bytes=sum(file.size for file in files),
                first_us=min((file.first_us for file in files), default=None),
                last_us=max((file.last_us for file in files), default=None),
                running=self.workers.querying.running,
                queued=self.workers.querying.waiting,
                mended=mended
                if mended is not None and mended[0] > self._now_us() - MENDED_SHOWN_US
                else None,
            )

        return self.around.in_thread(look)

    # Inside

    def _surely_us(self) -> int:
        """No later than now: a wall clock that is set forward by a year must not make all logs a year old at once."""
        steady = self.around.steady
        return self._now_us() if steady is None else min(self._now_us(), int(steady() * 1e6))

    def _now_us(self) -> int:
        return int(self.around.wall() * 1e6)


def _listed(name: str, written: Written) -> StoreFile | None:
    if not written.records:
        return None
    facts = (written.first_us, written.last_us, written.records, written.size)
    return StoreFile(name, *facts, listed(written.parts))
