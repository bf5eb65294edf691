"""Opens the spool's index, and makes it anew from the packs where it is damaged or gone.

The spool then has another incarnation, so no counter is ever used twice.  Segments that are there keep their names: a
controller that has some of them already knows them by these.  A segment that is not what its pack's table says is set
aside and counted.  Of pieces that were begun nobody knows how much was taken in: they are counted as lost by their
bytes, since taking them in again would double what was.  With which stores segments were begun is lost, too; so whoever gets
one is told that it may be any, and finds out whether it counts already before it takes it.
"""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from twisted.logger import Logger

from avinet.logs.spool_index import SpoolIndex
from avinet.logs.spool_packs import Packs, Placed, whole
from avinet.logs.spool_pieces import Pieces
from avinet.model.logs import Drop, DropReason, LogClass
from avinet.sqlite_file import StoreDamagedError
from avinet.trust.files import sync_folder

_log = Logger()


def open_index(packs: Packs, pieces: Pieces, now_us: int) -> SpoolIndex:
    """The index of ``packs``; ``now_us`` begins the positions of a new one's drops, which so exceed any older one's."""
    path = packs.folder / "spool.db"
    if path.exists():
        try:
            return SpoolIndex.open(path)
        except StoreDamagedError as why:
            _log.error("the index of the log spool is made anew from its packs: {why}", why=str(why))
            set_aside(path)
    return _make(path, packs, pieces, now_us)


def make_anew(index: SpoolIndex, packs: Packs, pieces: Pieces, now_us: int) -> SpoolIndex:
    """``index`` was found damaged while it was in use."""
    index.abandon()
    path = packs.folder / "spool.db"
    set_aside(path)
    return _make(path, packs, pieces, now_us)


def set_aside(path: Path) -> Path:
    """A damaged index gets another name, for whoever wants to look into it; the one before it goes."""
    aside = path.with_name(f"{path.name}.damaged")
    for suffix in ("-wal", "-shm", "-journal"):
        # The log first: alone it is nothing, and beside a new index it would be taken for its own.
        with contextlib.suppress(FileNotFoundError):
            path.with_name(f"{path.name}{suffix}").replace(aside.with_name(f"{aside.name}{suffix}"))
    with contextlib.suppress(FileNotFoundError):
        path.replace(aside)
    sync_folder(path.parent)
    return aside


def _make(path: Path, packs: Packs, pieces: Pieces, now_us: int) -> SpoolIndex:
    begun = [piece for piece in pieces.all() if piece.begun]
    beside = path.with_name(f"{path.name}.new")
    index = SpoolIndex.create(beside, uuid.uuid4().hex, _last_counter(packs), now_us)
    try:
        for placed, drops in _read_again(packs):
            index.restore(placed, drops, ())
        lost = [
            Drop(reason=DropReason.CORRUPT, log_class=piece.log_class, raw_bytes=piece.path.stat().st_size)
            for piece in begun
        ]
        index.restore((), lost, [piece.name for piece in begun])
    finally:
        index.close()
    beside.replace(path)
    sync_folder(path.parent)
    return SpoolIndex.open(path)


def _last_counter(packs: Packs) -> int:
    last = 0
    for name in packs.all():
        last = max(last, int(name.rpartition("-")[2]), *(p.head.counter for p in packs.table(name) or ()))
    return last


def _read_again(packs: Packs) -> Iterator[tuple[list[Placed], list[Drop]]]:
    """Pack by pack."""
    seen: set[int] = set()
    for name in packs.all():
        table = packs.table(name)
        if table is None:
            # Of which class it was is not known; significant logs are the ones that somebody might miss.
            yield (
                [],
                [Drop(reason=DropReason.CORRUPT, log_class=LogClass.SIGNIFICANT, raw_bytes=packs.size(name))],
            )
            packs.set_aside(f"{name}.pack", packs.path(name).read_bytes())
            packs.remove([name])
            continue
        here: list[Placed] = []
        drops: list[Drop] = []
        for placed in table:
            data = packs.read(placed)
            if whole(placed, data) and placed.head.counter not in seen:
                seen.add(placed.head.counter)
                here.append(placed)
            elif not packs.is_hole(placed):
                packs.set_aside(f"{placed.head.name}.zst", data)
                drops.append(lost(placed, DropReason.CORRUPT))
        yield here, drops
        if not here:
            packs.remove([name])


def lost(placed: Placed, reason: DropReason) -> Drop:
    """A segment that is lost."""
    head = placed.head
    return Drop(
        reason=reason,
        log_class=head.log_class,
        service=head.service,
        first_us=head.first_us,
        last_us=head.last_us,
        records=head.records,
        raw_bytes=head.raw_bytes,
    )
