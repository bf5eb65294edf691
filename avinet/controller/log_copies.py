"""Copying: each part of a log that was received is copied to one peer, its keeper, before it is acknowledged.

The keeper is the next live peer in the ring of the members' names, so mostly the same.  It first only holds what it is sent.
The ledger then notes whose copy counts, in the transaction by which the segments themselves count, and after that the keeper is
told.  So a keeper that went away with parts unanswered is no loss: they go to the next one, and when it is back it names what
it holds and is told to drop what counts elsewhere.

Where no peer takes copies, nothing is acknowledged (``hold``), or it is and counts as copied nowhere (``single``).  A controller
that is alone in the membership list copies nothing, and notes nothing.
"""

import enum
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.log_copy_link import CopyJob, CopyLink
from avinet.controller.log_intake import Emit
from avinet.controller.log_sets import STORE
from avinet.controller.log_writes import AnyPart
from avinet.controller.peers import PEER_COPIES, PeerListener, Peers
from avinet.errors import AvinetError
from avinet.logs.copies import CopiesElsewhere, Uncopied
from avinet.logs.ledger_copies import NOWHERE
from avinet.logs.runs import Names, names_of
from avinet.model.events import Level
from avinet.model.ids import ControllerName, SeId
from avinet.wire.copy_messages import Forget

LOOK_S = 2.0
"""Between looks at who is there: for what no event tells, such as a bulk connection that comes back."""
GRACE_S = 5.0
"""Without a keeper until that counts: a peer that was restarted, or the next one, is there by then."""
REST_S = 30.0
"""A peer that said nothing, or has no room, is not tried for so long."""
MAX_TRIES = 3
"""Of a part in which keepers do not find what its heads say: then it is damaged here, and to be sent again."""


class WithoutPeer(enum.StrEnum):
    """What is done while no peer takes copies."""

    HOLD = "hold"
    SINGLE = "single"


@attrs.frozen
class CopyThreads:
    """Where blocking calls run; each returns what its call does."""

    reads: Callable[[Callable[[], Any]], Deferred[Any]]
    commits: Callable[[Callable[[], Any]], Deferred[Any]]
    """The ledger's, one after another."""


