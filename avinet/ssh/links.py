"""The two sides of a connection: who answers a key exchange, and who checks whose key.

The server signs with its host key what both sides have seen; the client checks that signature and the host key before
it believes anything.
"""

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.ssh import transport as conch
from twisted.conch.ssh.service import SSHService
from twisted.python.failure import Failure

from avinet.errors import AvinetError
from avinet.ssh import kex, keys, profile
from avinet.ssh.exchange import Exchange
from avinet.ssh.fields import Reader, malformed, string
from avinet.ssh.refusal import busy_from
from avinet.ssh.transport import Link


class ServerLink(Link):
    """The side that has a host key.  ``host_key``, ``host_key_blob`` and ``userauth`` are set by the factory that builds it."""

    isClient = False
    our_marker, their_marker = profile.STRICT_SERVER, profile.STRICT_CLIENT
    our_extensions, their_extensions = profile.EXTENSIONS_SERVER, profile.EXTENSIONS_CLIENT
    extensions = (*Link.extensions, (b"server-sig-algs", keys.ALGORITHM))
    host_key: Ed25519PrivateKey
    host_key_blob: bytes
    """The wire form of its public half."""
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

    def ssh_KEX_DH_GEX_REQUEST_OLD(self, packet: bytes) -> None:
        """Message 30 of every exchange that we speak: the client's half.  Conch names it by its oldest use."""
        exchange = self._exchange
        if exchange is None or exchange.agreed is None:
            raise AssertionError("the order of messages is checked before")
        reader = Reader(packet, "the key exchange offer")
        offered = reader.string()
        reader.end()
        reply, secret = kex.answer(exchange.agreed.kex, offered)
        host_key = self.host_key_blob
        hashed = kex.exchange_hash(self.hashed_parts(exchange, host_key, offered, reply), secret)
        signature = keys.sign(self.host_key, hashed)
        self.sendPacket(conch.MSG_KEXDH_REPLY, string(host_key) + string(reply) + string(signature))
        self.change_keys(exchange, secret, hashed)

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
        self._login_timer.cancel()
        self.enter(service)


class ClientLink(Link):
    """The side that checks a host key and proves itself with a user key."""

    isClient = True
    our_marker, their_marker = profile.STRICT_CLIENT, profile.STRICT_SERVER
    our_extensions, their_extensions = profile.EXTENSIONS_CLIENT, profile.EXTENSIONS_SERVER
    check_host_key: Callable[[bytes], None]
    """Given the host key's wire form; raises an ``AvinetError`` to refuse it."""
    secured: Callable[[], None]
    """Called once the server has proved its key: ask for a service now."""
    entered: Callable[[], None]
    """Called once we are logged in and the connection service runs."""
    _wanted: SSHService | None = None

    def offers_exchanged(self, exchange: Exchange) -> None:
        """Send our half."""
        if exchange.agreed is not None:
            exchange.client = kex.start(exchange.agreed.kex)
            self.sendPacket(conch.MSG_KEXDH_INIT, string(exchange.client.offer()))

    def ssh_KEX_DH_GEX_GROUP(self, packet: bytes) -> None:
        """Message 31 of every exchange that we speak: host key, the server's half, its signature over it all."""
        exchange = self._exchange
        if exchange is None or exchange.client is None:
            raise AssertionError("the order of messages is checked before")
        reader = Reader(packet, "the key exchange reply")
        host_key, answer, signature = reader.string(), reader.string(), reader.string()
        reader.end()
        secret = exchange.client.secret(answer)
        parts = self.hashed_parts(exchange, host_key, exchange.client.offer(), answer)
        hashed = kex.exchange_hash(parts, secret)
        if not keys.verifies(host_key, signature, hashed):
            raise malformed("the host key's signature is wrong")
        try:
            self.check_host_key(host_key)
        except AvinetError as refusal:
            self.end(refusal, conch.DISCONNECT_HOST_KEY_NOT_VERIFIABLE, "host key not accepted")
            return
        self.change_keys(exchange, secret, hashed)

    def keys_changed(self) -> None:
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
        self.enter(service)
        self.entered()

    def peer_left(self, code: int, text: str) -> AvinetError | None:
        """See ``Link``; a server that is full says when to come back."""
        return (
            busy_from(text)
            if code == conch.DISCONNECT_TOO_MANY_CONNECTIONS
            else super().peer_left(code, text)
        )
