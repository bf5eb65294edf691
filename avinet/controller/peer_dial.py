"""Keeps one connection to another controller: dial, check its host key, say hello, and again when it is lost, for ever.

Each address of the list is tried in order.  Between rounds it waits, longer each time in a row and with jitter; a
change of the list's entry ends the wait.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.peer_session import PairConnection, PeerSession, PeerSettings
from avinet.controller.peers import Lane
from avinet.errors import AvinetError
from avinet.model.membership import Controller
from avinet.ssh.backoff import Backoff, BackoffSettings
from avinet.ssh.client import Timeouts
from avinet.ssh.controller_login import HERE
from avinet.ssh.errors import SshTimeoutError
from avinet.ssh.scheduler import Priority
from avinet.wire.peer_messages import PEER_PORT

MAX_ADDRESSES = 16
"""Dialed in one round; a name may resolve to any number."""
RESOLVE_TIMEOUT_S = 5.0
DIAL_TIMEOUT_S = 12.0
"""Above what the secure channel is given for its own steps: only if they fail."""
PEER_TIMEOUTS = Timeouts(dial_s=3.0, login_s=6.0, open_s=5.0)
"""A controller that takes longer has no use as a member of a quorum; the next round comes soon."""
STABLE_S = 5.0
"""A session that lasted this long starts the back-off anew; a shorter one is one more failure."""
FORWARD_RETRY_S = 5.0
"""Between requests for a service of ours that was refused: the other's list may lag."""


class DialedChannel(PairConnection, Protocol):
    """A secure channel that we dialed and that is logged in (``avinet.ssh.client.SecureChannel``)."""

    def listen(
        self, address: str, port: int, build: Callable[[], IProtocol], priority: Priority = ...
    ) -> Deferred[None]:
        """Ask the other side to stand for a service of ours."""


@attrs.frozen
class PeerReach:
    """How a dialer gets at the world."""

    resolve: Callable[[str], Deferred[list[str]]]
    dial: Callable[[str, int, Callable[[str], bool]], Deferred[Any]]
    """(IP, port, host key check) to a ``DialedChannel``."""
    random: Callable[[], float]
    """Numbers from 0 to 1."""


@attrs.frozen
class Offered:
    """A service of ours that the other side may open."""

    port: int
    build: Callable[[], IProtocol]
    priority: Priority


class Dialing(Protocol):
    """Whose dialer it is."""

    def dialed(self, controller: Controller, lane: Lane, channel: DialedChannel) -> PeerSession:
        """A session for a new connection; it is joined to its channel then."""

    def offers(self, controller: Controller, lane: Lane) -> tuple[Offered, ...]:
        """What of ours it may open there."""

    def not_dialed(self, controller: Controller, lane: Lane, why: AvinetError) -> None:
        """One address was tried in vain."""


