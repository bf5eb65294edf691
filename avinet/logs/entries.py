"""What a controller's ledger of request logs has entries of."""

import attrs

from avinet.model.ids import ControllerName, SeId
from avinet.model.logs import Drop, SegmentHead

SEGMENT = ".zst"
PACK = ".pack"


@attrs.frozen
class PackPlace:
    """Where a segment is that came with others: in the file that is named by the segment ``pack`` of its incarnation."""

    pack: int
    offset: int


@attrs.frozen
class Segment:
    """A segment and whose it is: the channel proved ``se``."""

    se: SeId
    head: SegmentHead
    place: PackPlace | None = attrs.field(default=None, eq=False)
    """None for one that has a file of its own."""

    @property
    def file(self) -> str:
        """The name of the file that it is in, in its SE's folder."""
        if self.place is None:
            return f"{self.head.name}{SEGMENT}"
        return pack_file(self.head.incarnation, self.place.pack)


def pack_file(incarnation: str, pack: int) -> str:
    """The name of a file of several segments."""
    return f"{incarnation}-{pack:016d}{PACK}"


@attrs.frozen
class Arrival:
    """A segment whose bytes are durable here; ``pull`` is what it was sent for, empty when it was pushed."""

    segment: Segment
    pull: str = ""
    keeper: ControllerName | None = None
    """Whose copy of it counts; empty for nobody's, None where a controller is alone."""


@attrs.frozen
class FilePart:
    """How much of a file is of one service engine: bytes, and records of either class."""

    se: SeId
    bytes: int
    significant: int
    full: int


@attrs.frozen
class StoreFile:
    """One file of the store; ``name`` is its path within the store's folder."""

    name: str
    first_us: int
    last_us: int
    records: int
    size: int
    parts: tuple[FilePart, ...] = ()
    """The largest, where they are asked for."""


@attrs.frozen
class LedgerDamage:
    """A ledger that could not be read: why, and the name of the folder that it was put into."""

    why: str
    aside: str


@attrs.frozen
class Waiting:
    """What arrived and is not in the store yet."""

    segments: int = 0
    raw_bytes: int = 0


@attrs.frozen
class Dropped:
    """What one SE said it dropped, and when it said so."""

    id: int
    se: SeId
    at_us: int
    drop: Drop


@attrs.frozen
class Share:
    """One SE's part in one pull: ``body`` is the puller's own, the counts are what was received for it."""

    pull: str
    se: SeId
    body: bytes = attrs.field(repr=False)
    segments: int = 0
    records: int = 0
    bytes: int = 0
    raw_bytes: int = 0
