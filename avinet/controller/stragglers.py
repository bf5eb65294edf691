"""Who has been without the configuration it should have for how long, and when that is worth an event."""

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IReactorTime

from avinet.controller.engines import Emit
from avinet.model.events import Level
from avinet.model.ids import SeId
from avinet.wire.messages import Nack

STRAGGLER_S = 30.0
"""Ten times what the slowest sensible push takes (500 virtual services, 3 s)."""


@attrs.define(eq=False)
class Stragglers:
    """Attached SEs that do not have what they should.  An event after ``patience_s``, and one when it is over.

    One that leaves is no straggler, but what was told of it stays told until it comes in: it may come back as it was.
    """

    clock: IReactorTime
    emit: Emit
    name_of: Callable[[SeId], str]
    patience_s: float = STRAGGLER_S
    _since: dict[SeId, float] = attrs.field(factory=dict, init=False, repr=False)
    _told: set[SeId] = attrs.field(factory=set, init=False, repr=False)

    def behind(self, se: SeId) -> None:
        """It does not have what it should, since now unless it did not before."""
        self._since.setdefault(se, self.clock.seconds())

    def caught_up(self, se: SeId) -> None:
        """It has."""
        since = self._since.pop(se, None)
        if se in self._told:
            self._told.discard(se)
            lasted_s = None if since is None else round(max(0.0, self.clock.seconds() - since), 1)
            took = "" if lasted_s is None else f", after {lasted_s:.0f} s"
            self.emit(
                "CONFIG_CAUGHT_UP",
                Level.INFO,
                se,
                f"Service engine {self.name_of(se)} has the configuration that it should{took}.",
                lasted_s=lasted_s,
            )

    def left(self, se: SeId) -> None:
        """Its session ended."""
        self._since.pop(se, None)

    def restart(self) -> None:
        """Whoever is behind is so from when that is noted next."""
        self._since.clear()

    def forget(self, se: SeId) -> None:
        """It was deleted."""
        self._since.pop(se, None)
        self._told.discard(se)

    def since(self, se: SeId) -> float | None:
        """UNIX seconds; None for one that is no straggler."""
        return self._since.get(se)

    def look(self, why: Callable[[SeId], str]) -> None:
        """Tell of those that have been behind for too long; ``why`` says what holds one up.  Call it each second."""
        now = self.clock.seconds()
        for se, since in self._since.items():
            if now - since < self.patience_s or se in self._told:
                continue
            self._told.add(se)
            self.emit(
                "CONFIG_STRAGGLER",
                Level.WARNING,
                se,
                f"Service engine {self.name_of(se)} has not had the configuration that it should for "
                f"{now - since:.0f} s: {why(se)}.",
                since=since,
            )


def tell_of_nack(emit: Emit, name: str, se: SeId, nack: Nack) -> None:
    """The event of one refusal."""
    emit(
        "CONFIG_NACKED",
        Level.WARNING if nack.reason in {"superseded", "stopping", "base-mismatch"} else Level.ERROR,
        se,
        f"Service engine {name} refused configuration version {nack.version}: {nack.text or nack.reason}. Its last "
        "good configuration stays in force.",
        reason=nack.reason,
        resource=nack.resource,
        version=nack.version,
    )