@attrs.define(eq=False)
class Copies(PeerListener):
    """One controller's."""

    peers: Peers
    rows: CopiesElsewhere
    threads: CopyThreads
    clock: IReactorTime
    emit: Emit
    without_peer: WithoutPeer = WithoutPeer.HOLD
    hold: Callable[[bool], None] = attrs.field(default=lambda held: None, init=False)
    """Tell SEs that nothing is taken, or that it is again."""
    without: bool = attrs.field(default=False, init=False)
    """Whether no peer has taken copies for a while."""
    uncopied: Uncopied = attrs.field(factory=Uncopied, init=False)
    _links: dict[ControllerName, CopyLink] = attrs.field(factory=dict, init=False, repr=False)
    """Those that are opened, or are being opened."""
    _rests: dict[ControllerName, float] = attrs.field(factory=dict, init=False, repr=False)
    """Until when each is not tried."""
    _waiting: deque[CopyJob] = attrs.field(factory=deque, init=False, repr=False)
    _deciding: dict[CopyJob, ControllerName] = attrs.field(factory=dict, init=False, repr=False)
    """What keepers have, and the ledger has not noted."""
    _keepers: set[ControllerName] = attrs.field(factory=set, init=False)
    """Who has copies, as the ledger says."""
    _begun: bool = attrs.field(default=False, init=False)
    _alone_since: float | None = attrs.field(default=None, init=False)
    _told: Uncopied = attrs.field(factory=Uncopied, init=False)
    _look: IDelayedCall | None = attrs.field(default=None, init=False)
    _stopped: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    def start(self) -> None:
        """Follow who is there."""
        self.peers.listen(self)
        self._look_around()

    def stop(self) -> None:
        """No more."""
        self._stopped = True
        if self._look is not None and self._look.active():
            self._look.cancel()
        for link in tuple(self._links.values()):
            link.cut("this controller stops")

    # What the intake asks

    @property
    def needed(self) -> bool:
        """Whether there is anybody but this controller in the list."""
        return len(self.peers.members) > 1

    def copy(self, part: AnyPart, *, pushed: bool) -> Deferred[ControllerName]:
        """Fires with whose copy is to count, once that is durable; with ``NOWHERE`` when it is to be kept all the same."""
        job = CopyJob(part, pushed)
        self._waiting.append(job)
        self._go()
        return job.done

    def decided(self, keeper: ControllerName, parts: Sequence[AnyPart]) -> None:
        """The ledger has noted whose copies of these count."""
        done = set(parts)
        for job in [one for one in self._deciding if one.part in done]:
            del self._deciding[job]
        if keeper == NOWHERE:
            self._refresh()
            return
        self._keepers.add(keeper)
        link = self._links.get(keeper)
        if link is not None:
            link.confirm_soon()

    def forget(self, se: SeId, incarnation: str, below: int) -> None:
        """The SE's spool has nothing lower any more."""
        if not self.needed:
            return

        def tell(least: int) -> None:
            for link in self._links.values():
                link.forget(Forget(se=se, incarnation=incarnation, below=least))

        self._try(lambda: self.rows.forgettable(se, incarnation, below), tell)

    # What peers tell

    def peer_said(self, name: ControllerName, changes: Mapping[str, Any]) -> None:
        """One that says which store it has keeps copies: not one that is starting, nor one of the version before."""
        if changes.get(STORE):
            self._rests.pop(name, None)
            self._open(name)

    # What links tell

    def greeted(self, link: CopyLink, held: Names, *, new: bool) -> None:
        """See ``LinkUser``."""
        # Before the ledger is asked: what is decided meanwhile is in one of the two.
        parts = [job.part for job, keeper in self._deciding.items() if keeper == link.name]
        deciding = names_of(segment for part in parts for segment in part.segments)

        def look() -> tuple[Names, Names, Uncopied]:
            if new:
                self.rows.lose(link.name)
            owed = self.rows.owed(link.name)
            # What it does not hold any more, it was told in time.
            self.rows.settle(link.name, owed.minus(held))
            return owed, held.minus(held.minus(owed)), self.rows.uncopied()

        def ready(found: tuple[Names, Names, Uncopied]) -> None:
            owed, confirm, self.uncopied = found
            link.ready(confirm, held.minus(owed).minus(deciding))
            link.tell_uncopied(self.uncopied)

        self._try(look, ready)

    def copied(self, link: CopyLink, job: CopyJob) -> None:
        """See ``LinkUser``."""
        self._deciding[job] = link.name
        job.done.callback(link.name)

    def not_copied(self, link: CopyLink, job: CopyJob, why: str) -> None:
        """See ``LinkUser``."""
        job.tries += 1
        self._log.error("{name} does not keep a part of a log: {why}", name=link.name, why=why)
        if job.tries < MAX_TRIES:
            self._waiting.appendleft(job)
            return
        job.part.unwanted = True
        job.done.callback(NOWHERE)

    def no_room(self, link: CopyLink, why: str) -> None:
        """See ``LinkUser``."""
        self._log.warn("{name} keeps no copies of logs now: {why}", name=link.name, why=why)

    def confirming(self, link: CopyLink) -> None:
        """See ``LinkUser``."""
        # The ledger says which: of what came twice the other copy may count.
        self._try(lambda: self.rows.owed(link.name), link.say)

    def settled(self, link: CopyLink, names: Names) -> None:
        """See ``LinkUser``."""
        if names:
            self._try(lambda: self.rows.settle(link.name, names))

    def has_room(self, link: CopyLink) -> None:
        """See ``LinkUser``."""
        self._go()

    def lost(self, link: CopyLink, jobs: Sequence[CopyJob]) -> None:
        """See ``LinkUser``."""
        if self._links.get(link.name) is link:
            del self._links[link.name]
            if link.name in self.peers.live:
                self._rests[link.name] = self.clock.seconds() + REST_S
        self._waiting.extendleft(reversed(jobs))
        self._go()

    # Who

    def _ring(self) -> list[ControllerName]:
        """The others, from the one behind this controller on."""
        others = [name for name in self.peers.members if name != self.peers.me]
        return [name for name in others if name > self.peers.me] + [
            name for name in others if name < self.peers.me
        ]

    def _go(self) -> None:
        """Hand on what waits, to the first keeper that there is."""
        keeper = next((link for name in self._ring() if (link := self._links.get(name)) and link.up), None)
        if keeper is not None and self._alone_since is not None:
            self._alone_since = None
            self._set_without(without=False)
        while self._waiting and not self._stopped:
            if keeper is None:
                if not self.needed or (self.without and self.without_peer is WithoutPeer.SINGLE):
                    self._waiting.popleft().done.callback(NOWHERE)
                    continue
                return
            if not keeper.room:
                return
            keeper.take(self._waiting.popleft())

    def _open(self, name: ControllerName) -> None:
        if name in self._links or self._stopped or self._rests.get(name, 0.0) > self.clock.seconds():
            return
        if STORE not in self.peers.said(name):
            return
        link = self._links[name] = CopyLink(
            name, self.rows.ledger.store_id, self, self.clock, self.threads.reads
        )

        def failed(failure: Failure) -> None:
            if self._links.get(name) is link:
                del self._links[name]
            if not isinstance(failure.value, AvinetError):
                self._log.failure("no channel for copies to {name}", failure, name=name)

        self.peers.open(name, PEER_COPIES, link).addErrback(failed)

    def _look_around(self) -> None:
        self._look = None
        if self.needed:
            self._begin()
            for name in self.peers.live:
                self._open(name)
            self._lose(self._keepers.difference(self.peers.members))
            if not any(link.up for link in self._links.values()):
                now = self.clock.seconds()
                self._alone_since = now if self._alone_since is None else self._alone_since
                if now - self._alone_since >= GRACE_S:
                    self._set_without(without=True)
            if self.uncopied != self._told:
                self._told = self.uncopied
                for link in self._links.values():
                    link.tell_uncopied(self.uncopied)
        else:
            self._alone_since = None
            self._set_without(without=False)
        self._go()
        if not self._stopped:
            self._look = self.clock.callLater(LOOK_S, self._look_around)

    def _begin(self) -> None:
        """Once: what is here from the time when nobody else was."""
        if self._begun:
            return
        self._begun = True

        def begin() -> tuple[set[ControllerName], Uncopied]:
            self.rows.begin()
            return set(self.rows.keepers()) - {NOWHERE}, self.rows.uncopied()

        def known(found: tuple[set[ControllerName], Uncopied]) -> None:
            self._keepers |= found[0]
            self.uncopied = found[1]

        self._try(begin, known)

    def _lose(self, keepers: set[ControllerName]) -> None:
        """They are controllers no more."""
        for name in keepers:
            self._keepers.discard(name)
            self._try(lambda name=name: self.rows.lose(name), lambda _: self._refresh())  # type: ignore[misc]  # of a default argument

    def _refresh(self) -> None:
        def known(found: Uncopied) -> None:
            self.uncopied = found

        self._try(self.rows.uncopied, known)

    def _set_without(self, *, without: bool) -> None:
        if without == self.without:
            return
        self.without = without
        holds = self.without_peer is WithoutPeer.HOLD
        if without and holds:
            text = "No other controller takes copies of request logs: none are acknowledged, and service engines keep them."
            self.emit("LOGS_HELD", Level.WARNING, "controller", text)
        elif without:
            text = "No other controller takes copies of request logs: what comes now is lost with this controller."
            self.emit("LOGS_NOT_COPIED", Level.WARNING, "controller", text)
        else:
            self.emit("LOGS_COPIED_AGAIN", Level.INFO, "controller", "Request logs are copied again.")
        if holds:
            self.hold(without)

    def _try(self, call: Callable[[], Any], then: Callable[[Any], None] = lambda _: None) -> None:
        self.threads.commits(call).addCallback(then).addErrback(
            lambda f: self._log.error("copies of logs are not noted: {why}", why=f.getErrorMessage())
        )
