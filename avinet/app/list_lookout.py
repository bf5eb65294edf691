"""Asks the other controllers for a newer membership list, which is how one that was away learns that it was removed.

A removed controller hears nothing any more: its state engine has no place for it, and others refuse its key.  Port 8443
tells everybody the list.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from avinet.app.cli.registration import ClusterTrust, fetch_list
from avinet.app.own_entry import addresses_of
from avinet.controller.members import Members
from avinet.controller.peers import PeerListener
from avinet.errors import AvinetError
from avinet.model.ids import ControllerName

SOON_S = 1.0
"""After a link was lost: a controller that restarts does not listen yet, and one that lets us go does."""
LOOK_S = 60.0
"""A small document of each other controller; what comes sooner comes by the store."""

Fetch = Callable[[ClusterTrust, str], str]
"""Blocking; a test has its own."""


@attrs.define(eq=False)
class ListLookout(PeerListener):
    """``start`` it before the store is there, and ``stop`` it.  A peer that is lost may have let us go: it is asked."""

    members: Members
    root_pem: str
    clock: IReactorTime
    in_thread: Callable[..., "Deferred[Any]"] = deferToThread
    fetch: Fetch = fetch_list
    _looks: LoopingCall = attrs.field(init=False, repr=False)
    _soon: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _log: ClassVar[Logger] = Logger()

    def __attrs_post_init__(self) -> None:
        self._looks = LoopingCall(lambda: Deferred.fromCoroutine(self.look()))
        self._looks.clock = self.clock

    def start(self) -> None:
        """Look now and each minute."""
        self._looks.start(LOOK_S).addErrback(lambda f: self._log.failure("looking for newer lists ended", f))

    def stop(self) -> None:
        """Look no more."""
        if self._looks.running:
            self._looks.stop()
        if self._soon is not None and self._soon.active():
            self._soon.cancel()

    def peer_down(self, name: ControllerName, why: str) -> None:
        """Look in a moment; several that are lost together are one look."""
        if self._looks.running and (self._soon is None or not self._soon.active()):
            self._soon = self.clock.callLater(SOON_S, self._look_soon)

    def _look_soon(self) -> None:
        Deferred.fromCoroutine(self.look()).addErrback(lambda f: self._log.failure("looking for lists", f))

    async def look(self) -> None:
        """Take the newest list that another controller has; who does not answer is asked again a minute later."""
        current = self.members.current
        for controller in current.controllers:
            if controller.name == self.members.name:
                continue
            trust = ClusterTrust(self.root_pem, current).unlisted()
            for address in addresses_of(current, controller):
                try:
                    document = await self.in_thread(self.fetch, trust, address)
                    await self.members.take(document)
                except (AvinetError, OSError) as why:
                    self._log.debug("no newer list from {address}: {why}", address=address, why=str(why))
                else:
                    break
