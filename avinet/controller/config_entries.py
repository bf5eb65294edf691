"""How the configuration lies in the store: changes, one head, and now and then a checkpoint.

- ``config/head``: the version in force, the change that made it, and the newest checkpoint (``Head``);
- ``config/change/<id>/<n>``: the pieces of one change, staged before the head names it;
- ``config/version/<version>``: which change made a version, by whom and when (``VersionRecord``);
- ``config/checkpoint/<id>/<n>``: every object as of one version, so that a start does not grow.

A change becomes visible by one compare-and-set of the head and not before; the pieces of one that never did are
removed by who leads next.  The contract's 1 MiB a transaction is why there are pieces at all.

Each change also has its objects as they were before it, so any version that is kept can be had by going back from
the one in force (``avinet.controller.history``).  How many are kept is bounded by ``HistoryLimits``.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import msgspec

from avinet.errors import AvinetError, error
from avinet.model.config import KINDS, kind_of
from avinet.model.configuration import Stored
from avinet.model.ids import NO_VERSION, ConfigVersion, ObjectId
from avinet.model.restored import Restored
from avinet.units import KIB

HEAD = "config/head"
CHANGE = "config/change/"
VERSION = "config/version/"
CHECKPOINT = "config/checkpoint/"
PIECE_BYTES = 256 * KIB
"""A quarter of what a transaction may hold: room for the head and one oversized object beside it."""
MAX_OBJECT_BYTES = 512 * KIB
"""One pool of 2,000 servers is 160 KiB."""
NAMES_KEPT = 100
"""Of 128 characters at most: 150 KiB for the three lists."""
MAX_NOTE = 500
"""Characters that an operator may say about a version: a sentence or a ticket's title, not the ticket."""


@error
class ConfigDamagedError(AvinetError):
    """The stored configuration cannot be read at {key}: {why}. Restore the store from a backup."""

    key: str
    why: str


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One object set, or removed where there is no body; or, ``was``, as it was before the change."""

    kind: str
    uuid: ObjectId
    modified_us: int
    body: bytes | None = None
    was: bool = False


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force."""

    version: ConfigVersion = NO_VERSION
    incarnation: int = 0
    term: int = 0
    checkpoint: str = ""
    checkpoint_pieces: int = 0
    checkpoint_version: ConfigVersion = NO_VERSION
    restored: Restored | None = None
    """That it came out of a backup, and no operator has said yet that it is to replace newer ones."""


class VersionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How one version came to be.  ``at`` is UNIX seconds."""

    version: ConfigVersion
    change: str
    pieces: int = 0
    author: str
    at: float
    created: tuple[str, ...] = ()
    """As ``kind/name``; of each list the first ``NAMES_KEPT``, since all of them must fit one transaction."""
    updated: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    objects: int = 0
    """How many there are in all of the three."""
    note: str = ""
    """What the author said about it."""
    rolled_back_to: ConfigVersion = NO_VERSION
    """Where a rollback made it."""
    size: int = 0
    """Bytes of its pieces; 0 for one of before there was history, which cannot be undone."""


@attrs.frozen
class Change:
    """What one version does to the one before: ``old`` are the objects that it replaces or removes."""

    puts: tuple[Stored, ...]
    deletes: tuple[ObjectId, ...]
    old: tuple[Stored, ...]

    def items(self) -> Iterator[Item]:
        """As stored."""
        yield from (Item("", gone, 0) for gone in self.deletes)
        yield from map(item_of, self.puts)
        yield from (item_of(stored, was=True) for stored in self.old)

    def undo(self, objects: dict[ObjectId, Stored]) -> None:
        """Make of the objects after it those before it."""
        for stored in self.puts:
            objects.pop(stored.thing.uuid, None)
        objects.update((stored.thing.uuid, stored) for stored in self.old)

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Change":
        """From what is stored of it."""
        puts: list[Stored] = []
        deletes: list[ObjectId] = []
        old: list[Stored] = []
        for item in items:
            if item.body is None:
                deletes.append(item.uuid)
            else:
                (old if item.was else puts).append(stored_of(item))
        return cls(tuple(puts), tuple(deletes), tuple(old))


def item_of(stored: Stored, *, was: bool = False) -> Item:
    """An object as stored."""
    thing = stored.thing
    return Item(kind_of(thing), thing.uuid, stored.modified_us, msgspec.msgpack.encode(thing), was)


def stored_of(item: Item) -> Stored:
    """The inverse."""
    return Stored(msgspec.msgpack.decode(item.body or b"", type=KINDS[item.kind]), item.modified_us)


def pieces_of(items: Iterable[Item]) -> Iterator[bytes]:
    """Items in pieces of about ``PIECE_BYTES``."""
    piece: list[Item] = []
    size = 0
    for item in items:
        piece.append(item)
        size += len(item.body or b"") + KIB // 4
        if size >= PIECE_BYTES:
            yield msgspec.msgpack.encode(piece)
            piece, size = [], 0
    if piece:
        yield msgspec.msgpack.encode(piece)


def version_key(version: int) -> str:
    """Keys sort as versions do."""
    return f"{VERSION}{version:012d}"


def piece_key(change: str, number: int) -> str:
    """Of a change's piece."""
    return f"{CHANGE}{change}/{number:05d}"


def decoded(value: bytes, kind: Any, key: str) -> Any:
    """What is stored at ``key``; ``ConfigDamagedError``."""
    try:
        return msgspec.msgpack.decode(value, type=kind)
    except msgspec.DecodeError as why:
        raise ConfigDamagedError(key=key, why=str(why)) from why
