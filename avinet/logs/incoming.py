"""The controller's files of segments: written as they come, and whole ones made to last.

``incoming/<se>/<name>.part`` is a segment that has not come whole, ``<name>.<random>.pack`` beside it a batch;
``received/<se>/<name>.zst`` is a segment that is verified and in the ledger (or is about to be: what the ledger does not
know says itself what it is, and is entered at the start), ``<name>.pack`` several in one file.  An SE's id is the one that its channel proved, a name
is 32 hexadecimal digits and a counter, so nothing outside the SE's own folders is touched.

Blocking: for threads.  A part is for one thread at a time.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Executor, Future
from operator import add
from pathlib import Path
from secrets import token_hex
from typing import ClassVar

import attrs

from avinet.errors import AvinetError, Kind, error
from avinet.logs.entries import PACK, SEGMENT, Arrival, Segment
from avinet.logs.incoming_pack import PackFolders, PackPart, Start
from avinet.logs.incoming_part import Part, in_folder
from avinet.logs.ledger import Ledger
from avinet.logs.received import segments_in
from avinet.model.ids import ControllerName, SeId
from avinet.units import GIB, KIB
from avinet.wire.log_messages import MAX_KEPT, MAX_PARTIALS

PART = ".part"
BLOCK_BYTES = 4 * KIB
"""What the smallest file takes of a disk, so a million tiny segments count as what they are: 5 million files of one SE."""
RAW_SHARE = 20
"""Real logs compress 10 to 15 times; of what compresses more, a part of its NDJSON counts, which somebody has to read."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@error
class LogStoreFullError(AvinetError):
    """No more logs are taken from {what}: {detail}. They stay on the service engines meanwhile."""

    kind: ClassVar[Kind] = Kind.NO_SPACE
    what: str
    detail: str
    se: str = ""
    """Whose logs alone these are; empty when nobody's are taken."""


@attrs.frozen
class IntakeLimits:
    """How much may wait here for the store."""

    per_se_bytes: int = 20 * GIB
    """Segments of one SE that are not in the store yet: twice what its spool holds by default."""
    total_bytes: int = 100 * GIB
    free_bytes: int = 2 * GIB
    """What is left to others on the file system."""


@attrs.frozen
class Swept:
    """What a start found in files that no ledger had."""

    segments: int = 0
    """They wait for the store from now on."""
    records: int = 0
    removed: int = 0
    """Files of segments that are in the store, or in other files."""
    unreadable: int = 0
    """Files that do not say what they are, or are not what they say: removed, or set aside where the ledger was damaged."""

    def plus(self, other: "Swept") -> "Swept":
        """Both together."""
        return Swept(*map(add, attrs.astuple(self), attrs.astuple(other)))


