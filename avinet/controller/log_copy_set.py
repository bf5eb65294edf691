"""One copy set: what this controller, as keeper, has of one store of another controller's."""

from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred

from avinet.controller.log_store import LogStoreService
from avinet.controller.log_writes import AnyPart
from avinet.logs.copies import CopiesHere, Uncopied
from avinet.logs.incoming import IncomingLogs
from avinet.logs.runs import Names
from avinet.logs.store.folders import Folders, unlink
from avinet.model.ids import ControllerName, SeId


@attrs.define(eq=False)
class CopySet:
    """Open.  What blocks says so, and is for threads."""

    id: str
    """Of the store."""
    controller: ControllerName
    """Whose store it is, or was."""
    folders: Folders = attrs.field(repr=False)
    logs: IncomingLogs = attrs.field(repr=False)
    service: LogStoreService = attrs.field(repr=False)
    close: Callable[[], Deferred[None]] = attrs.field(repr=False)
    """End it; its folder stays."""
    uncopied: Uncopied = attrs.field(factory=Uncopied)
    holds: bool = True
    """Whether something may be held of which nobody has said yet that it counts."""
    claimed: Names = attrs.field(factory=Names, init=False, repr=False)
    """What was asked for with no answer, so that it may be said to count here: not to be dropped."""

    @property
    def rows(self) -> CopiesHere:
        """Of its ledger."""
        return CopiesHere(self.logs.ledger)

    def hold(self, parts: Sequence[AnyPart]) -> None:
        """What is whole lasts from now on, and counts for nothing.  Blocks; errors are those of ``IncomingLogs.keep``."""
        self.logs.sync(parts)
        self.logs.enter([(part, "") for part in parts], [None] * len(parts), self.logs.ledger.hold)

    def settle(self, names: Names, drop: Names) -> tuple[int, bool]:
        """These count, those are not wanted: how much NDJSON counts now, and whether anything is held still.  Blocks."""
        raw_bytes = self.rows.confirm(names) if names else 0
        unwanted = drop.minus(self.claimed)
        if unwanted:
            self.remove(self.rows.drop(unwanted))
        return raw_bytes, bool(self.rows.held())

    def remove(self, files: set[tuple[SeId, str]]) -> None:
        """Of files of which nothing is left.  Blocks."""
        unlink(self.folders.base / "received" / se / name for se, name in files)