@attrs.define(eq=False)
class PeerDialer:
    """One lane to one controller."""

    controller: Controller
    lane: Lane
    owner: Dialing = attrs.field(repr=False)
    reach: PeerReach = attrs.field(repr=False)
    settings: PeerSettings = attrs.field(repr=False)
    clock: IReactorTime = attrs.field(repr=False)
    backoff: Backoff = attrs.field(init=False, repr=False)
    _running: Deferred[None] | None = attrs.field(default=None, init=False, repr=False)
    _channel: DialedChannel | None = attrs.field(default=None, init=False, repr=False)
    _pause: Deferred[None] | None = attrs.field(default=None, init=False, repr=False)
    _retries: dict[int, IDelayedCall] = attrs.field(factory=dict, init=False, repr=False)
    _log: ClassVar[Logger] = Logger()

    @backoff.default
    def _new_backoff(self) -> Backoff:
        settings = BackoffSettings(self.settings.backoff_base_s, self.settings.backoff_cap_s)
        return Backoff(self.reach.random, settings)

    def start(self) -> None:
        """Begin, and go on until stopped."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(lambda failure: failure.trap(CancelledError))
        self._running.addErrback(
            lambda failure: self._log.failure("a defect in dialing a controller", failure)
        )

    def stop(self) -> None:
        """End it, and cut what there is; a session that was ended in good order before ends so."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    def update(self, controller: Controller) -> None:
        """The list says this of it now; whoever waits waits no more.  With another host key there is another dialer."""
        before, self.controller = self.controller, controller
        if before != controller:
            self.backoff.reset()
            self.wake()

    def wake(self) -> None:
        """Dial now, if it waits."""
        if self._pause is not None and not self._pause.called:
            self._pause.callback(None)

    def offer(self, offered: Offered) -> None:
        """One more service; on a connection that is there, too."""
        if self._channel is not None:
            self._ask(self._channel, offered)

    async def _run(self) -> None:
        while True:
            asked_s = None
            try:
                asked_s = await self._once()
            except CancelledError:
                raise
            except Exception:  # noqa: BLE001 - whatever it is, a controller is dialed for ever
                self._log.failure("a defect in dialing {name}", name=self.controller.name)
            await self._wait(self.backoff.next_wait_s(asked_s))

    async def _once(self) -> float | None:
        """Dial, and serve until it is lost; what a server that is full asks us to wait."""
        begun = self.clock.seconds()
        channel, asked_s = await self._round()
        if channel is None:
            return asked_s
        try:
            await self._serve(channel)
        finally:
            self._let_go()
        if self.clock.seconds() - begun >= STABLE_S:
            self.backoff.reset()
        return None

    async def _wait(self, seconds: float) -> None:
        pause = self._pause = Deferred()
        timer = self.clock.callLater(seconds, self.wake)
        try:
            await pause
        finally:
            self._pause = None
            if timer.active():
                timer.cancel()

    async def _round(self) -> tuple[DialedChannel | None, float | None]:
        """Every address once: a channel, or what a server that is full asks us to wait."""
        controller = self.controller
        asked_s: float | None = None
        for address in await self._addresses(controller):
            dialing = self.reach.dial(address, controller.ssh_port, partial(_same, controller.ssh_host_key))
            dialing.addTimeout(DIAL_TIMEOUT_S, self.clock, onTimeoutCancel=_late)
            try:
                return await dialing, None
            except AvinetError as why:
                asked_s = getattr(why, "retry_after_s", asked_s)
                self.owner.not_dialed(controller, self.lane, why)
        return None, asked_s

    async def _addresses(self, controller: Controller) -> list[str]:
        found: list[str] = []
        for name in controller.addresses:
            resolving = self.reach.resolve(name)
            resolving.addTimeout(RESOLVE_TIMEOUT_S, self.clock)
            try:
                found += await resolving
            except CancelledError:
                raise
            except Exception as failure:  # noqa: BLE001 - a name that cannot be resolved leaves the others
                self._log.warn("{name} is not resolved: {why}", name=name, why=str(failure))
        return list(dict.fromkeys(found))[:MAX_ADDRESSES]

    async def _serve(self, channel: DialedChannel) -> None:
        self._channel = channel
        session = self.owner.dialed(self.controller, self.lane, channel)
        # Asked for before the session is there, and answered in order: once it is up the way back is open.
        for offered in self.owner.offers(self.controller, self.lane):
            self._ask(channel, offered)
        opening = channel.open(PEER_PORT, session.protocol, priority=Priority.CONTROL)
        opening.addErrback(lambda failure: session.abort(f"no session: {failure.getErrorMessage()}"))
        try:
            await session.ended
        except CancelledError:
            session.abort("this controller let go of it")
            raise

    def _ask(self, channel: DialedChannel, offered: Offered) -> None:
        self._retries.pop(offered.port, None)
        asking = channel.listen(HERE, offered.port, offered.build, offered.priority)
        asking.addErrback(self._not_listening, channel, offered)

    def _not_listening(self, failure: Any, channel: DialedChannel, offered: Offered) -> None:
        if self._channel is not channel:
            return
        self._log.warn(
            "{controller} does not stand for our port {port}, next try in {seconds} s: {why}",
            controller=self.controller.name,
            port=offered.port,
            seconds=FORWARD_RETRY_S,
            why=failure.getErrorMessage(),
        )
        self._retries[offered.port] = self.clock.callLater(FORWARD_RETRY_S, self._ask, channel, offered)

    def _let_go(self) -> None:
        self._channel = None
        for timer in self._retries.values():
            timer.cancel()
        self._retries.clear()


def _late(_: object, limit_s: float) -> Any:
    return Failure(SshTimeoutError(step="Dialing", limit_s=limit_s))


def _same(expected: str, line: str) -> bool:
    return line == expected
