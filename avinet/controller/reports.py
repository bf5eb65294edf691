"""What sessions and the SSH server notice, as events an operator reads.  Coalescing is the event log's."""

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IReactorTime

from avinet.controller.attendance import AttendanceListener
from avinet.controller.config_entries import VersionRecord
from avinet.controller.engines import Emit
from avinet.controller.leadership import Role
from avinet.controller.session import SeSession
from avinet.controller.sessions import SessionListener
from avinet.errors import AvinetError
from avinet.model.events import Level
from avinet.model.ids import ControllerName, SeId
from avinet.ssh.services import ChannelPeer
from avinet.wire.messages import Message, Notice

MAX_NOTICE_TEXT = 500
"""Of what an SE says in its own words; a hostile one says more."""
MAX_FACTS = 20
MAX_NAMES = 20
"""Objects named in one event; a change may be of five hundred."""
NOTICE_CODES = frozenset(
    {"COMMAND", "COMMAND_REFUSED", "CONFIG_DRIFT", "FILES", "LOG_SPOOL", "MEMBERSHIP_REFUSED"}
)
"""What an SE's own words may be filed under; with any other it could speak as if it were the controller."""
NOTICE_BURST = 50.0
NOTICES_PER_S = 1.0
"""What one SE may tell: a script's worth of commands at once, then one a second; the log holds 100,000 events."""

_LEVELS = {level.value: level for level in Level}


@attrs.define
class _Allowance:
    """How much an SE may still tell."""

    left: float
    at: float


@attrs.frozen(eq=False)
class AttendanceEvents(AttendanceListener):
    """SEs that are there, and that are not."""

    emit: Emit
    name_of: Callable[[SeId], str]
    sent_away: Callable[[SeId], bool] = lambda se: False
    """Whether it was deleted or quarantined: that it goes is no surprise."""

    def up(self, se: SeId) -> None:
        """Attached, after it was not."""
        name = self.name_of(se)
        self.emit("SE_UP", Level.INFO, se, f"Service engine {name} is up.", name=name)

    def down(self, se: SeId, why: str) -> None:
        """Gone for as long as the heartbeats allow."""
        if self.sent_away(se):
            return
        name = self.name_of(se)
        self.emit("SE_DOWN", Level.ERROR, se, f"Service engine {name} is down: {why}", name=name, why=why)

    def partly(self, se: SeId, why: str, elsewhere: tuple[ControllerName, ...]) -> None:
        """Other controllers have it."""
        if self.sent_away(se):
            return
        name, others = self.name_of(se), ", ".join(elsewhere)
        self.emit(
            "SE_PARTLY_ATTACHED",
            Level.WARNING,
            se,
            f"Service engine {name} is not attached to this controller ({why}), but it is to {others}.",
            name=name,
            why=why,
            elsewhere=elsewhere,
        )

    def whole(self, se: SeId) -> None:
        """Attached here too, or down, which is an event of its own."""
        name = self.name_of(se)
        text = f"That service engine {name} is attached to other controllers only is over."
        self.emit("SE_PARTLY_OVER", Level.INFO, se, text, name=name)


@attrs.define(eq=False)
class SessionEvents(SessionListener):
    """Sessions that come and go, and what SEs themselves have to tell."""

    emit: Emit
    name_of: Callable[[SeId], str]
    clock: IReactorTime
    _allowances: dict[SeId, _Allowance] = attrs.field(factory=dict, init=False, repr=False)

    def _may_tell(self, se: SeId) -> bool:
        now = self.clock.seconds()
        allowance = self._allowances.setdefault(se, _Allowance(NOTICE_BURST, now))
        allowance.left = min(NOTICE_BURST, allowance.left + (now - allowance.at) * NOTICES_PER_S)
        allowance.at = now
        if allowance.left < 1:
            return False
        allowance.left -= 1
        return True

    def rtt_high(self, session: SeSession) -> None:
        """Slower than is good for it."""
        rtt_ms = round((session.rtt.smoothed or 0.0) * 1000, 1)
        name = self.name_of(session.se)
        text = f"The round trip to service engine {name} takes {rtt_ms} ms."
        self.emit("SE_RTT_HIGH", Level.WARNING, session.se, text, name=name, rtt_ms=rtt_ms)

    def rtt_cleared(self, session: SeSession) -> None:
        """As it should be again."""
        rtt_ms = round((session.rtt.smoothed or 0.0) * 1000, 1)
        name = self.name_of(session.se)
        text = f"The round trip to service engine {name} is down to {rtt_ms} ms."
        self.emit("SE_RTT_NORMAL", Level.INFO, session.se, text, name=name, rtt_ms=rtt_ms)

    def received(self, session: SeSession, message: Message) -> None:
        """What the SE itself wants its operator to know, such as a command that ran."""
        if not isinstance(message, Notice):
            return
        if not self._may_tell(session.se):
            text = f"Service engine {self.name_of(session.se)} tells more than is kept."
            self.emit("SE_NOTICES_DROPPED", Level.WARNING, session.se, text, reason="too-many")
            return
        facts = {str(k)[:50]: str(v)[:MAX_NOTICE_TEXT] for k, v in list(message.facts.items())[:MAX_FACTS]}
        self.emit(
            f"SE_{message.code}" if message.code in NOTICE_CODES else "SE_NOTICE",
            _LEVELS.get(message.level, Level.WARNING),
            session.se,
            f"{self.name_of(session.se)}: {message.text[:MAX_NOTICE_TEXT]}",
            told_code=message.code[:50],
            told=facts,
            told_at=message.at,
        )


