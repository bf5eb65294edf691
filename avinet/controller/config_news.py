"""What the store's watch brings of new versions: a change of one piece comes whole, and need not be read.

Such a change is one transaction (``ConfigStore.commit``): its piece, its record and the head have one revision.  A
follower that read them would ask the store three times a version, and each time the store asks its majority.
"""

from collections.abc import Mapping, Sequence

import attrs

from avinet.controller.config_entries import (
    CHANGE,
    HEAD,
    VERSION,
    Change,
    Head,
    Item,
    VersionRecord,
    decoded,
    piece_key,
    version_key,
)
from avinet.store.interface import Change as StoreChange

BESIDE = (CHANGE, VERSION)
"""Keys that are of use with the head, of the same revision."""
MAX_NEWS = 8
"""Kept while an earlier version is being read; a piece is 256 KiB.  What is missing is read."""


@attrs.frozen
class News:
    """One head as the watch brought it, at the store's ``revision``."""

    head: Head
    revision: int
    change: Change | None = None
    """What made its version, where that was this revision, and whole; else it is to be read."""
    size: int = 0
    """Bytes of that."""


def news_of(changes: Sequence[StoreChange]) -> list[News]:
    """Of each head among ``changes``, in their order."""
    found = {(one.revision, one.key): one.entry.value for one in changes if one.entry is not None}
    return [_one(revision, value, found) for (revision, key), value in found.items() if key == HEAD]


def _one(revision: int, value: bytes, found: Mapping[tuple[int, str], bytes]) -> News:
    head: Head = decoded(value, Head, HEAD)
    key = version_key(head.version)
    record = found.get((revision, key))
    if record is not None:
        made: VersionRecord = decoded(record, VersionRecord, key)
        piece = found.get((revision, piece_key(made.change, 0)))
        if piece is not None and made.pieces == 1:
            return News(head, revision, Change.of(decoded(piece, list[Item], key)), len(piece))
    return News(head, revision)
