"""The SE's own SSH server: controllers run commands on the SE through the reverse forward.

It listens nowhere: each channel of the reverse forward is one connection to it.  One user, the keys of the
membership list's controllers, and sessions only: a command, a shell with a terminal, or both; no files, no
forwards, no agent.  What a session does is in ``process``; each use is reported when it ends, since the
controller cannot see inside a connection that is encrypted end to end.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.ssh import connection as conch
from twisted.conch.ssh.service import SSHService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from avinet.errors import AvinetError
from avinet.ssh import keys
from avinet.ssh.channel import ChannelTransport
from avinet.ssh.connection import Connection, refused
from avinet.ssh.errors import ConnectionEndedError
from avinet.ssh.fields import Reader
from avinet.ssh.links import ServerLink
from avinet.ssh.policy import CommandPolicy, Use
from avinet.ssh.process import KILL_AFTER_S, CommandSession, ProcessReactor
from avinet.ssh.refusal import Refusal
from avinet.ssh.terms import Terms
from avinet.ssh.userauth import Attempt, KeyLogin
from avinet.units import MIB

USER = "aviseuser"
RETRY_AFTER_S = 5.0
MAX_INPUT_WINDOW_BYTES = 4 * MIB
"""OpenSSH's client keeps a window's worth of input in buffers that it allocates anew as it goes: with 16 MiB it needs 1.8 s
for 256 MiB, with 4 MiB a quarter of a second.  Twice its own window: 57 MiB/s at 70 ms."""
STOP_TIMEOUT_S = KILL_AFTER_S + 2.0
"""By then KILL has had its effect, or nothing will."""


class _CommandLink(ServerLink):
    """One connection to the SE's server."""

    server: "CommandServer"
    controller: str

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Count it out."""
        self.server.left(self)
        super().connectionLost(reason)


class _CommandLogin:
    """The acceptor of one login: sessions, and nothing else."""

    def __init__(self, server: "CommandServer", fingerprint: str) -> None:
        self._server = server
        self._fingerprint = fingerprint

    def open_channel(self, kind: str, details: Reader) -> ChannelTransport:
        """A session, if there is room for one more."""
        if kind != "session":
            raise refused(kind, "only sessions are allowed here")
        session = self._server.new_session(self._fingerprint)
        channel = ChannelTransport(session, b"session")
        channel.max_window = MAX_INPUT_WINDOW_BYTES
        return channel

    def global_request(self, kind: str, details: Reader) -> bytes | None:
        """No forwards."""
        return None

    def connection_stopped(self, why: AvinetError) -> None:
        """Its sessions end with their channels."""


class CommandServer(Factory):
    """Builds the protocol for each connection; ``authorized`` gives the keys (OpenSSH lines) that may log in now."""

    noisy = False

    def __init__(  # noqa: PLR0913 - each is one thing that an SE decides
        self,
        host_key: Ed25519PrivateKey,
        authorized: Callable[[], Iterable[str]],
        reactor: ProcessReactor,
        used: Callable[[Use], None],
        policy: CommandPolicy | None = None,
        *,
        terms: Terms | None = None,
    ) -> None:
        self._host_key = host_key
        self._host_key_blob = keys.blob_of(host_key.public_key())
        self._authorized = authorized
        self._reactor = reactor
        self._used = used
        self._own_policy = self.policy = policy or CommandPolicy()
        self.terms = terms or Terms()
        self._limits = attrs.evolve(self.terms.limits, channels=self.policy.sessions)
        self.links: set[_CommandLink] = set()
        self._counts: Counter[str] = Counter()
        self.sessions: set[CommandSession] = set()
        self._stopped: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> IProtocol:  # type: ignore[override]  # Twisted's type wants a factory attribute
        """For whoever serves it elsewhere than behind an uplink."""
        return self.build("")

    def build(self, controller: str) -> IProtocol:
        """A link for a connection through ``controller``'s forward, or a refusal when it has too many."""
        if self._counts[controller] >= self.policy.connections:
            return Refusal(RETRY_AFTER_S)
        self._counts[controller] += 1
        link = _CommandLink()
        link.server = self
        link.controller = controller
        link.clock = self._reactor
        link.limits = self._limits
        link.hybrid_only = self.terms.hybrid_only
        link.host_key, link.host_key_blob = self._host_key, self._host_key_blob
        link.userauth = lambda: KeyLogin(self._judge, self._admit, lambda attempt, why: None)
        self.links.add(link)
        return link

    def narrow(self, classes: Collection[str]) -> None:
        """From the next session on, allow of our own policy only these classes (``EXEC``, ``INTERACTIVE``, ``FILES``)."""
        own = self._own_policy
        self.policy = attrs.evolve(
            own,
            exec_allowed=own.exec_allowed and "EXEC" in classes,
            interactive_allowed=own.interactive_allowed and "INTERACTIVE" in classes,
            files=own.files if "FILES" in classes else None,
        )

    def left(self, link: _CommandLink) -> None:
        """It is gone."""
        if link in self.links:
            self.links.remove(link)
            self._counts[link.controller] -= 1

    def _judge(self, attempt: Attempt) -> str:
        if attempt.user != USER:
            return "unknown-user"
        allowed = {keys.blob_of_line(line) for line in self._authorized()}
        return "" if attempt.blob in allowed else "unknown-key"

    def _admit(self, attempt: Attempt) -> SSHService:
        if why := self._judge(attempt):
            raise ConnectionEndedError(detail=why)
        return Connection(_CommandLogin(self, attempt.fingerprint), self.terms.memory)

    def new_session(self, fingerprint: str) -> CommandSession:
        """A session for whoever has that key; ``ChannelRefusedError`` when there are too many."""
        if len(self.sessions) >= self.policy.sessions:
            raise refused("a session", "too many sessions", conch.OPEN_RESOURCE_SHORTAGE)
        session = CommandSession(self._reactor, self.policy, fingerprint, self._ended)
        self.sessions.add(session)
        return session

    def _ended(self, session: CommandSession, use: Use | None) -> None:
        self.sessions.discard(session)
        if use is not None:
            self._used(use)
        if not self.sessions and self._stopped is not None and not self._stopped.called:
            self._stopped.callback(None)

    def stop(self) -> Deferred[None]:
        """Cut every connection; fires when what they ran has ended, killed if it does not heed TERM."""
        for link in list(self.links):
            link.abort()
        if not self.sessions:
            return succeed(None)
        stopped = self._stopped = Deferred()
        return stopped.addTimeout(STOP_TIMEOUT_S, self._reactor, onTimeoutCancel=lambda _result, _limit: None)
