"""Where request logs are: what each service engine still keeps, so that no answer looks more whole than it is."""

from collections.abc import Callable, Mapping, Sequence

import attrs
import msgspec

from avinet.logs.query.answers import Missing
from avinet.logs.query.times import show_instant
from avinet.model.ids import SeId
from avinet.model.logs import ClassTotals, SpoolTotals

NOT_PULLED = "not pulled"
BEING_PULLED = "being pulled"
NOT_CONNECTED = "not connected"
NOT_HEARD = "has not said yet what it keeps"
NOT_STORED = "waits to be stored"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a spool holds of one class; ``bytes`` are compressed."""

    segments: int
    records: int
    bytes: int
    oldest: str
    """RFC 3339; empty when there is none."""


class EngineLogs(msgspec.Struct, frozen=True, kw_only=True):
    """One service engine's logs, as it said last."""

    uuid: str
    name: str
    connected: bool
    significant: Kept
    full: Kept
    limit_bytes: int
    oldest: str
    dropped_records: int
    dropped: dict[str, int]
    """By reason; records."""


@attrs.frozen(eq=False)
class Whereabouts:
    """``spools`` is what SEs said they keep; ``pulled`` whether a pull from it is under way."""

    spools: Callable[[], Mapping[SeId, SpoolTotals]]
    engines: Callable[[], Sequence[tuple[SeId, str]]]
    """UUIDs and names of those that may have logs, by name."""
    connected: Callable[[SeId], bool]
    pulled: Callable[[SeId], bool]

    def missing(self, since_us: int | None, until_us: int | None) -> tuple[Missing, ...]:
        """Records of that time that are on service engines still, as far as these have said."""
        spools, found = self.spools(), []
        for se, name in self.engines():
            totals = spools.get(se)
            if totals is None:
                # Since this controller started it has not been heard of: nobody knows.
                found.append(Missing(se=name, se_uuid=se, why=NOT_HEARD))
                continue
            held = [totals.significant, totals.full]
            held = [one for one in held if one.segments and (until_us is None or one.oldest_us < until_us)]
            if not held:
                continue
            why = NOT_PULLED if self.connected(se) else NOT_CONNECTED
            oldest = max(since_us or 0, min(one.oldest_us for one in held))
            found.append(
                Missing(
                    se=name,
                    se_uuid=se,
                    since=show_instant(oldest),
                    until="" if until_us is None else show_instant(until_us),
                    segments=sum(one.segments for one in held),
                    records=sum(one.records for one in held),
                    bytes=sum(one.size for one in held),
                    why=BEING_PULLED if self.pulled(se) else why,
                )
            )
        return tuple(found)

    def status(self) -> tuple[EngineLogs, ...]:
        """Every SE that has said something of its logs."""
        spools = self.spools()
        return tuple(self._status(se, name, spools[se]) for se, name in self.engines() if se in spools)

    def _status(self, se: SeId, name: str, totals: SpoolTotals) -> EngineLogs:
        oldest = [one.oldest_us for one in (totals.significant, totals.full) if one.segments]
        return EngineLogs(
            uuid=se,
            name=name,
            connected=self.connected(se),
            significant=_kept(totals.significant),
            full=_kept(totals.full),
            limit_bytes=totals.limit_bytes,
            oldest=show_instant(min(oldest)) if oldest else "",
            dropped_records=sum(totals.drops.values()),
            dropped={reason.value: count for reason, count in totals.drops.items()},
        )


def _kept(one: ClassTotals) -> Kept:
    return Kept(
        segments=one.segments,
        records=one.records,
        bytes=one.size,
        oldest=show_instant(one.oldest_us) if one.segments else "",
    )