@attrs.frozen
class ControllerEvents:
    """About the controller itself."""

    emit: Emit

    def started(self, name: str) -> None:
        """It serves."""
        self.emit("CONTROLLER_STARTED", Level.INFO, "controller", f"Controller {name} started.")

    def blocked(self, seconds: float, where: str) -> None:
        """The reactor did one thing for too long."""
        self.emit(
            "REACTOR_BLOCKED",
            Level.WARNING,
            "controller",
            f"For {seconds:.1f} s the controller did nothing else than {where}.",
            reason="blocked",
            seconds=round(seconds, 2),
            where=where,
        )

    def leader_changed(self, me: str, role: Role) -> None:
        """Another leads, or nobody."""
        if role.leader is None:
            said = "Nobody is known to lead the cluster"
        else:
            said = f"Controller {role.leader}{' (this one)' if role.leads else ''} leads the cluster, term {role.term}"
        self.emit(
            "LEADER_CHANGED",
            Level.WARNING if role.leader is None else Level.INFO,
            "cluster",
            f"{said}: {role.why}.",
            leader=role.leader or "",
            term=role.term,
            reason=role.why,
            seen_by=me,
        )

    def quorum(self, answers: bool) -> None:  # noqa: FBT001 - a fact
        """The shared store has been silent for some seconds, or answers again."""
        self.emit(
            "QUORUM_BACK" if answers else "QUORUM_LOST",
            Level.INFO if answers else Level.ERROR,
            "cluster",
            "The cluster's store answers again."
            if answers
            else "The cluster's store does not answer: it has no quorum, or cannot be reached from here. Nothing can be "
            "changed; what is known is shown with its age, and service engines stay connected.",
        )

    def login_refused(self, source: str, user: str) -> None:
        """An operator's login failed."""
        self.emit(
            "OPERATOR_LOGIN_REFUSED",
            Level.WARNING,
            source,
            f"An operator login from {source} was refused.",
            reason=user[:64],
        )


@attrs.frozen
class ConfigEvents:
    """Who changed the configuration, and what."""

    emit: Emit

    def committed(self, record: VersionRecord) -> None:
        """A version was made."""
        changes = [
            f"{word} {', '.join(names[:MAX_NAMES])}" + (" and more" if len(names) > MAX_NAMES else "")
            for word, names in (
                ("created", record.created),
                ("updated", record.updated),
                ("deleted", record.deleted),
            )
            if names
        ]
        self.emit(
            "CONFIG_CHANGED",
            Level.INFO,
            "configuration",
            f"Configuration version {record.version} by {record.author}: {'; '.join(changes) or 'no object changed'}.",
            version=record.version,
            author=record.author,
            created=record.created[:MAX_NAMES],
            updated=record.updated[:MAX_NAMES],
            deleted=record.deleted[:MAX_NAMES],
        )


@attrs.define(eq=False)
class ChannelEvents:
    """The SSH server's ``Observer``."""

    emit: Emit
    name_of: Callable[[SeId], str]
    logged_in: int = attrs.field(default=0, init=False)
    """Since the start."""
    refused_logins: int = attrs.field(default=0, init=False)

    def auth_failed(self, source: str, user: str, fingerprint: str, why: str) -> None:
        """A stranger was refused."""
        self.refused_logins += 1
        self.emit(
            "SSH_LOGIN_REFUSED",
            Level.WARNING,
            source,
            f"An SSH login from {source} was refused ({why}).",
            reason=why,
            user=user[:64],
            fingerprint=fingerprint,
        )

    def turned_away(self, source: str, why: str) -> None:
        """One event for all sources: how many there are is the strangers' choice, or the size of the fleet."""
        said = {
            "crowded": "too many connections have not logged in yet",
            "pace": "too many connections a second come to nothing",
        }
        self.emit(
            "SSH_TURNED_AWAY",
            Level.WARNING,
            "ssh",
            f"The SSH server tells connections to come back later: {said.get(why, why)} (last from {source}).",
            reason=why,
            source=source,
        )

    def authenticated(self, peer: ChannelPeer) -> None:
        """A login is no event: the session that follows is."""
        self.logged_in += 1

    def lost(self, peer: ChannelPeer, why: AvinetError) -> None:
        """Nor is its end."""

    def refused(self, peer: ChannelPeer, what: str) -> None:
        """An SE's key asked for what its line does not allow."""
        self.emit(
            "SSH_REQUEST_REFUSED",
            Level.WARNING,
            peer.se,
            f"Service engine {self.name_of(peer.se)} (from {peer.address}) asked for {what[:200]}, "
            "which it is not permitted.",
            reason=what[:200],
            source=peer.address,
        )

    def reverse_failed(self, peer: ChannelPeer, why: AvinetError) -> None:
        """Commands cannot reach the SE."""
        self.emit(
            "SE_REVERSE_FAILED",
            Level.ERROR,
            peer.se,
            f"Commands cannot reach service engine {self.name_of(peer.se)}: {why}",
            reason=why.reason,
        )
