"""The controller's SSH server: SEs and other controllers log in with their keys and get what their line allows.

No user here has a shell, a terminal or files.  An SE's login may open ``direct-tcpip`` channels to the services that
its line permits, and ask for one forward, of its own loopback address and port; everything else is refused by
name, and the refusal is reported.  Reports go to an ``Observer``, which coalesces them: strangers choose how
many there are.
"""

import time
from collections.abc import Callable

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.ssh.service import SSHService
from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from avinet.ssh import keys
from avinet.ssh.errors import ConnectionEndedError
from avinet.ssh.gate import Gate, GateLimits, Ticket, TurnedAway
from avinet.ssh.links import ServerLink
from avinet.ssh.login import Access, Account, Login, SeAccount
from avinet.ssh.observer import Observer
from avinet.ssh.profile import LinkLimits
from avinet.ssh.refusal import Refusal
from avinet.ssh.services import PermitIndex
from avinet.ssh.turnstile import Turnstile
from avinet.ssh.userauth import Attempt, KeyLogin

MAX_LOGINS = 8
"""Connections of one SE at once: its own, its half-open past after a few power cuts, and an operator's tests."""
NOT_NOW = "not-now"
"""Why nobody is let in as a user who is shut out; the connection costs what one does that came to nothing, and no more."""


class _ControllerLink(ServerLink):
    """One connection to the controller."""

    server: "SecureChannelServer"
    source: str
    ticket: Ticket | None
    """Until it logs in."""
    queued = 0
    """See ``turnstile.Waiting``."""

    def dataReceived(self, data: bytes) -> None:
        """At once from an SE that has proved itself; a stranger waits for his turn."""
        if self.authenticated and not self.queued:
            super().dataReceived(data)
        else:
            self.server.turnstile.enter(self, data)

    def take(self, data: bytes) -> None:
        """It is its turn."""
        super().dataReceived(data)

    def logged_in(self, service: SSHService) -> None:
        """No stranger any more."""
        self._leave(authenticated=True)
        super().logged_in(service)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Count it out."""
        if self.ticket is not None:
            self._leave(authenticated=False)
            if self.ended is not None and self.service is None:
                self.server.observer.auth_failed(self.source, "", "no key", self.ended.reason)
        super().connectionLost(reason)

    def _leave(self, *, authenticated: bool) -> None:
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            server = self.server
            server.gate.leave(ticket, authenticated=authenticated, behind=server.turnstile.behind)


@attrs.frozen
class ServerSettings:
    """The bounds of a server."""

    link: LinkLimits = attrs.field(factory=lambda: LinkLimits(channels=16))
    gate: GateLimits = attrs.field(factory=GateLimits)
    logins: int = MAX_LOGINS
    hybrid_only: bool = False
    """Offer no key exchange but the post-quantum one."""


class SecureChannelServer(Factory):
    """Builds a protocol for each connection; ``access`` says who may log in to what."""

    noisy = False

    def __init__(
        self,
        host_key: Ed25519PrivateKey,
        access: Access,
        clock: IReactorTime,
        observer: Observer,
        settings: ServerSettings | None = None,
    ) -> None:
        self._host_key = host_key
        self._host_key_blob = keys.blob_of(host_key.public_key())
        self._access = access
        self._accounts: dict[str, Account] = dict(access.others)
        self._shut_out: set[str] = set()
        self._clock = clock
        self.observer = observer
        self.settings = settings or ServerSettings()
        self.gate = Gate(clock.seconds, self.settings.gate)
        self.turnstile = Turnstile(clock, time.perf_counter)
        self._logins: dict[str, list[Login]] = {}
        for user, index in access.users.items():
            self.let_in(user, index)

    def let_in(self, user: str, index: PermitIndex) -> None:
        """From now on SEs log in as ``user`` by these lines."""
        self._accounts[user] = SeAccount(index, self._access, self.observer)
        self._shut_out.discard(user)

    def shut_out(self, user: str, text: str) -> None:
        """Let nobody in as ``user`` until ``let_in``, and end its logins in good order.  Who tries is no stranger for that."""
        self._accounts.pop(user, None)
        self._shut_out.add(user)
        self._close(text, lambda login: login.user == user)

    # -- connections

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:  # type: ignore[override]  # Twisted's type wants a factory attribute
        """A link for a stranger, or a refusal when there are too many; no protocol is a connection cut at once."""
        source = str(getattr(addr, "host", "local"))
        ticket = self.gate.admit(source)
        if isinstance(ticket, TurnedAway):
            self.observer.turned_away(source, ticket.why)
            return None if ticket.wait_s is None else Refusal(ticket.wait_s)
        link = _ControllerLink()
        link.server = self
        link.source = source
        link.ticket = ticket
        link.clock = self._clock
        link.limits = self.settings.link
        link.hybrid_only = self.settings.hybrid_only
        link.host_key, link.host_key_blob = self._host_key, self._host_key_blob
        link.userauth = lambda: KeyLogin(
            lambda attempt: self._refusal(source, attempt),
            lambda attempt: self._admit(link, attempt),
            lambda attempt, why: self._failed(source, attempt, why),
        )
        return link

    def _failed(self, source: str, attempt: Attempt, why: str) -> None:
        if why == NOT_NOW:
            return
        self.gate.failed(source)
        self.observer.auth_failed(source, attempt.user, attempt.fingerprint, why)

    def _refusal(self, source: str, attempt: Attempt) -> str:
        """Why this key is not let in; empty when it is."""
        account = self._accounts.get(attempt.user)
        if account is not None:
            return account.refusal(attempt.blob, source)
        return NOT_NOW if attempt.user in self._shut_out else "unknown-user"

    def _admit(self, link: _ControllerLink, attempt: Attempt) -> SSHService:
        why = self._refusal(link.source, attempt)
        if why:
            # Withdrawn between the question and the proof.
            raise ConnectionEndedError(detail=why)
        login = self._accounts[attempt.user].login(link, link.source, attempt.blob)
        login.user, login.forgotten = attempt.user, self._forget
        logins = self._logins.setdefault(login.owner, [])
        logins.append(login)
        if len(logins) > self.settings.logins:
            oldest = next((one for one in logins if not one.attached), logins[0])
            # Not in good order: whoever logs in again and again would have each of them linger.
            oldest.abort()
            self._forget(oldest)
        return login.connection

    def _forget(self, login: Login) -> None:
        logins = self._logins.get(login.owner, [])
        if login in logins:
            logins.remove(login)
        if not logins:
            self._logins.pop(login.owner, None)

    def drop(self, owner: str) -> None:
        """Cut every connection of an SE that was deleted, disabled or quarantined, or of another ``Login.owner``."""
        for login in list(self._logins.get(owner, [])):
            login.abort()

    def drop_all(self, text: str) -> None:
        """End every login; used when the controller stops."""
        self._close(text, lambda login: True)

    def _close(self, text: str, which: Callable[[Login], bool]) -> None:
        for logins in list(self._logins.values()):
            for login in filter(which, list(logins)):
                login.close(text)

    @property
    def login_count(self) -> int:
        """How many connections are authenticated."""
        return sum(map(len, self._logins.values()))
