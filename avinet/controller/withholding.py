"""Who is sent nothing after a restore: service engines whose configuration is newer than the restored one.

What they have is in force and serves; which of the two is the one to have only an operator can say.
"""

from collections.abc import Callable

import attrs

from avinet.controller.configuration import ConfigService
from avinet.controller.engines import Emit
from avinet.controller.progress import Progress
from avinet.controller.session import SeSession
from avinet.model.events import Level
from avinet.model.ids import SeId


@attrs.define(eq=False)
class Withholding:
    """``look`` before each time that something may be sent."""

    config: ConfigService
    name_of: Callable[[SeId], str]
    emit: Emit
    _told: set[SeId] = attrs.field(factory=set, init=False)

    def look(self, session: SeSession, progress: Progress, *, leads: bool) -> None:
        """Note in ``progress`` how it is now; who leads tells of it once."""
        restored, seen = self.config.restored, session.hello.fence
        progress.withheld = restored is not None and restored.is_newer(seen)
        if restored is None:
            self._told.clear()
        elif progress.withheld and leads and not progress.in_sync and session.se not in self._told:
            self._told.add(session.se)
            self.emit(
                "RESTORED_BEHIND",
                Level.WARNING,
                session.se,
                f"Service engine {self.name_of(session.se)} has taken configuration version {seen.version}, and the "
                f"restored one is from before that (version {restored.known.version}). It keeps what it has. To replace "
                "it: avinet config accept-restored.",
                version=seen.version,
                restored=restored.known.version,
            )
