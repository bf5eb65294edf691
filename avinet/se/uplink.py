"""One uplink: the SE's connection to one controller, kept up for ever.

``Uplink`` does the steps of ``avinet.se.uplink_machine``.  Every address of the controller is dialed in order; a host
key that the membership list does not know makes it fetch the list from the registration API, once a round, before it
goes on.  After ``Welcome`` it asks for the reverse forward, through which controllers reach the SE's command server,
and asks again while that is refused (another process may hold the port), since configuration does not depend on it.
"""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ClassVar, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.model.membership import Controller
from avinet.se.round import Round
from avinet.se.session import ControlSession, SeParts
from avinet.se.uplink_machine import Channel, Loss, UplinkInputs, UplinkMachine, UplinkState
from avinet.ssh.backoff import Backoff, BackoffSettings
from avinet.ssh.errors import HostKeyMismatchError, ServerBusyError
from avinet.ssh.scheduler import Priority
from avinet.wire.messages import Goodbye, Welcome

T = TypeVar("T")

RESOLVE_TIMEOUT_S = 10.0
DIAL_TIMEOUT_S = 35.0
"""Above what the secure channel allows for its own steps (10 s to connect, 20 s to log in): only if they fail."""
ASK_TIMEOUT_S = 60.0
"""For the list, over all controllers' addresses."""
OPEN_TIMEOUT_S = 20.0
"""For the control service's channel; ``Welcome`` has its own limit."""
STABLE_S = 30.0
"""A session that lasted this long starts the back-off anew; a shorter one is one more failure."""
FORWARD_RETRY_S = 30.0
"""Between requests for a reverse forward that was refused."""
ASK_AFTER = 3
"""Rounds in a row that reached nobody before the list is asked for: the controller may have moved to another port or
address, and its registration API, or another controller, may say where."""
STOP_TIMEOUT_S = 5.0
"""For a controller to take our last packet."""
HOPELESS = frozenset({"deleted", "quarantined", "version"})
"""Goodbyes after which only a person can help."""


@attrs.frozen
class Reach:
    """How an uplink gets at the world."""

    resolve: Callable[[str], Deferred[list[str]]]
    """A host name to IP addresses; an address to itself."""
    dial: Callable[[str, int, Callable[[str], bool]], Deferred[Any]]
    """(IP, port, host key check) to a ``Channel`` that is logged in; a Deferred of a subclass is not one of its base."""
    refresh: Callable[[], Deferred[object]]
    """Fetch the membership list; a newer one arrives by ``Uplink.update``."""


@attrs.frozen
class Place:
    """Where this SE is to be found, as its enrolment said."""

    loopback: str
    """Its address on every controller; the port is the controller's."""
    control_port: int
    commands: Callable[[str], IProtocol]
    """A protocol for each connection through the reverse forward of the controller of that name."""


