"""The two log services of a controller: every SE's links, one pool of threads that writes for all of them, one ledger.

Whole segments of all links that wait are made to last together: their fsyncs side by side, one transaction for all.  What
cannot be written now (a full disk, a quota) is told as an event once, and again when it is over.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.log_link import RETRY_S, LogLink
from avinet.controller.log_writes import AnyPart, Writes
from avinet.logs.entries import Segment
from avinet.logs.incoming import IncomingLogs, LogStoreFullError, Swept, is_full
from avinet.logs.incoming_pack import PackPart, Start
from avinet.logs.incoming_part import Part
from avinet.model.events import Level
from avinet.model.ids import SeId
from avinet.model.logs import SegmentHead, SpoolTotals
from avinet.wire.log_messages import PUSHED, Dropped, LogWelcome, Pause, Planned, PullDone, Resume

KEPT_AT_ONCE = 256
"""Files in one transaction; some 100 ms of fsyncs side by side."""
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
    _whole: list[tuple[AnyPart, str, Deferred[None]]] = attrs.field(factory=list, init=False, repr=False)
    """What waits for the ledger."""
    _free: list[Writes] = attrs.field(factory=list, init=False, repr=False)
    _keeping: bool = attrs.field(default=False, init=False)
    _listeners: list[LogListener] = attrs.field(factory=list, init=False, repr=False)
    _trouble: dict[str, IDelayedCall] = attrs.field(factory=dict, init=False, repr=False)
    _held: bool = attrs.field(default=False, init=False)
    """All SEs were told to send nothing."""
    _retry: IDelayedCall | None = attrs.field(default=None, init=False)
    _stopped: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    def build_live(self, peer: Peer) -> IProtocol:
        """The protocol of one channel to ``logs-live``."""
        return LogLink(peer.se, True, self, self.clock)

    def build_bulk(self, peer: Peer) -> IProtocol:
        """The protocol of one channel to ``logs``."""
        return LogLink(peer.se, False, self, self.clock)

    def add_listener(self, listener: LogListener) -> None:
        """Tell it from now on."""
        self._listeners.append(listener)

    def bulk_link(self, se: SeId) -> LogLink | None:
        """Where an SE is asked for logs."""
        return self._links.get((se, False))

    async def start(self) -> None:
        """Before any link: remove what a crash has left."""
        swept = await self.threads.commits.run(self.logs.sweep)
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
        for timer in (*self._trouble.values(), self._retry):
            if timer is not None and timer.active():
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
            partials, kept = self.logs.left_by(link.se, busy)
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
        self._tell(lambda listener: listener.link_ready(link))

    def told(self, link: LogLink, message: Planned | PullDone) -> None:
        """Pass it on."""
        self._tell(lambda listener: listener.told(link, message))

    def arrived(self, link: LogLink, heads: Sequence[SegmentHead], pull: int) -> None:
        """Pass it on."""
        self._tell(lambda listener: listener.arrived(link, heads, pull))

    def flowed(self, link: LogLink, pull: int, size: int) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.flowed(link, pull, size)

    def spool(self, link: LogLink, totals: SpoolTotals, incarnation: str, below: int) -> None:
        """The newest; names that can come no more are forgotten, some at a time."""
        self.spools[link.se] = totals
        self._tell(lambda listener: listener.spooled(link.se))
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
            self._tell(lambda listener: listener.link_lost(link))

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

    # Keeping

    def keep(self, part: AnyPart, pull: str) -> Deferred[None]:
        """With all others that wait."""
        done: Deferred[None] = Deferred()
        self._whole.append((part, pull, done))
        self._keep()
        return done

    def _keep(self) -> None:
        if self._keeping or not self._whole or self._retry is not None or self._stopped:
            return
        self._keeping = True
        batch = self._whole[:KEPT_AT_ONCE]
        keeping = self.threads.commits.run(lambda: self.logs.keep([(part, pull) for part, pull, _ in batch]))

        def kept(_: object) -> None:
            self._keeping = False
            del self._whole[: len(batch)]
            for _, _, done in batch:
                done.callback(None)
            self._keep()

        def failed(failure: Failure) -> None:
            self._keeping = False
            self._report(failure)
            if not self._stopped:
                self._retry = self.clock.callLater(RETRY_S, self._keep_again)

        keeping.addCallbacks(kept, failed).addErrback(
            lambda f: self._log.failure("what was kept could not be told", f)
        )

    def _keep_again(self) -> None:
        self._retry = None
        self._keep()

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
            self._hold(held=True)
        self.emit(code, Level.ERROR, "controller", f"Logs are not taken: {text}", reason=text)

    def _calm(self, text: str) -> None:
        del self._trouble[text]
        if not self._trouble:
            self._hold(held=False)
            self.emit("LOG_STORE_WELL", Level.INFO, "controller", "Logs are taken again.")

    def _hold(self, *, held: bool) -> None:
        """What all SEs have on their way when none of it can be written would be our memory's."""
        if held == self._held:
            return
        self._held = held
        message = Pause(pull=PUSHED) if held else Resume(pull=PUSHED)
        for link in self._links.values():
            if link.ready:
                link.send(message)

    def _tell(self, call: Callable[[LogListener], None]) -> None:
        for listener in self._listeners:
            try:
                call(listener)
            except Exception:  # noqa: BLE001 - one listener's defect must cost neither the link nor the others
                self._log.failure("a listener of the log intake failed")


def _pass_on(result: None, done: Deferred[None]) -> None:
    done.callback(None)
    return result
