"""The end of those that have no rights any more: their sessions say why, then their connections are cut.

An SE that is deleted goes at once; one that is quarantined once it serves nothing (``departures``), unless an operator
pardons it first.
"""

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IReactorTime

from avinet.controller.engines import Engines
from avinet.controller.sessions import Sessions
from avinet.model.engine import Lifecycle, SeRecord
from avinet.model.ids import SeId

GOODBYE_S = 1.0
"""For an SE to take its goodbye, which says why and when to come back, before its connections are cut."""
_WITHOUT_RIGHTS = frozenset({Lifecycle.DELETED, Lifecycle.QUARANTINED})


@attrs.frozen(eq=False)
class Goodbyes:
    """``drop`` cuts every connection of an SE."""

    engines: Engines
    sessions: Sessions
    drop: Callable[[SeId], None]
    clock: IReactorTime

    def sent_away(self, se: SeId) -> bool:
        """Whether it was deleted or quarantined; not of one that is unknown."""
        record = self.engines.find(se)
        return record is not None and record.lifecycle in _WITHOUT_RIGHTS

    def say(self, se: SeId) -> None:
        """End the sessions of one that is quarantined or deleted, which its record says."""
        record = self.engines.find(se)
        word = "deleted" if record is None else record.lifecycle.lower()
        self.sessions.close(se, word, f"this service engine is {word}")
        self.clock.callLater(GOODBYE_S, self._cut_off, se)

    def _cut_off(self, se: SeId) -> None:
        """End whatever an SE without rights still has open, unless it was pardoned meanwhile."""
        if self.engines.find(se) is None or self.sent_away(se):
            self.drop(se)

    def record_changed(self, before: SeRecord | None, after: SeRecord) -> None:
        """Deleted, or pardoned: for ``Engines.listen``."""
        if after.lifecycle is Lifecycle.DELETED:
            self.say(after.uuid)
            self.sessions.forget(after.uuid)
        elif _quarantined(before) and not _quarantined(after):
            self.sessions.pardon(after.uuid)


def _quarantined(record: SeRecord | None) -> bool:
    return record is not None and record.lifecycle is Lifecycle.QUARANTINED
