"""The controller's files of segments: written as they come, and whole ones made to last.

``incoming/<se>/<name>.part`` is a segment that has not come whole; ``received/<se>/<name>.zst`` is one that is verified
and in the ledger (or is about to be: what the ledger does not know is removed at the start).  An SE's id is the one that
its channel proved, a name is 32 hexadecimal digits and a counter, so nothing outside the SE's own folders is touched.

Blocking: for threads.  A ``Part`` is for one thread at a time.
"""

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import ClassVar, TypeVar

import attrs

from avinet.errors import AvinetError, Kind, error
from avinet.logs.entries import Arrival, Segment
from avinet.logs.ledger import Ledger
from avinet.model.ids import SeId
from avinet.model.logs import SegmentHead
from avinet.units import GIB, KIB, MIB
from avinet.wire.log_messages import MAX_PARTIALS

_T = TypeVar("_T")
PART = ".part"
SEGMENT = ".zst"
BLOCK_BYTES = 4 * KIB
"""What the smallest file takes of a disk, so a million tiny segments count as what they are: 5 million files of one SE."""
RAW_SHARE = 20
"""Real logs compress 10 to 15 times; of what compresses more, a part of its NDJSON counts, which somebody has to read."""
HASHED_BYTES = MIB
"""Read at once of what is on disk already."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@error
class LogStoreFullError(AvinetError):
    """No more logs are taken from {what}: {detail}. They stay on the service engines meanwhile."""

    kind: ClassVar[Kind] = Kind.NO_SPACE
    what: str
    detail: str
    se: str = ""
    """Whose logs alone these are; empty when nobody's are taken."""


