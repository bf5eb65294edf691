"""The dialing end of the secure channel, an SE's or another controller's: dial, check the host key, log in, open channels, accept forwards."""

from collections.abc import Callable
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.ssh import transport as conch
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from avinet.errors import AvinetError
from avinet.ssh import keys
from avinet.ssh.channel import ChannelTransport
from avinet.ssh.connection import Connection, refused
from avinet.ssh.errors import ConnectionEndedError, DialError, HostKeyMismatchError, SshTimeoutError
from avinet.ssh.fields import Reader, string, uint32
from avinet.ssh.links import ClientLink
from avinet.ssh.memory import ProcessMemory
from avinet.ssh.scheduler import Priority
from avinet.ssh.status import cipher_of, ends_of
from avinet.ssh.terms import Terms
from avinet.ssh.upstream import address_of
from avinet.ssh.userauth import KeyProof

Build = Callable[[], IProtocol]
VerifyHostKey = Callable[[str], bool]
"""Given the server's host key as an OpenSSH line: whether to go on.  It may also raise an ``AvinetError``."""


@attrs.frozen
class Timeouts:
    """How long each step may take."""

    dial_s: float = 10.0
    """TCP's own first two retries are over by then."""
    login_s: float = 20.0
    """Version exchange to logged in; a controller in a storm of reconnects is slow."""
    open_s: float = 15.0
    """One channel or forward."""


class _SeLink(ClientLink):
    """The client's connection; ``over`` is told when it ends."""

    over: Callable[[str], None]

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Everything in it ends first."""
        super().connectionLost(reason)
        self.over(reason.getErrorMessage() if reason is not None else "")


class SecureChannel:
    """A connection that is logged in.

    ``lost`` fires (never fails) with the reason once it ends, whoever ended it.
    """

    def __init__(
        self,
        link: ClientLink,
        clock: IReactorTime,
        timeouts: Timeouts,
        memory: ProcessMemory | None = None,
    ) -> None:
        self._link = link
        self._clock = clock
        self._timeouts = timeouts
        self._forwards: dict[tuple[str, int], tuple[Build, Priority]] = {}
        self.connection = Connection(self, memory)
        self.lost: Deferred[AvinetError] = Deferred()

    def open(
        self,
        port: int,
        protocol: IProtocol,
        host: str = "localhost",
        *,
        priority: Priority = Priority.COMMANDS,
    ) -> Deferred[IProtocol]:
        """Connect ``protocol`` to the service at the server's ``host:port``; what it sends has ``priority``.

        Fails with ``ChannelRefusedError``, ``SshTimeoutError`` or ``ConnectionEndedError``.
        """
        if self.lost.called:
            return _failed(ConnectionEndedError(detail="it is closed already"))
        details = string(host.encode()) + uint32(port) + string(b"127.0.0.1") + uint32(0)
        what = f"{host}:{port}"
        opening = self.connection.open(b"direct-tcpip", details, protocol, what, priority)
        return self._in_time(opening, f"Opening {what}")

    def listen(
        self, address: str, port: int, build: Build, priority: Priority = Priority.COMMANDS
    ) -> Deferred[None]:
        """Ask the server to listen; whoever connects there gets a protocol from ``build``, which sends by ``priority``.

        Fails with ``ForwardRefusedError``, ``SshTimeoutError`` or ``ConnectionEndedError``.
        """
        if self.lost.called:
            return _failed(ConnectionEndedError(detail="it is closed already"))
        # Before the answer: the first connection may come right behind it.
        self._forwards[address, port] = (build, priority)
        asking = Deferred.fromCoroutine(self.connection.ask_to_listen(address, port))
        return self._in_time(asking, f"Asking to listen on {address}:{port}")

    def _in_time(self, work: Deferred[Any], step: str) -> Deferred[Any]:
        return _limited(work, self._timeouts.open_s, self._clock, step)

    @property
    def cipher(self) -> str:
        """What both directions are under."""
        return cipher_of(self._link)

    @property
    def ends(self) -> tuple[str, str]:
        """Our address and the server's; empty where the transport has none."""
        return ends_of(self._link)

    def close(self, text: str = "closed") -> None:
        """End it in good order."""
        self._link.end(None, conch.DISCONNECT_BY_APPLICATION, text)

    def abort(self) -> None:
        """Cut it."""
        self._link.abort()

    # -- Acceptor

    def open_channel(self, kind: str, details: Reader) -> ChannelTransport:
        """Someone connected to a forward that we asked for."""
        if kind != "forwarded-tcpip":
            raise refused(kind, "only forwards are accepted here")
        address, port = details.text(255), details.uint32()
        asked = self._forwards.get((address, port))
        if asked is None:
            raise refused(f"{address}:{port}", "no such forward was asked for")
        build, priority = asked
        return ChannelTransport(build(), b"forwarded-tcpip", priority=priority)

    def global_request(self, kind: str, details: Reader) -> bytes | None:
        """Nothing: OpenSSH servers send their host keys here, ours asks nothing."""
        return None

    def connection_stopped(self, why: AvinetError) -> None:
        """The connection is gone."""
        if not self.lost.called:
            self.lost.callback(why)


