"""The ssh-userauth service (RFC 4252), public keys only, on both sides.

The server answers every failure alike, so that a stranger cannot tell a user that exists from one that does not,
nor a key that is known under another name.  Whether a key may log in is decided by a callable; here are only the
protocol and its bounds.
"""

from collections.abc import Callable

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.ssh import transport as conch
from twisted.conch.ssh import userauth
from twisted.conch.ssh.service import SSHService

from avinet.ssh import keys
from avinet.ssh.errors import AuthRefusedError
from avinet.ssh.fields import Reader, malformed, string
from avinet.ssh.links import ClientLink, ServerLink
from avinet.ssh.quiet import conch_log

_CONNECTION = b"ssh-connection"
_PUBLICKEY = b"publickey"
_MAX_REQUESTS = 20
"""Of any kind, ``none`` and key queries included: every SSH client is done or refused long before."""
_SERVER_MESSAGES = {userauth.MSG_USERAUTH_REQUEST: "MSG_USERAUTH_REQUEST"}
_CLIENT_MESSAGES = {
    userauth.MSG_USERAUTH_SUCCESS: "MSG_USERAUTH_SUCCESS",
    userauth.MSG_USERAUTH_FAILURE: "MSG_USERAUTH_FAILURE",
    userauth.MSG_USERAUTH_BANNER: "MSG_USERAUTH_BANNER",
}
_FAILURE = string(_PUBLICKEY) + b"\0"


def signed_part(session: bytes, user: bytes, blob: bytes) -> bytes:
    """What a user key signs (RFC 4252 section 7)."""
    return (
        string(session)
        + bytes([userauth.MSG_USERAUTH_REQUEST])
        + string(user)
        + string(_CONNECTION)
        + string(_PUBLICKEY)
        + b"\x01"
        + string(keys.ALGORITHM)
        + string(blob)
    )


@attrs.frozen
class Attempt:
    """One try to log in: the user's name as sent, and the key's wire form (empty when no key was shown)."""

    user: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """The key as people compare it."""
        return keys.fingerprint_of(self.blob) if self.blob else "no key"


class KeyLogin(SSHService):
    """The server's side.  ``permits`` says whether a key may log in as a user; ``admit`` makes the service that
    follows; ``failed`` hears of each refusal and why.
    """

    name = b"ssh-userauth"
    protocolMessages = _SERVER_MESSAGES
    _log = conch_log()
    transport: ServerLink

    def __init__(
        self,
        permits: Callable[[Attempt], str],
        admit: Callable[[Attempt], SSHService],
        failed: Callable[[Attempt, str], None],
    ) -> None:
        self._permits = permits
        self._admit = admit
        self._failed = failed
        self._requests = 0
        self._failures = 0
        self._last = Attempt("", b"")

    def serviceStopped(self) -> None:
        """A stranger who never proved anything has gone."""
        if not self.transport.authenticated and not self._failures:
            self._failed(self._last, "no-proof")

    def ssh_USERAUTH_REQUEST(self, packet: bytes) -> None:
        """A try, or a question whether a key would do."""
        reader = Reader(packet, "USERAUTH_REQUEST")
        user, service, method = reader.string(), reader.string(), reader.string()
        self._requests += 1
        if self._requests > _MAX_REQUESTS:
            raise malformed("too many login requests")
        if service != _CONNECTION or method != _PUBLICKEY or len(user) > 255:
            self._refuse(None, "")
            return
        signed, algorithm, blob = reader.boolean(), reader.string(), reader.string()
        attempt = self._last = Attempt(user.decode(errors="replace"), blob)
        if algorithm != keys.ALGORITHM:
            self._refuse(attempt, "key-type")
            return
        keys.public_key(blob)
        if why := self._permits(attempt):
            self._refuse(attempt, why)
            return
        if not signed:
            self.transport.sendPacket(userauth.MSG_USERAUTH_PK_OK, string(algorithm) + string(blob))
            return
        signature = reader.string()
        reader.end()
        session = self.transport.sessionID
        if session is None or not keys.verifies(blob, signature, signed_part(session, user, blob)):
            self._refuse(attempt, "signature")
            return
        following = self._admit(attempt)
        self.transport.sendPacket(userauth.MSG_USERAUTH_SUCCESS, b"")
        self.transport.logged_in(following)

    def _refuse(self, attempt: Attempt | None, why: str) -> None:
        if attempt is not None:
            self._failures += 1
            self._failed(attempt, why)
            if self._failures >= self.transport.limits.auth_attempts:
                text = "Too many authentication failures"
                self.transport.end(malformed(text), conch.DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE, text)
                return
        self.transport.sendPacket(userauth.MSG_USERAUTH_FAILURE, _FAILURE)


class KeyProof(SSHService):
    """The client's side: one user, one key, one try, since that is all an SE has."""

    name = b"ssh-userauth"
    protocolMessages = _CLIENT_MESSAGES
    _log = conch_log()
    transport: ClientLink

    def __init__(self, user: str, key: Ed25519PrivateKey, following: SSHService) -> None:
        self._user = user
        self._key = key
        self._following = following

    def serviceStarted(self) -> None:
        """Send the proof at once: asking first whether the key would do costs a round trip."""
        user, blob = self._user.encode(), keys.blob_of(self._key.public_key())
        session = self.transport.sessionID or b""
        signature = keys.sign(self._key, signed_part(session, user, blob))
        self.transport.sendPacket(
            userauth.MSG_USERAUTH_REQUEST,
            string(user)
            + string(_CONNECTION)
            + string(_PUBLICKEY)
            + b"\x01"
            + string(keys.ALGORITHM)
            + string(blob)
            + string(signature),
        )

    def ssh_USERAUTH_SUCCESS(self, packet: bytes) -> None:
        """We are in."""
        self.transport.logged_in(self._following)

    def ssh_USERAUTH_FAILURE(self, packet: bytes) -> None:
        """We are not; there is nothing else to try."""
        fingerprint = keys.fingerprint_of(keys.blob_of(self._key.public_key()))
        refusal = AuthRefusedError(user=self._user, fingerprint=fingerprint)
        self.transport.end(refusal, conch.DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE, "no other key")

    def ssh_USERAUTH_BANNER(self, packet: bytes) -> None:
        """Text for people; there are none here."""
