"""Where request logs are: what each service engine still keeps, so that no answer looks more whole than it is."""

from collections.abc import Callable, Mapping, Sequence

import attrs
import msgspec

from avinet.controller.log_intake import LogIntake, LogListener
from avinet.controller.log_link import LogLink
from avinet.logs.query.answers import Missing
from avinet.logs.query.times import show_instant
from avinet.model.ids import SeId
from avinet.model.logs import ClassTotals, LogClass, Selection, SpoolTotals
from avinet.wire.log_messages import Planned, PullDone

GROWING_US = 3_600_000_000
"""Within so long what an SE logs is in a segment, also while it has little to log."""
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
    growing_bytes: int
    """NDJSON of the full logs that is in no segment yet."""
    dropped_records: int
    dropped: dict[str, int]
    """By reason; records."""


@attrs.define(eq=False)
class Spools(LogListener):
    """What spools keep.  A service engine says so each 10 s; what was pulled meanwhile is not there any more.

    ``selection`` is what a pull asked for; None where nobody asked for such a pull.
    """

    intake: LogIntake
    selection: Callable[[int], Selection | None]
    _emptied: dict[SeId, SpoolTotals] = attrs.field(factory=dict, init=False)
    """What was said before a pull of everything ended, and is not so any more."""

    def told(self, link: LogLink, message: Planned | PullDone) -> None:
        """A pull is over."""
        said = self.intake.spools.get(link.se)
        if said is None or not isinstance(message, PullDone) or message.failed or message.limited:
            return
        selection = self.selection(message.pull)
        if selection is None:
            return
        oldest_us = min(
            (one.oldest_us for one in (said.significant, said.full) if one.segments), default=2**63
        )
        if (
            not selection.services
            and len(selection.classes) == len(LogClass)
            and selection.since_us <= oldest_us
        ):
            self._emptied[link.se] = said

    def now(self) -> Mapping[SeId, SpoolTotals]:
        """By service engine."""
        return {
            se: SpoolTotals(limit_bytes=said.limit_bytes, drops=said.drops)
            if self._emptied.get(se) is said
            else said
            for se, said in self.intake.spools.items()
        }


@attrs.frozen(eq=False)
class Whereabouts:
    """``spools`` is what SEs said they keep; ``pulled`` whether a pull from it is under way."""

    spools: Callable[[], Mapping[SeId, SpoolTotals]]
    engines: Callable[[], Sequence[tuple[SeId, str]]]
    """UUIDs and names of those that may have logs, by name."""
    connected: Callable[[SeId], bool]
    pulled: Callable[[SeId], bool]
    now_us: Callable[[], int]

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
            growing = totals.growing_bytes if until_us is None or until_us > self.now_us() - GROWING_US else 0
            if not held and not growing:
                continue
            why = NOT_PULLED if self.connected(se) else NOT_CONNECTED
            # Of what is being written just now it is not known since when.
            oldest = max(since_us or 0, min(one.oldest_us for one in held)) if held else 0
            found.append(
                Missing(
                    se=name,
                    se_uuid=se,
                    since=show_instant(oldest) if oldest else "",
                    until="" if until_us is None else show_instant(until_us),
                    segments=sum(one.segments for one in held),
                    records=sum(one.records for one in held),
                    bytes=sum(one.size for one in held),
                    raw_bytes=growing,
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
            growing_bytes=totals.growing_bytes,
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
