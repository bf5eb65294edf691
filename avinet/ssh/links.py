"""The two sides of a connection: who answers a key exchange, and who checks whose key.

The server side keeps Conch's key exchange; the client side has its own, for the hybrid exchange that Conch's
client lacks, and checks the host key before it believes anything.
"""

import hashlib
from collections.abc import Callable

from twisted.conch.ssh import transport as conch
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import SSHClientTransport, SSHServerTransport, SSHTransportBase
from twisted.python.failure import Failure

from avinet.errors import AvinetError
from avinet.ssh import kex, keys, profile
from avinet.ssh.fields import Reader, malformed, string
from avinet.ssh.refusal import busy_from
from avinet.ssh.transport import Link


class ServerLink(Link, SSHServerTransport):
    """The side that has a host key.  ``host_key`` and ``userauth`` are set by the factory that builds it."""

    our_strict_marker = profile.STRICT_SERVER
    their_strict_marker = profile.STRICT_CLIENT
    host_key: Key
    host_key_public: Key
    userauth: Callable[[], SSHService]
    """Makes the one service that a stranger gets."""

    def connectionMade(self) -> None:
        """Start the clock for the login."""
        self._login_timer = self.clock.callLater(self.limits.login_s, self._login_late)
        super().connectionMade()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Stop the clock."""
        if self._login_timer.active():
            self._login_timer.cancel()
        super().connectionLost(reason)

    def _login_late(self) -> None:
        self.violate(malformed("the login took too long"))

    def ssh_KEXINIT(self, packet: bytes) -> None:
        """Settle the algorithms."""
        self.before_key_exchange(packet)
        super().ssh_KEXINIT(packet)

    def _getHostKeys(self, keyAlg: bytes) -> tuple[Key, Key]:
        return self.host_key_public, self.host_key

    def ssh_SERVICE_REQUEST(self, packet: bytes) -> None:
        """Once, for the login; the connection service follows it by itself (RFC 4252 section 5.1)."""
        name = Reader(packet, "SERVICE_REQUEST").string()
        if name != b"ssh-userauth" or self.service is not None:
            text = "no such service"
            self.end(malformed(text), conch.DISCONNECT_SERVICE_NOT_AVAILABLE, text)
            return
        self.sendPacket(conch.MSG_SERVICE_ACCEPT, string(name))
        self.setService(self.userauth())

    def logged_in(self, service: SSHService) -> None:
        """The login succeeded; ``service`` goes on."""
        self.authenticated = True
        self._login_timer.cancel()
        self.setService(service)


class ClientLink(Link, SSHClientTransport):
    """The side that checks a host key and proves itself with a user key."""

    our_strict_marker = profile.STRICT_CLIENT
    their_strict_marker = profile.STRICT_SERVER
    check_host_key: Callable[[bytes], None]
    """Given the host key's wire form; raises an ``AvinetError`` to refuse it."""
    secured: Callable[[], None]
    """Called once the server has proved its key: ask for a service now."""
    entered: Callable[[], None]
    """Called once we are logged in and the connection service runs."""
    _exchange: kex.ClientExchange
    _wanted: SSHService | None = None

    def ssh_KEXINIT(self, packet: bytes) -> None:
        """Settle the algorithms and send our half."""
        self.before_key_exchange(packet)
        # Conch's client method would start an exchange of its own.
        if SSHTransportBase.ssh_KEXINIT(self, packet) is None:
            return
        self._exchange = kex.start(self.kexAlg)
        self.sendPacket(conch.MSG_KEXDH_INIT, string(self._exchange.offer()))

    def ssh_KEX_DH_GEX_GROUP(self, packet: bytes) -> None:
        """Message 31 of every exchange that we speak: host key, the server's half, its signature over it all."""
        reader = Reader(packet, "the key exchange reply")
        host_key, answer, signature = reader.string(), reader.string(), reader.string()
        reader.end()
        secret = self._exchange.secret(answer)
        hashed = hashlib.sha256()
        for part in (
            self.ourVersionString,
            self.otherVersionString,
            self.ourKexInitPayload,
            self.otherKexInitPayload,
            host_key,
            self._exchange.offer(),
            answer,
        ):
            hashed.update(string(part))
        hashed.update(secret)
        if not keys.verifies(host_key, signature, hashed.digest()):
            raise malformed("the host key's signature is wrong")
        try:
            self.check_host_key(host_key)
        except AvinetError as refusal:
            self.end(refusal, conch.DISCONNECT_HOST_KEY_NOT_VERIFIABLE, "host key not accepted")
            return
        self._keySetup(secret, hashed.digest())

    def connectionSecure(self) -> None:
        """After each key exchange; the first one leads on to the login."""
        if self._wanted is None:
            self.secured()

    def requestService(self, instance: SSHService) -> None:
        """Ask for ``instance``; it starts when the server accepts."""
        self._wanted = instance
        self.sendPacket(conch.MSG_SERVICE_REQUEST, string(instance.name))

    def ssh_SERVICE_ACCEPT(self, packet: bytes) -> None:
        """Start what we asked for, once."""
        name = Reader(packet, "SERVICE_ACCEPT").string()
        if self._wanted is None or self.service is not None or name != self._wanted.name:
            raise malformed("it accepts a service that was not asked for")
        self.setService(self._wanted)

    def logged_in(self, service: SSHService) -> None:
        """The server let us in; ``service`` goes on."""
        self.authenticated = True
        self.setService(service)
        self.entered()

    def peer_left(self, code: int, text: str) -> AvinetError | None:
        """See ``Link``; a server that is full says when to come back."""
        return (
            busy_from(text)
            if code == conch.DISCONNECT_TOO_MANY_CONNECTIONS
            else super().peer_left(code, text)
        )
