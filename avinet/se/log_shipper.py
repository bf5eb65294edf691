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

from avinet.se.log_channel import FileAccess, LogChannel
from avinet.se.log_files import OpenSegment
from avinet.se.log_sources import LiveLogs, LogSource, PulledLogs
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
_Make = Callable[[LogSource, Callable[[str], None]], Role]


@attrs.define(eq=False)
class _Service:
    """One service of one attached controller, kept up while the secure channel lives."""

    owner: "LogShipper"
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
        source = self.owner.source
        role = self.role = self.make(source, self._lost)
        protocol = LogChannel(role, self.owner.files, source.clock)
        self._opened_at = source.clock.seconds()
        opening: Deferred[IProtocol] = self.channel.open(self.port, protocol, priority=self.priority)
        opening.addErrback(self._refused)

    def _refused(self, failure: Failure) -> None:
        self.role = None
        self._log.info("logs are not taken now: {why}", why=failure.getErrorMessage())
        self._again()

    def _lost(self, why: str) -> None:
        self.role = None
        if self.owner.source.clock.seconds() - self._opened_at >= STABLE_S:
            self._wait_s = RETRY_S
        self._again()

    def _again(self) -> None:
        if self._ended or self.channel.lost.called or self._retry is not None:
            return
        self._retry = self.owner.source.clock.callLater(self._wait_s, self.open)
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
    """The service."""

    source: LogSource
    ports: LogPorts = attrs.field(factory=LogPorts)
    files: FileAccess = attrs.field(init=False)
    _services: dict[Channel, tuple[_Service, ...]] = attrs.field(factory=dict, init=False, repr=False)
    _stopped: bool = attrs.field(default=False, init=False)

    @files.default
    def _new_files(self) -> FileAccess:
        spool = self.source.spool
        return FileAccess(self.source.in_thread, lambda name: OpenSegment.open(spool.place(name)))

    def attached(self, channel: Channel) -> None:
        """A controller has welcomed us on this secure channel: offer it our logs, as long as that lives."""
        if self._stopped or channel in self._services or channel.lost.called:
            return
        services = (
            _Service(self, channel, self.ports.live, Priority.LIVE_LOGS, LiveLogs),
            _Service(self, channel, self.ports.bulk, Priority.BULK, PulledLogs),
        )
        self._services[channel] = services

        def lost(why: Exception) -> Exception:
            for service in self._services.pop(channel, ()):
                service.end()
            return why

        channel.lost.addBoth(lost)
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
        for services in self._services.values():
            for service in services:
                service.end()
        self._services.clear()
