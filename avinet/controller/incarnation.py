"""What a restore begins: an incarnation, whose orders overrule all that were given since the backup, and a version.

The version's number is the time, as the incarnation's is, so that none that follows is one that service engines have seen
before: numbers count up by one a change, and nobody makes a change a second for long.  Two restores of one backup do not
begin the same either.

Whether the restored configuration is also to replace newer ones is another question, and the operator's: until it is
answered (``accept``), an SE that has seen a newer one keeps what it has.
"""

import uuid
from typing import ClassVar

import msgspec

from avinet.controller.config_entries import HEAD, Change, VersionRecord
from avinet.controller.config_store import ConfigStore
from avinet.errors import AvinetError, Kind, error
from avinet.model.fence import Fence
from avinet.model.ids import ConfigVersion
from avinet.model.restored import Restored
from avinet.store.interface import Compare, Put

AUTHOR = "restore"
NOTHING = Change((), (), ())


@error
class NothingRestoredError(AvinetError):
    """No restored configuration waits to be accepted: what is in force is sent to every service engine already."""

    kind: ClassVar[Kind] = Kind.CONFLICT


@error
class ClockBehindError(AvinetError):
    """This machine's clock is behind: the backup was made at {made}, and here it is {now}. Numbers that service engines have not seen yet are made of the time; set the clock, then try again."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    made: str
    now: str


async def begin(stored: ConfigStore, now: float, *, accepted: bool) -> Fence:
    """After a restore, before anybody leads: the fence from then on.  ``accepted``: newer configurations are overruled."""
    await stored.read_head()
    head = stored.head
    incarnation = max(head.incarnation + 1, int(now))
    # A backup that was made while this was open knows no better what came after the one before it.
    known = head.restored.known if head.restored else Fence(head.incarnation, head.term, head.version)
    restored = None if accepted else Restored(at=now, incarnation=incarnation, known=known)
    after = msgspec.structs.replace(head, incarnation=incarnation, restored=restored)
    if not head.version:  # it never ran
        await stored.store.transact(
            [Compare(HEAD, stored.revision)], [Put(HEAD, msgspec.msgpack.encode(after))]
        )
        await stored.read_head()
    else:
        version = ConfigVersion(max(head.version + 1, int(now)))
        note = f"restored from a backup of version {head.version}"
        await stored.commit(NOTHING, _record(version, AUTHOR, now, note), after)
    return stored.fence


async def accept(stored: ConfigStore, author: str, now: float) -> VersionRecord | None:
    """A version like the one in force, that nobody is spared; None when another writer was first."""
    if stored.head.restored is None:
        raise NothingRestoredError
    record = _record(
        ConfigVersion(stored.head.version + 1), author, now, "the restored configuration was accepted"
    )
    accepted = msgspec.structs.replace(stored.head, restored=None)
    return record if await stored.commit(NOTHING, record, accepted) else None


def _record(version: ConfigVersion, author: str, now: float, note: str) -> VersionRecord:
    return VersionRecord(version=version, change=uuid.uuid4().hex, author=author, at=now, note=note)
