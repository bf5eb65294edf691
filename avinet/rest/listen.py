"""Opening the ports that HTTP is served on: TLS over TCP, and a UNIX socket whose file mode is the login."""

import contextlib
import os
import socket
from pathlib import Path
from typing import Any, ClassVar

import attrs
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOFactory

from avinet.errors import AvinetError, Kind, error
from avinet.ports import cannot_listen
from avinet.rest.connections import DEFAULT_LIMITS, LimitedFactory, Limits
from avinet.rest.site import BoundedSite

BACKLOG = 1_024
"""Connections the kernel holds while the reactor is busy: a fleet comes back at once after a restart."""
MAX_UNIX_PATH_BYTES = 107
"""``sun_path`` less its NUL (unix(7))."""


@error
class SocketTakenError(AvinetError):
    """Another process answers on the socket {path}; a controller runs on this state already."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    path: str


@error
class SocketUnusableError(AvinetError):
    """Cannot listen on the socket {path}: {detail}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    path: str
    detail: str


@attrs.frozen
class Place:
    """Where to listen, and the setting by which an operator changes it."""

    port: int
    """0 for any free one."""
    setting: str
    interface: str = ""
    """An IP address; all of them when empty."""


def listen_tls(
    reactor: Any,
    place: Place,
    site: BoundedSite,
    options: IOpenSSLServerConnectionCreator,
    limits: Limits = DEFAULT_LIMITS,
) -> IListeningPort:
    """Serve ``site`` with TLS; ``PortTakenError`` names who holds the port."""
    secured = TLSMemoryBIOFactory(options, isClient=False, wrappedFactory=site, clock=reactor)
    limited = LimitedFactory(secured, limits)
    try:
        listening: IListeningPort = reactor.listenTCP(
            place.port, limited, backlog=BACKLOG, interface=place.interface
        )
    except CannotListenError as why:
        raise cannot_listen(place.port, place.interface, place.setting, why.socketError) from why
    return listening


def listen_unix(
    reactor: Any, path: Path, site: BoundedSite, *, mode: int = 0o600, limits: Limits = DEFAULT_LIMITS
) -> IListeningPort:
    """Serve ``site`` on a UNIX socket that only its owner may open; a dead predecessor's file is replaced."""
    if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
        detail = f"its path has more than {MAX_UNIX_PATH_BYTES} bytes; choose a shorter state folder"
        raise SocketUnusableError(path=str(path), detail=detail)
    _clear(path)
    # The mode is set by bind itself: between a bind and a chmod anyone could connect.
    umask = os.umask(0o777 & ~mode)
    try:
        listening: IListeningPort = reactor.listenUNIX(
            os.fspath(path), LimitedFactory(site, limits), backlog=BACKLOG, mode=mode
        )
    except (CannotListenError, OSError) as why:
        raise SocketUnusableError(path=str(path), detail=str(why)) from why
    finally:
        os.umask(umask)
    return listening


def _clear(path: Path) -> None:
    """Remove a socket nobody answers on; leave anything else."""
    if not path.is_socket():
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.settimeout(1.0)  # a full backlog blocks: someone is there
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as why:
            raise SocketTakenError(path=str(path)) from why
        else:
            raise SocketTakenError(path=str(path))