@attrs.define(eq=False)
class Uplink:
    """One controller's.  ``random`` gives numbers from 0 to 1."""

    controller: Controller
    place: Place
    parts: SeParts
    reach: Reach
    clock: IReactorTime
    random: Callable[[], float]
    backoff_settings: BackoffSettings = attrs.field(factory=BackoffSettings)
    on_attached: Callable[["Uplink"], None] = attrs.field(default=lambda uplink: None)
    state: UplinkState = attrs.field(default=UplinkState.STOPPED, init=False)
    last_loss: str = attrs.field(default="", init=False)
    """Why it was lost last, for status."""
    backoff: Backoff = attrs.field(init=False, repr=False)
    session: ControlSession | None = attrs.field(default=None, init=False)
    _machine: UplinkInputs = attrs.field(init=False, repr=False)
    _work: Deferred[Any] | None = attrs.field(default=None, init=False, repr=False)
    """What the state waits for, if that can be cancelled."""
    _turn: int = attrs.field(default=0, init=False)
    """Counts what was begun; an answer of an earlier turn is nobody's."""
    _timer: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _channel: Channel | None = attrs.field(default=None, init=False, repr=False)
    _round: Round = attrs.field(factory=Round, init=False, repr=False)
    """Since the last wait."""
    _attached_at: float = attrs.field(default=0.0, init=False)
    _log: ClassVar[Logger] = Logger()

    @backoff.default
    def _new_backoff(self) -> Backoff:
        return Backoff(self.random, self.backoff_settings)

    @_machine.default
    def _new_machine(self) -> UplinkInputs:
        return UplinkMachine(self)

    @property
    def attached(self) -> bool:
        """Whether its control session is alive."""
        return self.state is UplinkState.ATTACHED

    @property
    def channel(self) -> Channel | None:
        """The secure channel, while there is one."""
        return self._channel

    def start(self) -> None:
        """Begin, and go on for ever."""
        self._machine.start()

    def stop(self) -> Deferred[None]:
        """Leave in good order; fires when the secure channel is gone, or has had its time."""
        gone: Deferred[None] = Deferred()
        channel = self._channel
        self._machine.stop()
        if channel is None:
            gone.callback(None)
            return gone

        def fire(why: Exception) -> Exception:
            if not gone.called:
                gone.callback(None)
            return why

        def cut(_: object, __: float) -> None:
            channel.abort()

        gone.addTimeout(STOP_TIMEOUT_S, self.clock, onTimeoutCancel=cut)
        channel.lost.addBoth(fire)
        return gone

    def drop(self) -> None:
        """Leave a controller that is one no more, at once: its keys may be in wrong hands."""
        channel = self._channel
        self._machine.stop()
        if channel is not None:
            channel.abort()

    def update(self, controller: Controller) -> None:
        """A newer list says this of the controller."""
        before, self.controller = self.controller, controller
        if before.ssh_host_key != controller.ssh_host_key and self._channel is not None:
            self._machine.lost(Loss("the list gives the controller another host key now"))
        elif before != controller and self.state is UplinkState.BACKING_OFF:
            self._machine.list_changed()

    def live_again(self, spread_s: float) -> None:
        """Another controller says that this one takes SEs again: dial it within ``spread_s``."""
        waits = self._timer if self.state is UplinkState.BACKING_OFF else None
        left_s = 0.0 if waits is None else waits.getTime() - self.clock.seconds()
        sooner_s = self.backoff.sooner_s(left_s, spread_s)
        if waits is not None and sooner_s < left_s:
            waits.reset(sooner_s)

    # Steps of the machine.

    def entered(self, state: UplinkState) -> None:
        """Let go of what the last state held, then be in ``state``."""
        self._log.debug("{controller}: {state}", controller=self.controller.name, state=state.value)
        keeps_dial = state is UplinkState.LOGGING_IN
        keeps_channel = state is UplinkState.ATTACHED
        self.state = state
        if keeps_dial:
            return
        self._turn += 1
        work, self._work = self._work, None
        if work is not None and not keeps_channel:
            # What opened the control channel may not have been told yet that it did: it is left to finish.
            work.cancel()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if keeps_channel:
            return
        session, self.session = self.session, None
        if session is not None:
            session.close("stopping", "this service engine ends the session")
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def resolve(self) -> None:
        """Every name in order, until there are enough addresses."""
        finding = self._round.resolve(self.controller.addresses, self.reach.resolve)
        self._begin(finding, RESOLVE_TIMEOUT_S, self._resolved, self._not_resolved)

    def _resolved(self, addresses: list[str]) -> None:
        self._round.addresses = addresses
        if addresses:
            self._machine.resolved()
        else:
            self._machine.lost(self._round.loss())

    def _not_resolved(self, failure: Failure) -> None:
        self._machine.lost(Loss(f"its name was not resolved: {failure.getErrorMessage()}"))

    def dial(self) -> None:
        """The next address; the machine comes here only when there is one."""
        address = self._round.addresses.pop(0)
        expected = self.controller.ssh_host_key

        def verify(line: str) -> bool:
            if line != expected:
                return False
            self._machine.host_key_accepted()
            return True

        async def dial() -> Channel:
            channel: Channel = await self.reach.dial(address, self.controller.ssh_port, verify)
            return channel

        def failed(failure: Failure) -> None:
            self._not_dialed(address, failure)

        self._begin(dial(), DIAL_TIMEOUT_S, self._machine.logged_in, failed)

    def _not_dialed(self, address: str, failure: Failure) -> None:
        why = failure.value
        self._round.failed(address, failure.getErrorMessage())
        dialing = self.state is UplinkState.DIALING
        if isinstance(why, HostKeyMismatchError) and dialing and not self._round.list_asked:
            self._machine.host_key_unknown()
            return
        if isinstance(why, ServerBusyError):
            # It counts for the whole round; how far it is believed depends on whether the host key was checked.
            self._round.busy = Loss("busy", why.retry_after_s, proven=not dialing)
        self._next_address()

    def _next_address(self) -> None:
        if self._round.addresses:
            self._machine.address_failed()
        elif self._moved() and not self._round.list_asked:
            self._machine.host_key_unknown()
        else:
            self._machine.lost(self._round.loss())

    def _moved(self) -> bool:
        """Whether the controller may be elsewhere: nobody accepts the dial, and has not for some rounds."""
        silent = self.state is UplinkState.DIALING and self._round.busy is None
        return silent and self.backoff.failures >= ASK_AFTER

    def ask_for_list(self) -> None:
        """Once a round; what it brings comes by ``update``."""
        self._round.list_asked = True
        before = self.controller
        turn = self._turn

        def asked(_: object) -> None:
            # Never cancelled: it may itself be what stops this uplink.
            if turn != self._turn:
                return
            if self.controller != before:
                self._machine.list_changed()
            else:
                self._next_address()

        asking = self.reach.refresh()
        asking.addTimeout(ASK_TIMEOUT_S, self.clock)
        asking.addErrback(
            lambda failure: self._log.warn("no membership list: {why}", why=failure.getErrorMessage())
        )
        asking.addCallback(asked)

    def greet(self, channel: Channel) -> None:
        """Open the control session on the new channel."""
        self._channel = channel

        def lost(why: Exception) -> Exception:
            if channel is self._channel:
                self._machine.lost(Loss(str(why), proven=True))
            return why

        channel.lost.addBoth(lost)
        session = ControlSession(self.parts, self, self.clock, self.random)
        self.session = session

        async def open_control() -> None:
            await channel.open(self.place.control_port, session.protocol, priority=Priority.CONTROL)

        self._begin(open_control(), OPEN_TIMEOUT_S, _nothing_more, self._not_opened)

    def _not_opened(self, failure: Failure) -> None:
        self._machine.lost(Loss(f"no control session: {failure.getErrorMessage()}", proven=True))

    def serve(self, welcome: Welcome) -> None:
        """Attached: tell, and be reachable."""
        self._attached_at = self.clock.seconds()
        self._log.info(
            "attached to {controller} ({software})",
            controller=self.controller.name,
            software=welcome.software[:100],
        )
        self._ask_to_listen()
        self.on_attached(self)

    def _ask_to_listen(self) -> None:
        self._timer = None
        channel = self._channel
        if channel is None:
            return

        async def listen() -> None:
            build = partial(self.place.commands, self.controller.name)
            await channel.listen(self.place.loopback, self.controller.reverse_port, build)

        self._begin(listen(), OPEN_TIMEOUT_S, _nothing_more, self._not_listening)

    def _not_listening(self, failure: Failure) -> None:
        self._log.warn(
            "{controller} does not listen for us, next try in {seconds} s: {why}",
            controller=self.controller.name,
            seconds=FORWARD_RETRY_S,
            why=failure.getErrorMessage(),
        )
        self._timer = self.clock.callLater(FORWARD_RETRY_S, self._ask_to_listen)

    def back_off(self, loss: Loss) -> None:
        """Wait, longer each time in a row."""
        if self._attached_at and self.clock.seconds() - self._attached_at >= STABLE_S:
            self.backoff.reset()
        self._attached_at = 0.0
        self._round = Round()
        if loss.hopeless:
            self.backoff.exhaust()
        self.last_loss = loss.why
        wait_s = self.backoff.next_wait_s(loss.retry_after_s, proven=loss.proven)
        self._log.warn(
            "{controller} is not reached, next try in {seconds:.1f} s: {why}",
            controller=self.controller.name,
            seconds=wait_s,
            why=loss.why,
        )
        self._timer = self.clock.callLater(wait_s, self._machine.wait_over)

    def discard(self, channel: Channel) -> None:
        """Too late."""
        channel.abort()

    # What the session and the channel tell.

    def session_welcomed(self, welcome: Welcome) -> None:
        """It is attached."""
        if self.session is not None:
            self._machine.welcomed(welcome)

    def session_ended(self, why: str, goodbye: Goodbye | None) -> None:
        """The channel goes with it."""
        if self.session is None:
            return  # we ended it ourselves
        if goodbye is None:
            self._machine.lost(Loss(why, proven=True))
        else:
            self._machine.lost(
                Loss(why, goodbye.retry_after_s, proven=True, hopeless=goodbye.reason in HOPELESS)
            )

    # Inside.

    def _begin(
        self,
        work: Coroutine[Deferred[Any], Any, T],
        limit_s: float,
        done: Callable[[T], None],
        failed: Callable[[Failure], None],
    ) -> None:
        """Run a coroutine whose outcome counts only while nothing newer was begun."""
        turn = self._turn
        begun = Deferred.fromCoroutine(work)
        begun.addTimeout(limit_s, self.clock)
        self._work = begun

        def conclude(outcome: T | Failure) -> None:
            if turn != self._turn:
                return
            self._work = None
            if isinstance(outcome, Failure):
                failed(outcome)
            else:
                done(outcome)

        begun.addBoth(conclude)
        begun.addErrback(lambda failure: self._log.failure("a defect in the uplink", failure))


def _nothing_more(_: None) -> None:
    """What follows is told otherwise."""
