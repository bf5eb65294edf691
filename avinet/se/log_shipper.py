"""Request logs to the controllers: the two log services, opened wherever this SE is attached.

On ``logs-live`` (priority live logs) go significant segments as they come, drops and totals; on ``logs`` (bulk) what a
controller has asked for.  A service that is refused, or a channel that ends while the secure channel lives, is tried
again later; the SE does everything else without.
"""

from collections.abc import Callable
from typing import ClassVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.model.ids import ControllerName
from avinet.se.log_channel import LogChannel
from avinet.se.log_live import LiveLogs
from avinet.se.log_pulled import PulledLogs
from avinet.se.log_sources import LogSource
from avinet.se.uplink_machine import Channel
from avinet.ssh.scheduler import Priority
from avinet.wire.log_messages import BULK_PORT, BULK_SERVICE, LIVE_PORT, LIVE_SERVICE

RETRY_S = 5.0
RETRY_MOST_S = 300.0
"""A controller that does not offer logs is asked now and then; one that cut the channel does not hear us at once."""
STABLE_S = 60.0
"""A channel that lasted this long starts the waits anew."""


@attrs.frozen
class LogPorts:
    """Where the services are on the controllers."""

    live: int = LIVE_PORT
    bulk: int = BULK_PORT

    @classmethod
    def of(cls, services: dict[str, int]) -> "LogPorts":
        """As an enrolment's answer says."""
        return cls(services.get(LIVE_SERVICE, LIVE_PORT), services.get(BULK_SERVICE, BULK_PORT))


Role = LiveLogs | PulledLogs
_Make = Callable[[LogSource, ControllerName, Callable[[str], None]], Role]


@attrs.define(eq=False)
class _Service:
    """One service of one attached controller, kept up while the secure channel lives."""

    source: LogSource
    controller: ControllerName
    channel: Channel
    port: int
    priority: Priority
    make: _Make
    role: Role | None = attrs.field(default=None, init=False)
    _wait_s: float = attrs.field(default=RETRY_S, init=False)
    _opened_at: float = attrs.field(default=0.0, init=False)
    _retry: IDelayedCall | None = attrs.field(default=None, init=False)
    _ended: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    def open(self) -> None:
        """Now."""
        self._retry = None
        source = self.source
        role = self.role = self.make(source, self.controller, self._lost)
        protocol = LogChannel(role, role.files(), source.clock)
        self._opened_at = source.clock.seconds()
        opening: Deferred[IProtocol] = self.channel.open(self.port, protocol, priority=self.priority)
        opening.addErrback(self._refused)

    def _refused(self, failure: Failure) -> None:
        self.role = None
        self._log.info("logs are not taken now: {why}", why=failure.getErrorMessage())
        self._again()

    def _lost(self, why: str) -> None:
        self.role = None
        if self.source.clock.seconds() - self._opened_at >= STABLE_S:
            self._wait_s = RETRY_S
        self._again()

    def _again(self) -> None:
        if self._ended or self.channel.lost.called or self._retry is not None:
            return
        self._retry = self.source.clock.callLater(self._wait_s, self.open)
        self._wait_s = min(2 * self._wait_s, RETRY_MOST_S)

    def end(self) -> None:
        """The secure channel is gone, or the SE stops."""
        self._ended = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self.role is not None:
            self.role.cut("it stops")


@attrs.define(eq=False)
class LogShipper:
    """The service; without a ``source`` until there is a spool (``begin``)."""

    source: LogSource | None = None
    ports: LogPorts = attrs.field(factory=LogPorts)
    _services: dict[Channel, tuple[_Service, ...]] = attrs.field(factory=dict, init=False, repr=False)
    _names: dict[Channel, ControllerName] = attrs.field(factory=dict, init=False, repr=False)
    """To whom the channels are."""
    _stopped: bool = attrs.field(default=False, init=False)

    def begin(self, source: LogSource) -> None:
        """The spool is open: offer what is in it to whoever is there already."""
        self.source = source
        for channel in tuple(self._services):
            self._open(channel, source)

    def attached(self, controller: ControllerName, channel: Channel) -> None:
        """A controller has welcomed us on this secure channel: offer it our logs, as long as that lives."""
        if self._stopped or channel in self._services or channel.lost.called:
            return
        self._services[channel] = ()
        self._names[channel] = controller

        def lost(why: Exception) -> Exception:
            self._names.pop(channel, None)
            for service in self._services.pop(channel, ()):
                service.end()
            return why

        channel.lost.addBoth(lost)
        if self.source is not None:
            self._open(channel, self.source)

    def _open(self, channel: Channel, source: LogSource) -> None:
        name = self._names[channel]
        services = (
            _Service(source, name, channel, self.ports.live, Priority.LIVE_LOGS, LiveLogs),
            _Service(source, name, channel, self.ports.bulk, Priority.BULK, PulledLogs),
        )
        self._services[channel] = services
        for service in services:
            service.open()

    def new_segments(self) -> None:
        """The spool has new significant segments."""
        for services in self._services.values():
            for service in services:
                if isinstance(service.role, LiveLogs):
                    service.role.new_segments()

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True
        if self.source is not None:
            self.source.owners.stop()
        for services in self._services.values():
            for service in services:
                service.end()
        self._services.clear()
