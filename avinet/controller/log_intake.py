"""The two log services of a controller: every SE's links, one pool of threads that writes for all of them, one ledger.

Whole segments of all links that wait are made to last together: their fsyncs side by side, one transaction for all.  What
cannot be written now (a full disk, a quota) is told as an event once, and again when it is over.
"""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.listeners import Listeners
from avinet.controller.log_link import LogLink
from avinet.controller.log_settling import Copier, Settling
from avinet.controller.log_writes import AnyPart, Writes
from avinet.logs.entries import Segment
from avinet.logs.incoming import IncomingLogs, LogStoreFullError, Swept, is_full
from avinet.logs.incoming_pack import PackPart, Start
from avinet.logs.incoming_part import Part
from avinet.logs.runs import Names, names_of
from avinet.model.events import Level
from avinet.model.ids import SeId
from avinet.model.logs import SegmentHead, SpoolTotals
from avinet.wire.log_messages import PUSHED, Dropped, LogWelcome, Pause, Planned, PullDone, Resume

FREE_BUFFERS = 4
"""2.5 MiB each; a link at full speed uses two."""
FORGOTTEN_AT_ONCE = 1_000
"""Segments whose names the ledger forgets in one transaction; some 300 bytes each."""
MAX_TROUBLES = 100
"""Kinds of trouble at once: a quota names the SE."""
CALM_S = 30.0
"""Without trouble until it counts as over."""

Emit = Callable[..., None]


class Peer(Protocol):
    """Who opened the channel (``avinet.ssh.services.ChannelPeer``)."""

    @property
    def se(self) -> SeId:
        """Whose key logged in."""


class Runner(Protocol):
    """Threads that take calls in order (``avinet.store.threads``)."""

    def run(self, call: Callable[[], Any]) -> Deferred[Any]:
        """The call's result."""


class LogListener:
    """Base of those who want to know; every method may be left out."""

    def link_ready(self, link: LogLink) -> None:
        """An SE offers what is pulled, or pushes."""

    def link_lost(self, link: LogLink) -> None:
        """Not any more."""

    def told(self, link: LogLink, message: Planned | PullDone) -> None:
        """About a pull."""

    def arrived(self, link: LogLink, heads: Sequence[SegmentHead], pull: int) -> None:
        """Segments are here for good; ``pull`` is 0 when they were pushed."""

    def flowed(self, link: LogLink, pull: int, size: int) -> None:
        """So many bytes came for a pull; they may come again."""

    def spooled(self, se: SeId) -> None:
        """It said anew what it keeps."""


@attrs.frozen
class Threads:
    """Where blocking calls run."""

    writes: Runner
    """Two, for all links, first come, first served."""
    commits: Runner
    """One: fsyncs, the ledger, and whatever else must wait for neither."""


