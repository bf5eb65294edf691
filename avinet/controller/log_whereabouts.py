"""Where request logs are: what each service engine still keeps, so that no answer looks more whole than it is."""

from collections.abc import Callable, Container, Mapping, Sequence

import attrs
import msgspec

from avinet.controller.log_intake import LogIntake, LogListener
from avinet.controller.log_link import LogLink
from avinet.logs.query.answers import Missing
from avinet.logs.query.times import show_instant
from avinet.model.ids import ControllerName, SeId
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


UNDER_WAY = -1.0
Pulled = Mapping[SeId, float]
"""What a controller's pulls make of spools: how many seconds ago one of them had all that an SE kept, of which that has said
nothing since; or that a pull from it is ``UNDER_WAY``."""


@attrs.define(eq=False)
class Spools(LogListener):
    """What spools keep.  A service engine says so each 10 s; what was pulled meanwhile, by whichever controller, is not there
    any more.

    ``selection`` is what a pull asked for; None where nobody asked for such a pull.  ``clock`` gives seconds.
    """

    intake: LogIntake
    selection: Callable[[int], Selection | None]
    clock: Callable[[], float]
    _heard: dict[SeId, float] = attrs.field(factory=dict, init=False)
    """When it said what it keeps."""
    _emptied: dict[SeId, float] = attrs.field(factory=dict, init=False)
    """When a pull of everything ended here; it has said nothing since."""
    _elsewhere: dict[ControllerName, Pulled] = attrs.field(factory=dict, init=False)
    """The same of other controllers, by this one's clock, as they said with their latest answer."""

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
            self._emptied[link.se] = self.clock()

    def spooled(self, se: SeId) -> None:
        """What was pulled before counts in that."""
        self._heard[se] = self.clock()
        self._emptied.pop(se, None)

    def emptied(self) -> Pulled:
        """By pulls of this controller: for the others."""
        now = self.clock()
        return {se: now - at for se, at in self._emptied.items() if se in self.intake.spools}

    def elsewhere(self, name: ControllerName, pulled: Pulled) -> None:
        """What another controller says; nothing, where it does not answer."""
        now = self.clock()
        self._elsewhere[name] = {se: age if age < 0 else now - age for se, age in pulled.items()}

    def pulled_elsewhere(self) -> set[SeId]:
        """Those from which something is on its way to another controller."""
        return {se for of in self._elsewhere.values() for se, age in of.items() if age == UNDER_WAY}

    def now(self) -> Mapping[SeId, SpoolTotals]:
        """By service engine."""
        return {
            se: SpoolTotals(limit_bytes=said.limit_bytes, drops=said.drops) if self._is_emptied(se) else said
            for se, said in self.intake.spools.items()
        }

    def _is_emptied(self, se: SeId) -> bool:
        heard = self._heard.get(se, 0.0)
        return se in self._emptied or any(
            heard <= at for of in self._elsewhere.values() if (at := of.get(se, UNDER_WAY)) >= 0
        )


@attrs.frozen(eq=False)
class Whereabouts:
    """``spools`` is what SEs said they keep; ``pulled`` those from which something is on its way."""

    spools: Callable[[], Mapping[SeId, SpoolTotals]]
    engines: Callable[[], Sequence[tuple[SeId, str]]]
    """UUIDs and names of those that may have logs, by name."""
    connected: Callable[[SeId], bool]
    pulled: Callable[[], Container[SeId]]
    now_us: Callable[[], int]

    def missing(self, since_us: int | None, until_us: int | None) -> tuple[Missing, ...]:
        """Records of that time that are on service engines still, as far as these have said."""
        spools, pulled, found = self.spools(), self.pulled(), []
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
                    why=BEING_PULLED if se in pulled else why,
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