@error
class PartGoneError(AvinetError):
    """Of {name} there are {have} bytes, not {wanted}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    name: str
    have: int
    wanted: int


@attrs.frozen
class IntakeLimits:
    """How much may wait here for the store."""

    per_se_bytes: int = 20 * GIB
    """Segments of one SE that are not in the store yet: twice what its spool holds by default."""
    total_bytes: int = 100 * GIB
    free_bytes: int = 2 * GIB
    """What is left to others on the file system."""


class Part:
    """A segment that is being written."""

    def __init__(self, segment: Segment, offset: int, path: Path, final: Path) -> None:
        self.segment = segment
        self.offset = offset
        """Where it goes on; what is before is on disk."""
        self.size = 0
        """Bytes that are in the file and in the hash."""
        self.unwanted = False
        """It was refused, or is here already: what more comes of it is thrown away."""
        self._path = path
        self._final = final
        self._descriptor: int | None = None
        self._hash = hashlib.sha256()

    @property
    def head(self) -> SegmentHead:
        """What it should be."""
        return self.segment.head

    def open(self) -> None:
        """Once, before anything else; ``PartGoneError`` when the file is shorter than it should be."""
        if self._descriptor is not None:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = _in_folder(self._path, lambda: os.open(self._path, flags, 0o600))
        try:
            self._go_behind(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _go_behind(self, descriptor: int) -> None:
        """Hash what is there up to ``offset``, and drop what is behind it."""
        have = os.fstat(descriptor).st_size
        if have < self.offset:
            raise PartGoneError(name=self.head.name, have=have, wanted=self.offset)
        os.ftruncate(descriptor, self.offset)
        piece = bytearray(min(HASHED_BYTES, self.offset))
        view = memoryview(piece)
        while self.size < self.offset:
            got = os.preadv(descriptor, [view[: self.offset - self.size]], self.size)
            if not got:
                raise PartGoneError(name=self.head.name, have=self.size, wanted=self.offset)
            self._hash.update(view[:got])
            self.size += got

    def append(self, data: memoryview) -> int:
        """Write the front of ``data``; how much that was.  What a full disk interrupts goes on at the same place."""
        if self._descriptor is None:
            raise AssertionError("it is not open")
        written = os.pwrite(self._descriptor, data, self.size)
        self._hash.update(data[:written])
        self.size += written
        return written

    @property
    def opened(self) -> bool:
        """Whether it is open."""
        return self._descriptor is not None

    @property
    def whole(self) -> bool:
        """Whether it has come to its end."""
        return self.size == self.head.size

    @property
    def true(self) -> bool:
        """Whether it is what its head says."""
        return self.whole and self._hash.hexdigest() == self.head.sha256

    def sync(self) -> None:
        """Make its bytes last."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def settle(self) -> None:
        """It is a segment from now on; its folder is still to be made to last."""
        if self._descriptor is not None:
            _in_folder(self._final, lambda: self._path.rename(self._final))
            self.close()

    @property
    def folder(self) -> Path:
        """Where it is once it is settled."""
        return self._final.parent

    def close(self) -> None:
        """Leave what is there."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def discard(self) -> None:
        """It is not wanted."""
        self.close()
        self._path.unlink(missing_ok=True)


class IncomingLogs:
    """All segments that are on their way into the store."""

    def __init__(
        self, folder: Path, ledger: Ledger, syncs: Executor, limits: IntakeLimits | None = None
    ) -> None:
        self._incoming = folder / "incoming"
        self._received = folder / "received"
        self.ledger = ledger
        self._syncs = syncs
        """Runs fsyncs side by side, which makes them one commit of the file system's journal."""
        self.limits = limits or IntakeLimits()
        self._used: dict[SeId, int] = {}
        self._lock = threading.Lock()

    def part(self, segment: Segment, offset: int) -> Part:
        """A segment's file, not opened yet."""
        name = segment.head.name
        return Part(
            segment,
            offset,
            self._incoming / segment.se / f"{name}{PART}",
            self._received / segment.se / f"{name}{SEGMENT}",
        )

    def partials(self, se: SeId, busy: Container[str] = ()) -> dict[str, int]:
        """What is here of segments that have not come whole, made to last; the newest, the others are removed.

        Nothing is said of those that are ``busy``.
        """
        found: list[tuple[float, str, int]] = []
        for entry in _entries(self._incoming / se):
            name, facts = entry.name.removesuffix(PART), entry.stat(follow_symlinks=False)
            if name in busy:
                continue
            found.append((facts.st_mtime, name, facts.st_size))
        found.sort(reverse=True)
        for _, name, _ in found[MAX_PARTIALS:]:
            (self._incoming / se / f"{name}{PART}").unlink(missing_ok=True)
        kept = {name: size for _, name, size in found[:MAX_PARTIALS] if size}
        for name in kept:
            _sync(self._incoming / se / f"{name}{PART}")
        return kept

    def require_room(self, se: SeId, size: int, raw_bytes: int = 0) -> None:
        """Whether a segment of ``size`` bytes, and so much NDJSON, may come from ``se``; raises ``LogStoreFullError``.

        What is used is counted up, and looked up anew when it seems too much.
        """
        limits, size = self.limits, max(_blocks(size), raw_bytes // RAW_SHARE)
        disk = _in_folder(self._incoming / se, lambda: os.statvfs(self._incoming))
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

    def keep(self, parts: Sequence[tuple[Part, str]], at: Callable[[], None] = lambda: None) -> None:
        """Make whole segments last and enter them in the ledger, each with its pull ("" when it was pushed).

        One fsync after another is what takes long, so those of many small segments go side by side, and all of them are
        one transaction.  May be called again with the same parts after an error.  A part that alone cannot be kept (its
        file is gone, its place on the disk is bad) is discarded and ``unwanted``: it must not hold up the others.
        """
        first = [(part, pull) for part, pull in parts if not self.ledger.known(part.segment)]
        self._each([part for part, _ in first], [self._syncs.submit(part.sync) for part, _ in first])
        at()
        for part, _ in first:
            self._alone(part, part.settle)
        at()
        kept = [(part, pull) for part, pull in first if not part.unwanted]
        folders = {folder for part, _ in kept for folder in (part.folder, part.folder.parent)}
        for future in [self._syncs.submit(_sync, folder) for folder in folders]:
            future.result()
        at()
        self.ledger.receive([Arrival(part.segment, pull) for part, pull in kept])
        entered = {part for part, _ in kept}
        for part, _ in parts:
            if part not in entered:
                part.discard()

    def _each(self, parts: Sequence[Part], futures: Sequence[Future[None]]) -> None:
        for part, future in zip(parts, futures, strict=True):
            self._alone(part, future.result)

    def _alone(self, part: Part, step: Callable[[], None]) -> None:
        """What is wrong with one part is that one's affair; a full disk is everybody's."""
        if part.unwanted:
            return
        try:
            step()
        except OSError as why:
            if is_full(why):
                raise
            part.unwanted = True

    def sweep(self) -> int:
        """At the start: remove segments that the ledger does not wait for; how many."""
        waiting = self.ledger.waiting_names()
        removed = 0
        for folder in _folders(self._received):
            for entry in _entries(folder):
                if (folder.name, entry.name.removesuffix(SEGMENT)) not in waiting:
                    (folder / entry.name).unlink(missing_ok=True)
                    removed += 1
        return removed

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


def _in_folder(path: Path, call: Callable[[], _T]) -> _T:
    """What makes ``path``; its folder is made where there is none, which is seldom."""
    try:
        return call()
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return call()


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
