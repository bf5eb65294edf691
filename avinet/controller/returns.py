"""Tells the service engines when another controller takes them again.

One that has lost a controller dials it at its back-off's pace, which after a while is many seconds, though other controllers
serve it and could say when dialing is of use.  So a controller publishes that it takes SEs, once it does; whoever hears so
passes it on to those of its SEs that the other has not got.  They dial within ``spread_s``, spread at random.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from avinet.controller.peers import PeerListener, Peers
from avinet.controller.session import SeSession
from avinet.model.ids import ControllerName, SeId
from avinet.wire.messages import LIVE_AGAIN, MAX_SPREAD_S, LiveAgain

TAKES = "takes-se"
"""What a controller publishes once SEs may log in."""
RETURN_PER_S = 400.0
"""As many come back each second: what DESIGN 12 asks of one controller.  Those whom its gate turns away are told when to
come, and do not double their waits."""


@attrs.frozen(eq=False)
class Returns(PeerListener):
    """``attached``: the sessions here; ``elsewhere``: which other controllers have an SE."""

    peers: Peers
    attached: Callable[[], Iterable[SeSession]]
    elsewhere: Callable[[SeId], tuple[ControllerName, ...]]

    def start(self) -> None:
        """Hear the others; after whoever keeps ``elsewhere``."""
        self.peers.listen(self)

    def open(self) -> None:
        """SEs may log in here from now on."""
        self.peers.publish(TAKES, True)

    def peer_said(self, name: ControllerName, changes: Mapping[str, Any]) -> None:
        """Perhaps that it takes SEs."""
        if not changes.get(TAKES):
            return
        missed = [
            session
            for session in self.attached()
            if LIVE_AGAIN in session.hello.capabilities and name not in self.elsewhere(session.se)
        ]
        message = LiveAgain(controller=name, spread_s=min(len(missed) / RETURN_PER_S, MAX_SPREAD_S))
        for session in missed:
            session.send(message)