def _failed(why: AvinetError) -> Deferred[Any]:
    failed: Deferred[Any] = Deferred()
    failed.errback(why)
    return failed


def _limited(work: Deferred[Any], limit_s: float, clock: IReactorTime, step: str) -> Deferred[Any]:
    """``work`` with a time limit that fails with ``SshTimeoutError``."""

    def late(result: Any, _: float) -> Any:
        return Failure(SshTimeoutError(step=step, limit_s=limit_s))

    return work.addTimeout(limit_s, clock, onTimeoutCancel=late)


class _Login(Factory):
    """Builds the one link of a dial, and hears how its login goes."""

    noisy = False

    def __init__(  # noqa: PLR0913 - what ``connect`` was given
        self,
        user: str,
        key: Ed25519PrivateKey,
        verify: VerifyHostKey,
        clock: IReactorTime,
        timeouts: Timeouts,
        *,
        terms: Terms | None = None,
    ) -> None:
        self._user = user
        self._key = key
        self._verify = verify
        self._clock = clock
        self._timeouts = timeouts
        self._terms = terms or Terms()
        self.done: Deferred[SecureChannel] = Deferred(lambda _: self._abort())
        self._link: _SeLink | None = None

    def _abort(self) -> None:
        if self._link is not None:
            self._link.abort()

    def buildProtocol(self, addr: object) -> IProtocol:  # type: ignore[override]  # Twisted's type wants a factory attribute
        """The link."""
        link = self._link = _SeLink()
        link.clock = self._clock
        link.limits = self._terms.limits
        link.hybrid_only = self._terms.hybrid_only
        link.check_host_key = self._check
        channel = SecureChannel(link, self._clock, self._timeouts, self._terms.memory)
        link.secured = lambda: link.requestService(KeyProof(self._user, self._key, channel.connection))
        link.entered = lambda: self.done.callback(channel)
        link.over = self._over
        return link

    def _check(self, blob: bytes) -> None:
        if not self._verify(keys.line_of(blob)):
            raise HostKeyMismatchError(fingerprint=keys.fingerprint_of(blob))

    def _over(self, reason: str) -> None:
        if self.done.called or self._link is None:
            return
        why = self._link.ended or ConnectionEndedError(detail=f"before the login ({reason})")
        self.done.errback(why)


def connect(  # noqa: PLR0913 - each is one thing that a caller chooses; all by name
    endpoint: IStreamClientEndpoint,
    *,
    user: str,
    key: Ed25519PrivateKey,
    verify_host_key: VerifyHostKey,
    clock: IReactorTime,
    timeouts: Timeouts | None = None,
    terms: Terms | None = None,
) -> Deferred[SecureChannel]:
    """Dial, check the host key, log in; ``terms`` are the process's.

    Fails with ``DialError``, ``SshTimeoutError``, ``HostKeyMismatchError`` (or what ``verify_host_key`` raised),
    ``AuthRefusedError``, ``ServerBusyError``, ``RemoteProtocolError`` or ``ConnectionEndedError``.
    """
    login = _Login(user, key, verify_host_key, clock, timeouts or Timeouts(), terms=terms)
    return Deferred.fromCoroutine(_connect(endpoint, login, clock, timeouts or Timeouts()))


async def _connect(
    endpoint: IStreamClientEndpoint, login: _Login, clock: IReactorTime, timeouts: Timeouts
) -> SecureChannel:
    try:
        await _limited(endpoint.connect(login), timeouts.dial_s, clock, "Connecting")
    except (ConnectError, DNSLookupError, OSError) as failure:
        raise DialError(address=address_of(endpoint), detail=str(failure).rstrip(".")) from failure
    channel: SecureChannel = await _limited(login.done, timeouts.login_s, clock, "Logging in")
    return channel
