"""Makes the catalogue and the files of the store fit each other at a start, when they do not.

A crash leaves a file that nothing lists, but its records are elsewhere: in the files that it was merged of, or in segments
that wait.  A ledger that was damaged, lost, or set back (its WAL is gone) leaves files that hold the only copy of theirs.
Files say which segments they hold (``contents``), which tells the two apart: what is here twice goes, what is here once
counts, and its segments are known from then on.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import attrs
import msgspec
from twisted.logger import Logger

from avinet.errors import AvinetError
from avinet.logs.entries import StoreFile
from avinet.logs.ledger import Ledger
from avinet.logs.mended import Mended
from avinet.logs.runs import Names
from avinet.logs.store import contents
from avinet.logs.store.errors import LogStoreStoppedError
from avinet.logs.store.folders import Folders, unlink
from avinet.logs.store.jobs import MAX_DESCRIBED, Describe, Described, Description, Done, Job
from avinet.logs.store.upkeep import is_name, partition_of

DESCRIBE_LIMIT_S = 60.0
"""For footers of some files: a few ms each, on a disk that is busy."""
MAX_FAILURES = 10
"""Then the worker can look at none; what is left is looked at when the controller starts again."""

_log = Logger()


@attrs.frozen
class Found:
    """A file that is there; ``names`` is None where it says nothing of its segments."""

    file: StoreFile
    names: Names | None
    whole: bool = False
    """Whether it names all that it holds."""


@attrs.frozen
class Decision:
    """What becomes of files that nothing lists."""

    count: tuple[tuple[Found, tuple[str, ...]], ...] = ()
    """They count, instead of listed ones of these names."""
    remove: tuple[Found, ...] = ()
    aside: tuple[Found, ...] = ()


def decide(listed: Sequence[Found], unlisted: Sequence[Found], waiting: Names, *, anew: bool) -> Decision:
    """Of files of one hour.  ``waiting`` are segments whose own files are here; ``anew``: the ledger knows nothing.

    The largest come first, so that what was merged goes before what it was merged of.
    """
    kept = {one.file.name: one for one in listed}
    here = Names().plus(*(one.names for one in listed if one.names is not None))
    count: list[tuple[Found, tuple[str, ...]]] = []
    remove: list[Found] = []
    aside: list[Found] = []
    for one in sorted(unlisted, key=lambda found: found.file.records, reverse=True):
        if one.names is None:
            # Of an earlier version: where there is a list it was left by a crash, or it is not known what it is.
            if anew:
                count.append((one, ()))
            else:
                aside.append(one)
            continue
        own = one.names.minus(here)
        if not own.minus(waiting):
            remove.append(one)
            continue
        if own.count == one.names.count:
            count.append((one, ()))
            kept[one.file.name], here = one, here.plus(one.names)
            continue
        inside = {name: other for name, other in kept.items() if _is_within(other, one.names)}
        held = Names().plus(
            *(other.names for name, other in kept.items() if name not in inside and other.names)
        )
        if one.names.minus(held).count < one.names.count:
            aside.append(one)
            continue
        count.append((one, tuple(inside)))
        kept = {name: other for name, other in kept.items() if name not in inside} | {one.file.name: one}
        here = here.plus(one.names)
    return Decision(tuple(count), tuple(remove), tuple(aside))


def _is_within(other: Found, names: Names) -> bool:
    return other.whole and other.names is not None and bool(other.names) and not other.names.minus(names)


@attrs.define(eq=False)
class Mending:
    """One start's.  ``ask`` has a worker do a job."""

    ledger: Ledger
    folders: Folders
    ask: Callable[[Job, float], Awaitable[Done]]
    in_thread: Callable[..., Awaitable[Any]]
    _failures: int = attrs.field(default=0, init=False)
    _done: Mended = attrs.field(factory=Mended, init=False)

    async def mend(self) -> Mended:
        """What had to be done; nothing, mostly."""
        damage = self.ledger.damage
        if damage is not None:
            self._note(why=damage.why, aside=damage.aside)
        listed: dict[str, StoreFile] = {file.name: file for file in await self.in_thread(self.ledger.files)}
        there: set[str] = await self.in_thread(self.folders.names)
        unlisted = there.difference(listed)
        if unlisted:
            await self._look_at(listed, there, unlisted)
        missing = [file for name, file in listed.items() if name not in there]
        if missing:
            await self.in_thread(self.ledger.replace, [file.name for file in missing])
            self._note(missing=len(missing), missing_records=sum(file.records for file in missing))
        return self._done

    async def _look_at(self, listed: dict[str, StoreFile], there: set[str], unlisted: set[str]) -> None:
        anew = not listed and not await self.in_thread(self.ledger.last_arrival)
        hours: dict[str, list[str]] = {partition_of(name): [] for name in unlisted}
        for name in sorted(there):
            if partition_of(name) in hours:
                hours[partition_of(name)].append(name)
        # One at a time: with thousands of service engines what the files of an hour say is some 100 MB.
        for names in hours.values():
            found: list[Found] = []
            for first in range(0, len(names), MAX_DESCRIBED):
                found += await self._described(names[first : first + MAX_DESCRIBED], unlisted)
            old = [one for one in found if one.file.name in listed]
            new = [one for one in found if one.file.name in unlisted]
            waiting = await self.in_thread(self._waiting, new)
            await self.in_thread(self._apply, decide(old, new, waiting, anew=anew))

    async def _described(self, names: Sequence[str], unlisted: set[str]) -> Iterable[Found]:
        paths = {str(self.folders.store / name): name for name in names}
        try:
            if self._failures >= MAX_FAILURES:
                raise LogStoreStoppedError
            answer = await self.ask(Describe(files=tuple(paths)), DESCRIBE_LIMIT_S)
        except AvinetError as why:
            self._failures += 1
            if len(names) > 1 and self._failures < MAX_FAILURES:
                return [one for name in names for one in await self._described((name,), unlisted)]
            _log.error(
                "{count} files of the log store cannot be looked at: {why}", count=len(names), why=str(why)
            )
            self._note(left=len(unlisted.intersection(names)))
            return ()
        described = answer.files if isinstance(answer, Described) else ()
        found: list[Found] = []
        for one in described:
            name = paths[one.path]
            if one.why or not is_name(name):
                if name in unlisted:
                    # A listed one is found out by the query that trips over it, and told with what it had.
                    await self.in_thread(self.folders.set_file_aside, name)
                    self._note(set_aside=1, set_aside_records=one.records)
                continue
            found.append(_found(name, one))
        return found

    def _waiting(self, files: Sequence[Found]) -> Names:
        """In a thread: the segments of these files that wait and are here."""
        names = Names().plus(*(one.names for one in files if one.names))
        return Names.of(
            (segment.se, segment.head.incarnation, segment.head.counter)
            for segment in self.ledger.waiting_of(names)
            if self.folders.segment(segment).exists()
        )

    def _apply(self, decision: Decision) -> None:
        """In a thread."""
        instead = {name for _, names in decision.count for name in names}
        count = [one for one, _ in decision.count if one.file.name not in instead]
        names = Names().plus(*(one.names for one in count if one.names))
        self.ledger.adopt([one.file for one in count], names, instead)
        unlink(self.folders.store / name for name in instead)
        for one in count:
            self._note(files=1, records=one.file.records, unnamed=int(not one.whole))
        for one in decision.aside:
            self.folders.set_file_aside(one.file.name)
            self._note(set_aside=1, set_aside_records=one.file.records)
        unlink(self.folders.store / one.file.name for one in decision.remove)
        self._note(removed=len(decision.remove) + len(instead))

    def _note(self, why: str = "", aside: str = "", **counts: int) -> None:
        before = self._done
        more = {name: getattr(before, name) + count for name, count in counts.items()}
        self._done = msgspec.structs.replace(
            before, why=why or before.why, aside=aside or before.aside, **more
        )


def _found(name: str, one: Description) -> Found:
    file = StoreFile(name, one.first_us, one.last_us, one.records, one.size, contents.listed(one.parts))
    if one.contents is None:
        return Found(file, None)
    return Found(file, one.contents.names, one.contents.whole)
