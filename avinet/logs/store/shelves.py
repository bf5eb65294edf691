"""Files of a store as they are read: alone, or with those of other stores on the same workers, as if all were one store's.

One job reads them all, so counts, quantiles and different values are of all of them, and exact where one store's are.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import attrs

from avinet.logs.entries import StoreFile
from avinet.logs.ledger import Ledger
from avinet.logs.query.shapes import Query
from avinet.logs.store.damage import Damage
from avinet.logs.store.errors import LogQueryRefusedError, LogStoreBrokenError, LogTooManyFilesError
from avinet.logs.store.folders import Folders, unlink
from avinet.logs.store.jobs import MAX_JOB_FILES, Job
from avinet.logs.store.reading import Readers
from avinet.logs.store.surroundings import Surroundings
from avinet.logs.store.workers import Asking, answer_as

_T = TypeVar("_T")


@attrs.frozen(eq=False)
class Shelf:
    """One store's files, by its ledger."""

    ledger: Ledger
    folders: Folders
    around: Surroundings
    readers: Readers
    damage: Damage

    def path(self, file: StoreFile) -> Path:
        """Where it is."""
        return self.folders.store / file.name

    async def files(self, query: Query, only: Sequence[str]) -> list[StoreFile]:
        """Those of the query's time; of these names alone, if there are any."""
        since_us = 0 if query.since_us is None else query.since_us
        until_us = 2**62 if query.until_us is None else query.until_us
        listed: list[StoreFile] = await self.around.in_thread(self.ledger.files, since_us, until_us)
        return [file for file in listed if not only or file.name in only]

    async def remove_unread(self) -> None:
        """What nobody reads any more."""
        free = self.readers.unread()
        if free:
            await self.around.in_thread(unlink, free)


@attrs.frozen
class Reading(Generic[_T]):
    """A job that reads files, and what its answer is; of the files of the names ``only``, if there are any."""

    job: Callable[[tuple[str, ...]], Job]
    kind: type[_T]
    limit_s: float
    only: Sequence[str] = ()
    over: Callable[[], None] = lambda: None
    """As a worker has it."""


async def read(shelves: Sequence[Shelf], query: Query, wanted: Reading[_T], querying: Asking) -> _T:
    """The answer from all of them; a file that turns out to be damaged is set aside, and the rest read again."""
    while True:
        found: list[tuple[Shelf, list[StoreFile]]] = []
        try:
            with contextlib.ExitStack() as reading:
                for shelf in shelves:
                    files = await shelf.files(query, wanted.only)
                    reading.enter_context(shelf.readers.reading([shelf.path(file) for file in files]))
                    found.append((shelf, files))
                paths = tuple(str(shelf.path(file)) for shelf, files in found for file in files)
                if len(paths) > MAX_JOB_FILES:
                    raise LogTooManyFilesError(files=len(paths))
                asking = querying.ask(wanted.job(paths), wanted.limit_s, wanted.over)
                return await answer_as(wanted.kind, asking)
        except (LogQueryRefusedError, LogStoreBrokenError) as why:
            # Each time round some are fewer.
            gone = [await shelf.damage.set_aside(why.why, files) for shelf, files in found]
            if not any(gone):
                raise
        finally:
            for shelf in shelves:
                await shelf.remove_unread()
