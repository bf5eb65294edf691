"""Pulls as lists show them: what was asked for, by the names of things, and how far each service engine is.

A pull is one controller's: its number is that one's own.  Where there are several controllers it is called by both, ``7@c1``.
"""

from collections.abc import Awaitable, Callable, Sequence

import attrs
import msgspec

from avinet.controller.pull_records import ENDED, PullState, PullView, ShareView
from avinet.logs.query.times import MAX_US, SECOND_US, show_instant
from avinet.model.ids import ControllerName, ObjectId, SeId
from avinet.model.logs import LogClass

BASE = "/api/logs/pull"


class PullPart(msgspec.Struct, frozen=True, kw_only=True):
    """One service engine's part.  ``*_total`` are null until it has said them."""

    uuid: str
    name: str
    connected: bool
    state: PullState
    why: str
    limited: bool
    """The byte limit left some."""
    elsewhere: dict[str, int]
    """Records that it may have sent to other controllers before, which alone it sends them again, by controller."""
    segments: int
    segments_total: int | None
    records: int
    records_total: int | None
    bytes: int
    bytes_total: int | None
    rate_bytes_per_s: float
    left_s: float | None


class PullRow(msgspec.Struct, frozen=True, kw_only=True):
    """One pull.  Bytes are compressed; times RFC 3339; ``stored``: what came of it can be asked about."""

    id: int
    """The number that its controller gave it."""
    name: str
    """What it is called: its number, with the controller's name where there are several."""
    controller: ControllerName
    url: str
    state: PullState
    stored: bool
    by: str
    created: str
    since: str
    until: str
    vs: tuple[str, ...]
    classes: tuple[LogClass, ...]
    byte_limit: int
    rate: int
    why: str
    segments: int
    segments_total: int | None
    records: int
    records_total: int | None
    bytes: int
    bytes_total: int | None
    rate_bytes_per_s: float
    left_s: float | None
    service_engines: tuple[PullPart, ...]


@attrs.frozen(eq=False)
class PullFleet:
    """Who can be asked, and about what."""

    engines: Callable[[], Sequence[tuple[SeId, str]]]
    """UUIDs and names of those that have not been deleted."""
    engine: Callable[[str], SeId]
    """By name or UUID; its error says that there is none."""
    name_of: Callable[[SeId], str]
    connected: Callable[[SeId], bool]
    service: Callable[[str], ObjectId | None]
    """By name or UUID."""
    service_name: Callable[[ObjectId], str]


@attrs.define(eq=False)
class PullRows:
    """Rows of this controller's pulls.  ``arrived`` and ``waits`` ask the ledger what is not in the store yet."""

    fleet: PullFleet
    me: ControllerName
    several: Callable[[], bool]
    """Whether there are other controllers."""
    arrived: Callable[[], Awaitable[int]]
    waits: Callable[[int], Awaitable[bool]]
    _ended_at: dict[int, int] = attrs.field(factory=dict, init=False)
    """Up to which arrival a pull's segments can be, once it has ended; -1: all of them are in the store."""

    async def all(self, views: Sequence[PullView]) -> tuple[PullRow, ...]:
        """Each; what is not among them is forgotten."""
        rows = tuple([await self.row(view) for view in views])
        for number in self._ended_at.keys() - {row.id for row in rows}:
            del self._ended_at[number]
        return rows

    async def row(self, view: PullView) -> PullRow:
        """One."""
        order, parts = view.order, tuple(map(self._part, view.shares))
        known = None not in {part.bytes_total for part in parts}
        whole = [part for part in parts if part.bytes_total is not None] if known else []
        lefts = [part.left_s for part in parts if part.state not in ENDED]
        until = order.selection.until_us
        name = f"{view.id}@{self.me}" if self.several() else str(view.id)
        return PullRow(
            id=view.id,
            name=name,
            controller=self.me,
            url=f"{BASE}/{name}",
            state=view.state,
            stored=await self._stored(view),
            by=order.by,
            created=show_instant(int(view.at * SECOND_US)),
            since=show_instant(order.selection.since_us),
            until=show_instant(until) if until < MAX_US else "",
            vs=tuple(map(self.fleet.service_name, order.selection.services)),
            classes=order.selection.classes,
            byte_limit=order.byte_limit,
            rate=order.rate,
            why="; ".join(f"{part.name}: {part.why}" for part in parts if part.why)[:1_000],
            segments=sum(part.segments for part in parts),
            segments_total=sum(part.segments_total or 0 for part in whole) if known else None,
            records=sum(part.records for part in parts),
            records_total=sum(part.records_total or 0 for part in whole) if known else None,
            bytes=sum(part.bytes for part in parts),
            bytes_total=sum(part.bytes_total or 0 for part in whole) if known else None,
            rate_bytes_per_s=sum(part.rate_bytes_per_s for part in parts),
            left_s=None if None in lefts else max((left for left in lefts if left is not None), default=0.0),
            service_engines=parts,
        )

    def _part(self, share: ShareView) -> PullPart:
        # An SE that has sent all of its part names no totals any more after a restart: it is what came.
        done = share.state in ENDED
        totals = (share.segments_in_all, share.records_in_all, share.size_in_all)
        came = (share.segments, share.records, share.size)
        segments, records, size = (
            now if whole is None and done else whole for whole, now in zip(totals, came, strict=True)
        )
        return PullPart(
            uuid=share.se,
            name=self.fleet.name_of(share.se),
            connected=self.fleet.connected(share.se),
            state=share.state,
            why=share.why,
            limited=share.limited,
            elsewhere=share.elsewhere,
            segments=share.segments,
            segments_total=segments,
            records=share.records,
            records_total=records,
            bytes=share.size,
            bytes_total=size,
            rate_bytes_per_s=share.rate,
            left_s=share.left_s,
        )

    async def _stored(self, view: PullView) -> bool:
        """Whether all that came of an ended pull is in the store."""
        if view.state not in ENDED:
            return False
        arrival = self._ended_at.get(view.id)
        if arrival is None:
            arrival = self._ended_at[view.id] = await self.arrived()
        if arrival >= 0 and not await self.waits(arrival):
            arrival = self._ended_at[view.id] = -1
        return arrival < 0
