"""What an operator is told of the other controllers: lost, back, and refused."""

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from avinet.controller.engines import Emit
from avinet.controller.peers import PeerListener, Peers
from avinet.errors import AvinetError
from avinet.model.events import Level
from avinet.model.ids import ControllerName

GRACE_S = 10.0
"""After the start, for those that start as well, and after a list that names a new one."""
STOPPED_S = 300.0
"""For one that stopped in good order: a restart takes seconds, a reboot with an upgrade some minutes; longer is no restart."""
BURST = 6.0
PER_S = 1 / 60
"""Losses and returns of one controller that are each told: three of both, then one a minute; others are counted."""


@attrs.define
class _Allowance:
    """How much is told of one controller."""

    left: float
    at: float


@attrs.define(eq=False)
class PeerEvents(PeerListener):
    """``CONTROLLER_LOST`` and ``CONTROLLER_BACK``; those of one that flaps are gathered by the minute, with counts.

    Of one that says that it stops there is ``CONTROLLER_STOPPED``, and nothing is wrong unless it stays away.
    """

    peers: Peers
    emit: Emit
    clock: IReactorTime
    _lost: set[ControllerName] = attrs.field(factory=set, init=False)
    _stopped: dict[ControllerName, float] = attrs.field(factory=dict, init=False)
    """And when it is to be back."""
    _allowances: dict[ControllerName, _Allowance] = attrs.field(factory=dict, init=False, repr=False)
    _check: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)

    def start(self) -> None:
        """Follow the links, and tell in a while of whom there is none."""
        self.peers.listen(self)
        self.members_changed()

    def stop(self) -> None:
        """Tell no more."""
        if self._check is not None and self._check.active():
            self._check.cancel()
        self._check = None

    def members_changed(self) -> None:
        """A newer list: whoever is not there after a while is lost; whoever left it is nobody's concern."""
        self._lost &= set(self.peers.members)
        self._stopped = {name: end for name, end in self._stopped.items() if name in self.peers.members}
        self._allowances = {
            name: left for name, left in self._allowances.items() if name in self.peers.members
        }
        self.stop()
        self._look_in(GRACE_S)

    def _look_in(self, seconds: float) -> None:
        """Unless that is done sooner, and then decided anew."""
        if self._check is None:
            self._check = self.clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._check = None
        now = self.clock.seconds()
        views = {view.name: view for view in self.peers.status()}
        for name in self.peers.members:
            if name not in views or views[name].live or name in self._lost:
                continue
            if self._stopped.get(name, now) <= now:
                stopped = self._stopped.pop(name, None) is not None
                why = f"it stopped {STOPPED_S / 60:g} minutes ago" if stopped else views[name].state.why
                self._tell_lost(name, why)
        if self._stopped:
            self._look_in(min(self._stopped.values()) - now)

    def peer_up(self, name: ControllerName) -> None:
        """Back, if it was away."""
        if self._stopped.pop(name, None) is not None or name in self._lost:
            self._lost.discard(name)
            text = f"Controller {name} is back."
            self.emit("CONTROLLER_BACK", Level.INFO, name, text, name=name, **self._coalescing(name))

    def peer_stops(self, name: ControllerName) -> None:
        """To be back in a while."""
        self._stopped[name] = self.clock.seconds() + STOPPED_S
        text = f"Controller {name} is stopping."
        self.emit("CONTROLLER_STOPPED", Level.INFO, name, text, name=name, **self._coalescing(name))
        self._look_in(STOPPED_S)

    def peer_down(self, name: ControllerName, why: str) -> None:
        """Lost, unless it said that it stops."""
        if name in self.peers.members and name not in self._stopped:
            self._tell_lost(name, why)

    def _tell_lost(self, name: ControllerName, why: str) -> None:
        self._lost.add(name)
        text = f"Controller {name} cannot be reached from {self.peers.me}: {why[:500]}"
        facts = {"name": name, "why": why[:500]} | self._coalescing(name)
        self.emit("CONTROLLER_LOST", Level.ERROR, name, text, **facts)

    def _coalescing(self, name: ControllerName) -> dict[str, str]:
        """The fact that has an event counted with its like; none while it may be told by itself."""
        now = self.clock.seconds()
        allowance = self._allowances.setdefault(name, _Allowance(BURST, now))
        allowance.left = min(BURST, allowance.left + (now - allowance.at) * PER_S)
        allowance.at = now
        if allowance.left < 1:
            return {"reason": "flapping"}
        allowance.left -= 1
        return {}

    def denied(self, name: ControllerName, why: AvinetError) -> None:
        """It was dialed, and one of both does not believe the other."""
        text = f"Controller {name} is there and not linked: {why}"
        self.emit("CONTROLLER_LINK_DENIED", Level.ERROR, name, text, name=name, reason=why.reason)

    # The SSH server's ``ControllerObserver``

    def refused(self, name: ControllerName, address: str, what: str) -> None:
        """A controller's key asked for what its line does not allow."""
        self.emit(
            "SSH_REQUEST_REFUSED",
            Level.WARNING,
            name,
            f"Controller {name} (from {address}) asked for {what[:200]}, which it is not permitted.",
            reason=what[:200],
            source=address,
        )
