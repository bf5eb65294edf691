"""One SE's way to the configuration it should have: what it wants, has, and is being sent.

A machine without clock or socket: facts go in, at most one push comes out.  The invariants: one push under way at a
time; a delta only from a state whose hash the SE itself named and whose content is known here; what the SE has is
what it said last (``Hello``, ``Ack``, ``Nack``, ``InForce``), never what was sent.
"""

import enum
from collections.abc import Mapping

import attrs

from avinet.model.ids import NO_VERSION, ConfigVersion
from avinet.model.resources import EMPTY_STATE_HASH, Delta, Resource, delta_between, hashes_of, state_hash

RETRY_BASE_S = 1.0
RETRY_CAP_S = 300.0
"""A rejected state is tried again this often: what made it fail on the SE (a port taken, say) may be gone."""
PUSH_TIMEOUT_S = 60.0
"""From the last frame sent to the answer; an SE applies 500 virtual services in 3 s, and answers or is gone."""
WITHHELD = "it has a newer configuration than the restored one and keeps it; to replace it: avinet config accept-restored"
ANEW = frozenset({"base-mismatch", "malformed", "superseded"})
"""Refusals that say nothing against the configuration: sent again at once, as a snapshot."""


class Stand(enum.StrEnum):
    """Where an SE is with its configuration, in words an operator reads."""

    AWAY = "away"
    IN_SYNC = "in-sync"
    SENDING = "sending"
    WAITING = "waiting"
    """It refused; the next try is at ``retry_at``."""
    RESTORED_BEHIND = "restored-behind"
    """It has seen a newer configuration than the one that was restored, and keeps what it has until that is accepted."""


@attrs.frozen
class Wanted:
    """A state that an SE should have."""

    version: ConfigVersion
    resources: Mapping[str, Resource] = attrs.field(factory=dict, repr=False)
    hash: str = EMPTY_STATE_HASH

    @classmethod
    def of(cls, version: ConfigVersion, resources: Mapping[str, Resource]) -> "Wanted":
        """With its hash."""
        return cls(version, resources, state_hash(hashes_of(resources.values())))


@attrs.frozen
class Push:
    """What to send now.  ``base`` is the hash a delta starts from, None for a snapshot."""

    number: int
    wanted: Wanted
    base: str | None
    delta: Delta
    again: bool = False
    """Whether this state was sent to this SE before, and did not get in force."""

    @property
    def size(self) -> int:
        """Bytes of what it puts."""
        return sum(len(resource.body) for resource in self.delta.put)


@attrs.define
class Progress:
    """One SE's."""

    wanted: Wanted = attrs.field(factory=lambda: Wanted(NO_VERSION))
    since: ConfigVersion = NO_VERSION
    """The version with which it came to want this state."""
    has: str | None = None
    """The state hash it reported last; None while it is away."""
    sending: Push | None = None
    sent_at: float = 0.0
    refused: str = ""
    """Why it refused the wanted state last, in words; empty once it took it."""
    retry_at: float | None = None
    withheld: bool = False
    """Whether nothing may be sent to it: what it has is newer than what was restored."""
    resends: int = 0
    """Of the wanted state, beyond the first time it was sent; a session that ended counts as not sent."""
    _sent: str = ""
    """The hash of the state that was sent last."""
    _failures: int = 0
    _number: int = 0
    _snapshot_next: bool = False

    @property
    def in_sync(self) -> bool:
        """Whether it reported the state it should have, and nothing else is on its way to it."""
        return self.has == self.wanted.hash and self.sending is None

    @property
    def straggles(self) -> bool:
        """Whether it is connected and does not have what it should."""
        return self.has is not None and self.has != self.wanted.hash

    @property
    def stand(self) -> Stand:
        """For people."""
        if self.has is None:
            return Stand.AWAY
        if self.in_sync:
            return Stand.IN_SYNC
        if self.withheld:
            return Stand.RESTORED_BEHIND
        return Stand.SENDING if self.sending is not None else Stand.WAITING

    @property
    def trouble(self) -> str:
        """Why it does not have what it should, for people."""
        if self.withheld:
            return WITHHELD
        if self.refused:
            return f"it refuses it: {self.refused} (asked again {self.resends} times)"
        return "it has not answered" if self.sending is not None else "it has not been sent to"

    def want(self, wanted: Wanted) -> None:
        """The configuration or the placement changed.  Another state clears what was held against the last."""
        if wanted.hash != self.wanted.hash:
            self.refused, self.retry_at, self._failures = "", None, 0
            self.resends, self._sent, self.since = 0, "", wanted.version
        self.wanted = wanted

    def attached(self, state: str) -> None:
        """A session began; ``state`` is the hash its ``Hello`` named."""
        self.has = state or EMPTY_STATE_HASH
        self.sending = None
        self.retry_at = None
        self._snapshot_next = False

    def detached(self) -> None:
        """Its session ended; whatever was under way is not known to have arrived."""
        self.has, self.sending, self.retry_at = None, None, None
        self._sent = ""

    def acked(self, number: int, state: str) -> bool:
        """It has ``state`` in force; False when that answers nothing that was sent."""
        if self.sending is None or number != self.sending.number:
            return False
        self.sending = None
        self.has = state
        if self.in_sync:
            self.refused, self.retry_at, self._failures = "", None, 0
        return True

    def nacked(self, number: int, reason: str, text: str, state: str, now: float) -> bool:
        """It refused, and ``state`` stays in force."""
        if self.sending is None or number != self.sending.number:
            return False
        about_wanted = self.sending.wanted.hash == self.wanted.hash
        self.sending = None
        self.has = state or EMPTY_STATE_HASH
        if reason in ANEW and self._failures == 0:
            self._snapshot_next = True
            self._failures = 1
        elif about_wanted:
            self._back_off(text or reason, now)
        return True

    def reported(self, state: str, now: float) -> None:
        """Unasked: the data plane has ``state``, not what was acknowledged.  The SE mends it by itself first."""
        self.has = state or EMPTY_STATE_HASH
        if not self.in_sync and self.sending is None:
            self._back_off("the data plane reports another state than was acknowledged", now)

    def _back_off(self, why: str, now: float) -> None:
        self.refused = why
        self.retry_at = now + min(RETRY_CAP_S, RETRY_BASE_S * 2.0 ** min(self._failures, 16))
        self._failures += 1

    def overdue(self, now: float) -> bool:
        """Whether the SE leaves a push unanswered for too long."""
        return self.sending is not None and now - self.sent_at >= PUSH_TIMEOUT_S

    def next_push(self, known: Mapping[str, Mapping[str, str]], now: float) -> Push | None:
        """What to send now, if anything.  ``known``: state hash to its resources' hashes."""
        if self.has is None or self.withheld or self.in_sync or self.sending is not None:
            return None
        if self.retry_at is not None and now < self.retry_at:
            return None
        have = None if self._snapshot_next else known.get(self.has)
        base = None if have is None else self.has
        self._snapshot_next = False
        self.retry_at = None
        self._number += 1
        again, self._sent = self._sent == self.wanted.hash, self.wanted.hash
        self.resends += again
        delta = delta_between(have or {}, self.wanted.resources)
        push = Push(self._number, self.wanted, base, delta, again)
        self.sending, self.sent_at = push, now
        return push


def restored_behind(progress: Progress | None) -> bool:
    """Whether an SE keeps a newer configuration than the one that was restored."""
    return progress is not None and progress.stand is Stand.RESTORED_BEHIND
