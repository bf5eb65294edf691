"""What the SEs of each group accept of controllers, told to each SE: the SE itself is who enforces it.

It is told behind the welcome, so before any command can reach a new session's SE, and again whenever it changes.
"""

from collections.abc import Callable

import attrs

from avinet.controller.session import SeSession
from avinet.controller.sessions import SessionListener
from avinet.model.ids import SeId
from avinet.wire.messages import COMMAND_CLASSES, CommandClasses

ClassesOf = Callable[[SeId], tuple[str, ...] | None]
"""Of the SE's group; None when there is no such SE or group any more."""


@attrs.define(eq=False)
class ClassTeller(SessionListener):
    """Tells the attached SEs."""

    classes_of: ClassesOf
    _told: dict[SeId, tuple[SeSession, tuple[str, ...]]] = attrs.field(factory=dict, init=False, repr=False)

    def attached(self, session: SeSession) -> None:
        """A new session knows nothing yet."""
        if COMMAND_CLASSES in session.hello.capabilities:
            self._told.pop(session.se, None)
            self._tell(session)

    def detached(self, session: SeSession, why: str) -> None:
        """It will be told anew."""
        if session.se in self._told and self._told[session.se][0] is session:
            del self._told[session.se]

    def groups_changed(self) -> None:
        """Tell those for whom something is different."""
        for session, _ in list(self._told.values()):
            self._tell(session)

    def _tell(self, session: SeSession) -> None:
        classes = self.classes_of(session.se)
        if classes is None or self._told.get(session.se) == (session, classes):
            return
        self._told[session.se] = (session, classes)
        session.send(CommandClasses(allowed=classes))