class IncomingLogs:
    """All segments that are on their way into the store."""

    def __init__(
        self, folder: Path, ledger: Ledger, syncs: Executor, limits: IntakeLimits | None = None
    ) -> None:
        self._incoming = folder / "incoming"
        self._received = folder / "received"
        self._bad = folder / "bad"
        self.ledger = ledger
        self._syncs = syncs
        """Runs fsyncs side by side, which makes them one commit of the file system's journal."""
        self.limits = limits or IntakeLimits()
        self._used: dict[SeId, int] = {}
        self._lock = threading.Lock()
        self._packs: set[Path] = set()
        """Of batches that somebody has.  Only calls that the interpreter does not interrupt."""

    def part(self, segment: Segment, offset: int) -> Part:
        """A segment's file, not opened yet."""
        name = segment.head.name
        return Part(
            segment,
            offset,
            self._part_path(segment.se, name),
            self._received / segment.se / f"{name}{SEGMENT}",
        )

    def pack(self, se: SeId, start: Start) -> PackPart:
        """A batch's file, not opened yet."""
        path = self._incoming / se / f"{start.heads[0].name}.{token_hex(8)}{PACK}"
        self._packs.add(path)
        return PackPart(se, start, path, self._pack_folders(se))

    def _part_path(self, se: SeId, name: str) -> Path:
        return self._incoming / se / f"{name}{PART}"

    def _pack_folders(self, se: SeId) -> PackFolders:
        return PackFolders(self._received / se, lambda name: self._part_path(se, name), self._packs.discard)

    def left_by(
        self, se: SeId, busy: Container[str] = (), *, copied: bool = False
    ) -> tuple[dict[str, int], tuple[str, ...]]:
        """What is here of an SE, made to last: of segments that have not come whole how much, and the names of those whole
        ones that came last, of which it may not have heard.

        Of the first the newest, the others are removed, and nothing is said of those that are ``busy``.  What is whole in a
        batch that broke off is kept, unless it is to be ``copied``: that is sent again.
        """
        for entry in _entries(self._incoming / se):
            if entry.name.endswith(PACK) and copied:
                self._remove_pack(Path(entry.path))
            elif entry.name.endswith(PACK):
                self._recover(se, Path(entry.path))
        return self._partials(se, busy), self.ledger.newest_waiting(se, MAX_KEPT)

    def _recover(self, se: SeId, path: Path) -> None:
        """A batch that nobody has any more: keep what has come whole of it."""
        if path in self._packs:
            return
        self._packs.add(path)
        pack = PackPart.reopen(se, path, self._pack_folders(se))
        if pack is None:
            self._packs.discard(path)
            return
        try:
            pack.want_only(self.ledger.known_of(pack.all_segments()))
            pack.look_again()
            pack.finish()
            self.keep([(pack, pack.start.pull)])
        finally:
            pack.close()

    def _remove_pack(self, path: Path) -> None:
        if path not in self._packs:
            path.unlink(missing_ok=True)

    def _partials(self, se: SeId, busy: Container[str]) -> dict[str, int]:
        found: list[tuple[float, str, int]] = []
        for entry in _entries(self._incoming / se):
            name, facts = entry.name.removesuffix(PART), entry.stat(follow_symlinks=False)
            if name in busy or not entry.name.endswith(PART):
                continue
            found.append((facts.st_mtime, name, facts.st_size))
        found.sort(reverse=True)
        for _, name, _ in found[MAX_PARTIALS:]:
            self._part_path(se, name).unlink(missing_ok=True)
        kept = {name: size for _, name, size in found[:MAX_PARTIALS] if size}
        for name in kept:
            _sync(self._part_path(se, name))
        return kept

    def require_room(self, se: SeId, size: int, raw_bytes: int = 0) -> None:
        """Whether a segment of ``size`` bytes, and so much NDJSON, may come from ``se``; raises ``LogStoreFullError``.

        What is used is counted up, and looked up anew when it seems too much.
        """
        limits, size = self.limits, max(_blocks(size), raw_bytes // RAW_SHARE)
        disk = in_folder(self._incoming / se, lambda: os.statvfs(self._incoming))
        if disk.f_bavail * disk.f_frsize < limits.free_bytes + size:
            raise LogStoreFullError(what="any service engine", detail="the disk is full")
        with self._lock:
            if se not in self._used or self._used[se] + size > limits.per_se_bytes:
                self._used[se] = self._look_up(se)
            if self._used[se] + size > limits.per_se_bytes:
                raise LogStoreFullError(what=se, se=se, detail="too many of its logs wait for the store")
            if sum(self._used.values()) + size > limits.total_bytes:
                self._used = {one: self._look_up(one) for one in self._used}
            if sum(self._used.values()) + size > limits.total_bytes:
                raise LogStoreFullError(what="any service engine", detail="too many logs wait for the store")
            self._used[se] += size

    def _look_up(self, se: SeId) -> int:
        on_disk = sum(
            _blocks(entry.stat(follow_symlinks=False).st_size)
            for folder in (self._incoming, self._received)
            for entry in _entries(folder / se)
        )
        return max(on_disk, self.ledger.waiting_raw_bytes(se) // RAW_SHARE)

    def keep(
        self, parts: Sequence[tuple[Part | PackPart, str]], at: Callable[[], None] = lambda: None
    ) -> None:
        """Make whole segments last and enter them in the ledger, each with its pull ("" when it was pushed).

        One fsync after another is what takes long, so those of many files go side by side, and all of them are
        one transaction.  May be called again with the same parts after an error.  A part that alone cannot be kept (its
        file is gone, its place on the disk is bad) is discarded and ``unwanted``: it must not hold up the others.
        """
        self.sync([part for part, _ in parts])
        at()
        self.enter(parts, [None] * len(parts), at=at)

    def sync(self, parts: Sequence[Part | PackPart]) -> list[Part | PackPart]:
        """The first half of it: their bytes last.  Returns those that are not here already."""
        first = [part for part in parts if not all(self.ledger.known_of(part.segments))]
        self._each(first, [self._syncs.submit(part.sync) for part in first])
        return first

    def enter(
        self,
        parts: Sequence[tuple[Part | PackPart, str]],
        keepers: Sequence[ControllerName | None],
        take: Callable[[Sequence[Arrival]], object] | None = None,
        at: Callable[[], None] = lambda: None,
    ) -> None:
        """The second half: ``keepers`` have the copies.  ``take`` enters them; the ledger's ``receive`` when it is None."""
        first = [
            (part, pull, keeper)
            for (part, pull), keeper in zip(parts, keepers, strict=True)
            if not all(self.ledger.known_of(part.segments))
        ]
        for part, _, _ in first:
            self._alone(part, part.settle)
        at()
        kept = [one for one in first if not one[0].unwanted]
        folders = {folder for part, _, _ in kept for folder in (part.folder, part.folder.parent)}
        for future in [self._syncs.submit(_sync, folder) for folder in folders]:
            future.result()
        at()
        take = take or self.ledger.receive
        take([Arrival(segment, pull, keeper) for part, pull, keeper in kept for segment in part.segments])
        entered = {part for part, _, _ in kept}
        for part, _ in parts:
            if part not in entered:
                part.discard()

    def _each(self, parts: Sequence[Part | PackPart], futures: Sequence[Future[None]]) -> None:
        for part, future in zip(parts, futures, strict=True):
            self._alone(part, future.result)

    def _alone(self, part: Part | PackPart, step: Callable[[], None]) -> None:
        """What is wrong with one part is that one's affair; a full disk is everybody's."""
        if part.unwanted:
            return
        try:
            step()
        except OSError as why:
            if is_full(why):
                raise
            part.unwanted = True

    def sweep(self, *, copied: bool = False) -> Swept:
        """At the start: what is whole and in no ledger waits from now on; what nothing waits in is removed.

        A crash before the ledger leaves such files, and so does a ledger that was lost: those had been acknowledged.
        Where all is ``copied`` only the latter are taken in: of the others nobody knows who has the copy.
        """
        waiting, swept = self.ledger.waiting_files(), Swept()
        for folder in _folders(self._received):
            for entry in _entries(folder):
                if (folder.name, entry.name) not in waiting:
                    swept = swept.plus(self._look_at(SeId(folder.name), folder / entry.name, copied=copied))
        return swept

    def _look_at(self, se: SeId, path: Path, *, copied: bool) -> Swept:
        if copied and self.ledger.damage is None:
            path.unlink(missing_ok=True)
            return Swept(removed=1)
        found = segments_in(se, path)
        first = self.ledger.receive([Arrival(segment) for segment in found])
        taken = [segment.head.records for segment, counts in zip(found, first, strict=True) if counts]
        if not found and self.ledger.damage is not None:
            # It may have been acknowledged: nobody has it any more.
            self._bad.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.replace(self._bad / f"{se}-{path.name}")
        elif not taken:
            path.unlink(missing_ok=True)
        return Swept(len(taken), sum(taken), int(bool(found) and not taken), int(not found))

    def forget(self, se: SeId) -> None:
        """The SE is deleted: what has not come whole is of no use."""
        for entry in _entries(self._incoming / se):
            (self._incoming / se / entry.name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (self._incoming / se).rmdir()


def is_full(why: BaseException | None) -> bool:
    """Whether an error says that the disk, or what is allowed of it, is used up."""
    return (isinstance(why, OSError) and why.errno in _FULL) or (
        isinstance(why, AvinetError) and why.kind is Kind.NO_SPACE
    )


def _blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _folders(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