@attrs.define(eq=False)
class LogIntake:
    """The service.  ``wall`` gives UNIX seconds, ``name_of`` an SE's name for people."""

    logs: IncomingLogs
    threads: Threads
    clock: IReactorTime
    wall: Callable[[], float]
    emit: Emit
    name_of: Callable[[SeId], str] = lambda se: se
    copier: Copier | None = None
    """Has what is kept copied to another controller first; None where there can be none."""
    elsewhere: Callable[[str, Names], Coroutine[Any, Any, Names | None]] | None = attrs.field(
        default=None, init=False
    )
    """Which segments count already, in a store that their SE began them with, or a copy of it (``Claims.had``)."""
    spools: dict[SeId, SpoolTotals] = attrs.field(factory=dict, init=False)
    """What SEs keep, as they said last."""
    _links: dict[tuple[SeId, bool], LogLink] = attrs.field(factory=dict, init=False, repr=False)
    """The welcomed ones, and those that are to be."""
    _ending: set[LogLink] = attrs.field(factory=set, init=False, repr=False)
    """Whose threads are not done."""
    _forgotten: dict[tuple[SeId, str], int] = attrs.field(factory=dict, init=False, repr=False)
    """Of each spool: names with lower counters are forgotten."""
    _claims: dict[tuple[SeId, str], tuple[LogLink, AnyPart]] = attrs.field(
        factory=dict, init=False, repr=False
    )
    _settling: Settling = attrs.field(init=False, repr=False)
    _free: list[Writes] = attrs.field(factory=list, init=False, repr=False)
    _listeners: Listeners[LogListener] = attrs.field(
        factory=lambda: Listeners("the log intake"), init=False, repr=False
    )
    _trouble: dict[str, IDelayedCall] = attrs.field(factory=dict, init=False, repr=False)
    _held: set[str] = attrs.field(factory=set, init=False)
    """Why all SEs were told to send nothing, if they were."""
    _stopped: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    @_settling.default
    def _new_settling(self) -> Settling:
        def in_thread(call: Callable[[], Any]) -> Deferred[Any]:
            return self.threads.commits.run(call)

        return Settling(self.logs, in_thread, self.clock, self._report, self.copier)

    def build_live(self, peer: Peer) -> IProtocol:
        """The protocol of one channel to ``logs-live``."""
        return LogLink(peer.se, True, self, self.clock)

    def build_bulk(self, peer: Peer) -> IProtocol:
        """The protocol of one channel to ``logs``."""
        return LogLink(peer.se, False, self, self.clock)

    def add_listener(self, listener: LogListener) -> None:
        """Tell it from now on."""
        self._listeners.add(listener)

    def bulk_link(self, se: SeId) -> LogLink | None:
        """Where an SE is asked for logs."""
        return self._links.get((se, False))

    async def start(self) -> None:
        """Before any link: remove what a crash has left."""
        copied = self._settling.copies
        swept = await self.threads.commits.run(lambda: self.logs.sweep(copied=copied))
        if swept != Swept():
            self._log.info("files of received logs that no ledger had: {swept}", swept=swept)
        if self.logs.ledger.damage is not None and (swept.segments or swept.unreadable):
            self.emit(
                "LOG_SEGMENTS_FOUND",
                Level.ERROR if swept.unreadable else Level.WARNING,
                "controller",
                f"{swept.segments} segments of logs that had been received when the ledger was damaged are taken in, with"
                f" {swept.records} records; {swept.unreadable} files could not be read, and are in logs/bad.",
                reason="ledger",
                records=swept.records,
            )

    async def stop(self) -> None:
        """Take nothing more; what is whole is kept if the disk lets us."""
        self._stopped = True
        self._settling.stop()
        for timer in self._trouble.values():
            if timer.active():
                timer.cancel()
        self._trouble.clear()
        links = (*self._links.values(), *self._ending)
        for link in links:
            link.cut("")
        await DeferredList([link.ended for link in links])

    # LinkOwner

    def buffer(self) -> Writes:
        """One that is free, or a new one: idle links have none."""
        return self._free.pop() if self._free else Writes()

    def give_back(self, writes: Writes) -> None:
        """Some are kept, since making one costs as much as filling it."""
        writes.clear()
        if len(self._free) < FREE_BUFFERS:
            self._free.append(writes)

    def write(self, writes: Writes) -> Deferred[None]:
        """In the pool of all links."""
        return self.threads.writes.run(partial(writes.run, self.logs))

    def counted(self, store: str, segments: Sequence[Segment]) -> Deferred[Names | None]:
        """As others know it; without others as this controller's ledger does, which has been asked."""
        if self.elsewhere is None or store == self.logs.ledger.store_id:
            return succeed(Names())
        return Deferred.fromCoroutine(self.elsewhere(store, names_of(segments))).addErrback(self._not_looked)

    def _not_looked(self, failure: Failure) -> None:
        self._log.failure("whether segments count elsewhere is not known", failure)

    def discard(self, part: AnyPart) -> Deferred[None]:
        """In the pool of all links."""
        return self.threads.writes.run(part.discard).addErrback(
            lambda f: self._log.error("a part is not removed: {why}", why=f.getErrorMessage())
        )

    def part(self, segment: Segment, offset: int) -> Part:
        """Its file."""
        return self.logs.part(segment, offset)

    def pack(self, se: SeId, start: Start) -> PackPart:
        """Its file."""
        return self.logs.pack(se, start)

    def claim(self, link: LogLink, part: AnyPart) -> bool:
        """One link writes a segment at a time."""
        keys = [(link.se, name) for name in part.names]
        if any(held[0] is not link for key in keys if (held := self._claims.get(key)) is not None):
            return False
        self._claims.update(dict.fromkeys(keys, (link, part)))
        return True

    def release(self, part: AnyPart) -> None:
        """Not any more."""
        for name in part.names:
            held = self._claims.get((part.se, name))
            if held is not None and held[1] is part:
                del self._claims[part.se, name]

    def welcome(self, link: LogLink, incarnation: str) -> Deferred[LogWelcome]:
        """Once an older link of the same kind has let go of its files."""
        key = (link.se, link.live)
        older, self._links[key] = self._links.get(key), link
        waiting: list[Deferred[Any]] = []
        if older is not None:
            older.cut("a newer channel took its place")
        for ending in (*self._ending, *(() if older is None else (older,))):
            if (ending.se, ending.live) == key:
                done: Deferred[None] = Deferred()
                ending.ended.addCallback(_pass_on, done)
                waiting.append(done)

        def look() -> LogWelcome:
            partials, kept = self.logs.left_by(link.se, busy, copied=self._settling.copies)
            ledger = self.logs.ledger
            return LogWelcome(
                partials=partials,
                kept=kept,
                drops_position=ledger.drops_position(link.se, incarnation),
                last_counter=ledger.last_counter(link.se, incarnation),
                batches=True,
                store=ledger.store_id,
            )

        busy: set[str] = set()

        def ask(_: object) -> Deferred[Any]:
            busy.update(name for se, name in self._claims if se == link.se)
            return self.threads.commits.run(look)

        return DeferredList(waiting).addCallback(ask) if waiting else ask(None)

    def add_drops(self, link: LogLink, message: Dropped) -> Deferred[None]:
        """In the ledger."""
        at_us = int(self.wall() * 1e6)
        ledger = self.logs.ledger
        adding: Deferred[Any] = self.threads.commits.run(
            lambda: ledger.add_drops(link.se, message.incarnation, message.position, message.drops, at_us)
        )
        return adding.addCallback(lambda _: None)

    def link_ready(self, link: LogLink) -> None:
        """Pass it on."""
        if self._held:
            link.send(Pause(pull=PUSHED))
        self._listeners.tell(lambda listener: listener.link_ready(link))

    def told(self, link: LogLink, message: Planned | PullDone) -> None:
        """Pass it on."""
        self._listeners.tell(lambda listener: listener.told(link, message))

    def arrived(self, link: LogLink, heads: Sequence[SegmentHead], pull: int) -> None:
        """Pass it on."""
        self._listeners.tell(lambda listener: listener.arrived(link, heads, pull))

    def flowed(self, link: LogLink, pull: int, size: int) -> None:
        """Pass it on."""
        self._listeners.tell(lambda listener: listener.flowed(link, pull, size))

    def spool(self, link: LogLink, totals: SpoolTotals, incarnation: str, below: int) -> None:
        """The newest; names that can come no more are forgotten, some at a time."""
        self.spools[link.se] = totals
        self._listeners.tell(lambda listener: listener.spooled(link.se))
        known = self._forgotten.get((link.se, incarnation), 0)
        if below < known + FORGOTTEN_AT_ONCE:
            return
        self._forgotten = {key: at for key, at in self._forgotten.items() if key[0] != link.se}
        self._forgotten[link.se, incarnation] = below
        forgetting = self.threads.commits.run(partial(self.logs.ledger.forget, link.se, incarnation, below))
        forgetting.addErrback(
            lambda f: self._log.error(
                "what {se} let go of is not forgotten: {why}", se=link.se, why=f.getErrorMessage()
            )
        )
        if self.copier is not None:
            self.copier.forget(link.se, incarnation, below)

    def link_lost(self, link: LogLink, why: str, broke: str) -> None:
        """It may come back; an SE that broke the protocol is an event."""
        self._ending.add(link)
        link.ended.addCallback(lambda _: self._ending.discard(link))
        if broke and not self._stopped and self._links.get((link.se, link.live)) is link:
            self.emit(
                "LOG_CHANNEL_CUT",
                Level.WARNING,
                link.se,
                f"A log channel of service engine {self.name_of(link.se)} was cut: {broke}.",
                reason=broke,
            )
        if self._links.get((link.se, link.live)) is link:
            del self._links[link.se, link.live]
            self._listeners.tell(lambda listener: listener.link_lost(link))

    def forget(self, se: SeId) -> None:
        """It is deleted."""
        self.spools.pop(se, None)
        for live in (True, False):
            link = self._links.get((se, live))
            if link is not None:
                link.cut("")
        self.threads.commits.run(partial(self.logs.forget, se)).addErrback(
            lambda f: self._log.failure("what {se} left is not removed", f, se=se)
        )

    def keep(self, part: AnyPart, pull: str) -> Deferred[None]:
        """With all others that wait."""
        return self._settling.keep(part, pull)

    # Trouble

    def held_up(self, link: LogLink, why: Failure) -> None:
        """Tell it once."""
        self._report(why)

    def _report(self, failure: Failure) -> None:
        why = failure.value
        if not is_full(why) and not isinstance(why, OSError):
            self._log.failure("logs cannot be kept", failure)
        text = str(why)
        code = "LOG_STORE_FULL" if is_full(why) else "LOG_STORE_FAILED"
        timer = self._trouble.get(text)
        if timer is not None and timer.active():
            timer.reset(CALM_S)
            return
        if self._stopped or len(self._trouble) >= MAX_TROUBLES:
            return
        self._trouble[text] = self.clock.callLater(CALM_S, self._calm, text)
        if not (isinstance(why, LogStoreFullError) and why.se):
            self.hold("the disk", held=True)
        self.emit(code, Level.ERROR, "controller", f"Logs are not taken: {text}", reason=text)

    def _calm(self, text: str) -> None:
        del self._trouble[text]
        if not self._trouble:
            self.hold("the disk", held=False)
            self.emit("LOG_STORE_WELL", Level.INFO, "controller", "Logs are taken again.")

    def hold(self, why: str, *, held: bool) -> None:
        """What all SEs have on their way when none of it can be kept would be our memory's."""
        before = bool(self._held)
        (self._held.add if held else self._held.discard)(why)
        if bool(self._held) == before:
            return
        message = Pause(pull=PUSHED) if held else Resume(pull=PUSHED)
        for link in self._links.values():
            if link.ready:
                link.send(message)


def _pass_on(result: None, done: Deferred[None]) -> None:
    done.callback(None)
    return result
