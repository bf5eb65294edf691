"""How the controller listens for the reverse forwards: one socket for all SEs, or one an SE.

One socket is bound to every address of the device ``lo`` (SO_BINDTODEVICE), so that it answers on each SE's loopback
address and the kernel gives it nothing that came in by another device, whatever address it was sent to.  While it is
open nobody else can listen on one of those addresses, and where somebody does it cannot be opened: its holder is
named when the controller starts.  docs/decisions/0017-one-reverse-listener.md has what the kernel does and why.

Where a socket cannot be bound to the device there is one an SE, on its own address.  Never one on every address
without the device: that would let the network in.
"""

import errno
import socket
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from avinet.errors import AvinetError, Kind, error
from avinet.ports import cannot_listen

SETTING = "[ssh] reverse_port"
DEVICE = b"lo"
BACKLOG = 1_024
"""Connections the kernel holds while the reactor is busy: a command for a whole group connects to every SE at once."""
VACANT_S = 2.0
"""Longer than a session that replaces another takes to ask, shorter than anyone waits for a dead SE."""

_REFUSED = frozenset({errno.EPERM, errno.ENOPROTOOPT, errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP})
"""EPERM: Linux before 5.7 wants CAP_NET_RAW for it.  ENODEV: no ``lo``.  The others: a kernel that has no such option."""
_NAME_BYTES = 16
"""IFNAMSIZ (linux/if.h)."""

_log = Logger()


@error
class DeviceBindingError(AvinetError):
    """A socket cannot be bound to the loopback device here: {detail}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    detail: str


@error
class OtherPortError(AvinetError):
    """This controller has its reverse forwards on port {port}, not on {asked}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    port: int
    asked: int


def loopback_socket(port: int, make: Callable[[], socket.socket] = socket.socket) -> socket.socket:
    """A listening socket for every address of the loopback device and for that device alone.

    ``DeviceBindingError`` where there is no such thing; ``PortTakenError`` or ``CannotBindError`` where the port
    cannot be had.
    """
    listening = make()
    try:
        _bind_to_device(listening)
        # As Twisted does: connections of a controller before this one, closing still, are no hindrance.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("0.0.0.0", port))  # noqa: S104 - of the one device that it is bound to
            listening.listen(BACKLOG)
        except OSError as why:
            raise cannot_listen(port, "", SETTING, why) from why
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def device_refusal() -> str:
    """Why SEs have a socket each here; empty where they share one."""
    with socket.socket() as probe:
        try:
            _bind_to_device(probe)
        except DeviceBindingError as why:
            return why.detail
    return ""


def _bind_to_device(one: socket.socket) -> None:
    option = getattr(socket, "SO_BINDTODEVICE", None)
    if option is None:
        raise DeviceBindingError(detail="this system has no SO_BINDTODEVICE")
    try:
        one.setsockopt(socket.SOL_SOCKET, option, DEVICE)
        bound = one.getsockopt(socket.SOL_SOCKET, option, _NAME_BYTES)
    except OSError as why:
        if why.errno in _REFUSED:
            raise DeviceBindingError(detail=f"SO_BINDTODEVICE is refused ({why.strerror})") from why
        raise
    # Asked back, since a kernel's imitation that takes the option and forgets it would leave the socket to everyone.
    if bound.rstrip(b"\0") != DEVICE:
        raise DeviceBindingError(detail="SO_BINDTODEVICE is taken and does nothing")


class Sockets(Protocol):
    """What connections to the SEs' addresses come in by; they go to the factory that it was made with."""

    def occupy(self, address: str, port: int) -> None:
        """Listen there from now on.  An ``AvinetError`` when that cannot be."""

    def vacate(self, address: str) -> None:
        """Nobody is behind that address any more."""

    async def stop(self) -> None:
        """Close everything."""


@attrs.define(eq=False)
class SharedSocket:
    """One for all SEs, open all the time."""

    port: int
    listening: IListeningPort

    def occupy(self, address: str, port: int) -> None:
        """It listens there already, and nobody else can."""
        if port != self.port:
            raise OtherPortError(port=self.port, asked=port)

    def vacate(self, address: str) -> None:
        """Whoever accepts finds nobody there."""

    async def stop(self) -> None:
        """Close it."""
        await maybeDeferred(self.listening.stopListening)


@attrs.define(eq=False)
class _Own:
    listening: IListeningPort
    vacating: IDelayedCall | None = None


@attrs.define(eq=False)
class SocketEach:
    """One an SE, on its own address, opened when the SE asks.

    A vacated one stays for ``VACANT_S``, so that a session that replaces another finds it open: closing and binding
    again in one turn of the reactor fails.
    """

    reactor: Any
    clock: IReactorTime
    factory: Factory
    _own: dict[str, _Own] = attrs.field(factory=dict, init=False)

    def occupy(self, address: str, port: int) -> None:
        """``PortTakenError`` names who holds it."""
        own = self._own.get(address)
        if own is None:
            try:
                listening = self.reactor.listenTCP(port, self.factory, backlog=BACKLOG, interface=address)
            except CannotListenError as why:
                raise cannot_listen(port, address, SETTING, why.socketError) from why
            self._own[address] = _Own(listening)
        elif own.vacating is not None:
            own.vacating.cancel()
            own.vacating = None

    def vacate(self, address: str) -> None:
        """Close it soon."""
        self._own[address].vacating = self.clock.callLater(VACANT_S, self._close, address)

    def _close(self, address: str) -> None:
        self._own.pop(address).listening.stopListening()

    async def stop(self) -> None:
        """Close every one."""
        owns, self._own = list(self._own.values()), {}
        for own in owns:
            if own.vacating is not None:
                own.vacating.cancel()
            await maybeDeferred(own.listening.stopListening)


def shared_socket(
    reactor: Any,
    clock: IReactorTime,
    factory: Factory,
    *,
    port: int,
    opened: Callable[[int], socket.socket] = loopback_socket,
) -> Sockets:
    """One socket for all SEs, listening when this returns; where the platform cannot, one an SE.

    ``PortTakenError`` or ``CannotBindError`` where the port cannot be had.
    """
    try:
        ours = opened(port)
    except DeviceBindingError as why:
        _log.info("reverse forwards: one socket an SE on port {port}, since {why}", port=port, why=why.detail)
        return SocketEach(reactor, clock, factory)
    with ours:  # the reactor has a duplicate of the descriptor
        listening = reactor.adoptStreamPort(ours.fileno(), socket.AF_INET, factory)
    _log.info("reverse forwards: one socket for all SEs on port {port} of the device lo", port=port)
    return SharedSocket(port, listening)
