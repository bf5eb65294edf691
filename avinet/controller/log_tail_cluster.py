"""Records as they come into the stores of all controllers, as one client's stream.

Each of the others is asked for the next records after a position, and answers once there are some; a page of them waits here
until the client has taken it, and only then the next is asked for.  So a stream holds a page of each controller, whatever its
client does.  An item's id names the position at each controller, ``c1:17,c2:9``: a client that comes back goes on at each
where it was.  One that cannot be asked is told as an item of its own, once, and again when it is back.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from avinet.controller.log_questions import AskTail, LogQuestions, Said
from avinet.controller.log_tail import Arrivals, TailSource, tail_filter
from avinet.logs.query.expressions import Expression
from avinet.logs.query.shapes import Query
from avinet.model.ids import ControllerName
from avinet.rest.problem import InvalidQueryError
from avinet.rest.stream import PAGE, Item, Source

WAIT_S = 15.0
"""For which another controller waits for records until it answers that there are none."""
GRACE_S = 10.0
"""Beyond that it hangs."""
RETRY_S = 2.0
MISSING = "missing"
"""The name of items that say who cannot be asked."""
RECORD = "record"
_log = Logger()


@attrs.frozen(eq=False)
class TailAnswers:
    """What this controller tells others of its ``arrivals``."""

    arrivals: Arrivals
    clock: IReactorTime

    async def answer(self, asked: AskTail) -> Said:
        """The next records after ``after``, or none within ``wait_s``; without ``after``, from where on they will be new."""
        last = self.arrivals.last_number
        if asked.after is None:
            return Said(items=(), last=last)
        source = TailSource(self.arrivals, asked.query.filter, asked.full)
        # A number from the future, of a controller that was made anew, would never be reached.
        after = min(asked.after, last)
        woken: Deferred[None] = Deferred()
        unfollow = self.arrivals.follow(lambda: None if woken.called else woken.callback(None))
        try:
            items = await source.since(after, asked.limit)
            if not items:
                await woken.addTimeout(asked.wait_s, self.clock, onTimeoutCancel=lambda *_: None)
                items = await source.since(after, asked.limit)
        finally:
            unfollow()
        return Said(
            items=tuple((item.number, item.data) for item in items),
            last=items[-1].number if items else max(after, source.looked),
        )


@attrs.frozen(eq=False)
class Tails:
    """Makes clients' streams."""

    arrivals: Arrivals
    questions: LogQuestions

    def source(self, filter_: Expression | None, *, full: bool, since: str) -> tuple[Source, int]:
        """Of records that pass ``filter_``, from after an item's id, or from now on where it is empty; ``InvalidQueryError``."""
        wanted = tail_filter(filter_, full=full)
        own = TailSource(self.arrivals, wanted, full)
        me, last = self.questions.peers.me, self.arrivals.last_number
        positions = _positions(since, me)
        start = positions[me] = min(positions.get(me, last), last)
        if not self.questions.others:
            return own, start
        asked = AskTail(query=Query(filter=wanted), full=full, limit=PAGE, wait_s=WAIT_S)
        return ClusterTail(own, self.questions, asked, positions), start


def _positions(since: str, me: ControllerName) -> dict[ControllerName, int]:
    """Of an item's id: a number alone is of this controller."""
    found = {}
    for part in since.split(",") if since else ():
        name, _, number = part.rpartition(":")
        if not (number.isascii() and number.isdigit() and len(number) < 20):
            raise InvalidQueryError(where="since", what="it is not the id of a record of a tail")
        found[ControllerName(name or me)] = int(number)
    return found


@attrs.define(eq=False)
class ClusterTail:
    """One client's stream of all controllers' records."""

    own: TailSource
    questions: LogQuestions
    asked: AskTail
    positions: dict[ControllerName, int]
    """Up to where the client has everything, by controller; those that are not in it begin with what is new."""
    _followers: dict[ControllerName, "_Follower"] = attrs.field(factory=dict, init=False)
    _woken: Callable[[], None] | None = attrs.field(default=None, init=False)

    def since(self, after: int, limit: int) -> Deferred[Sequence[Item]]:
        """The next ones; ``after`` is what the stream has had of them all along."""
        return Deferred.fromCoroutine(self._since(limit))

    def follow(self, woken: Callable[[], None]) -> Callable[[], None]:
        """Wake the stream when something came anywhere."""
        self._woken = woken
        self._look_who_is_there()
        unfollow = self.own.follow(woken)

        def end() -> None:
            self._woken = None
            unfollow()
            for name in tuple(self._followers):
                self._followers.pop(name).stop()

        return end

    async def _since(self, limit: int) -> Sequence[Item]:
        me, found = self.questions.peers.me, list[Item]()
        self._look_who_is_there()
        for item in await self.own.since(self.positions[me], limit):
            self.positions[me] = item.number
            found.append(self._item(RECORD, msgspec.json.decode(item.data)))
        for name, follower in self._followers.items():
            if len(found) < limit and (why := follower.news()) is not None:
                found.append(self._item(MISSING, {"controller": name, "why": why}))
            for number, data in follower.take(limit - len(found)):
                self.positions[name] = number
                found.append(self._item(RECORD, msgspec.json.decode(data)))
            if follower.position is not None:
                self.positions[name] = follower.position
        return found

    def _item(self, name: str, facts: Mapping[str, Any]) -> Item:
        id_ = ",".join(f"{of}:{number}" for of, number in sorted(self.positions.items()))
        data = msgspec.json.encode({**facts, "id": id_})
        return Item(self.positions[self.questions.peers.me], name, data, id_)

    def _look_who_is_there(self) -> None:
        """Follow those that are new, leave those that are no members any more."""
        if self._woken is None:
            return
        others = self.questions.others
        for name in self._followers.keys() - {*others}:
            self._followers.pop(name).stop()
            self.positions.pop(name, None)
        for name in others:
            if name not in self._followers:
                asked = msgspec.structs.replace(self.asked, after=self.positions.get(name))
                self._followers[name] = _Follower(name, self.questions, asked, self._wake)
                self._followers[name].start()

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken()


@attrs.define(eq=False)
class _Follower:
    """Another controller's records for one stream."""

    name: ControllerName
    questions: LogQuestions
    asked: AskTail
    woken: Callable[[], None]
    _page: deque[tuple[int, bytes]] = attrs.field(factory=deque, init=False, repr=False)
    _taken: Deferred[None] | None = attrs.field(default=None, init=False)
    """Fires when the page was."""
    _why: str = attrs.field(default="", init=False)
    """Why it cannot be asked, while that is so."""
    _told: str = attrs.field(default="", init=False)
    _running: Deferred[None] | None = attrs.field(default=None, init=False)

    @property
    def position(self) -> int | None:
        """Up to where there is nothing that was not taken; None while there is a page, or nobody knows."""
        return None if self._page else self.asked.after

    def start(self) -> None:
        """Ask, again and again."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(lambda f: f.trap(CancelledError) and None)
        self._running.addErrback(lambda f: _log.failure("a tail of {name} ended", f, name=self.name))

    def stop(self) -> None:
        """No more."""
        if self._running is not None:
            self._running.cancel()

    def take(self, limit: int) -> list[tuple[int, bytes]]:
        """So many of the page."""
        found = [self._page.popleft() for _ in range(min(limit, len(self._page)))]
        if not self._page and self._taken is not None:
            taken, self._taken = self._taken, None
            taken.callback(None)
        return found

    def news(self) -> str | None:
        """Why it cannot be asked, or "" when it can again; None where that was told."""
        if self._why == self._told:
            return None
        self._told = self._why
        return self._why

    async def _run(self) -> None:
        while True:
            said = await self.questions.ask(self.name, self.asked, self.asked.wait_s + GRACE_S)
            was, self._why = self._why, "" if said.last is not None else said.why or "it says nothing"
            if bool(was) != bool(self._why):
                self.woken()
            if said.last is None:
                await deferLater(self.questions.clock, RETRY_S)
                continue
            self.asked = msgspec.structs.replace(self.asked, after=said.last)
            if said.items:
                self._page.extend(said.items)
                taken = self._taken = Deferred()
                self.woken()
                await taken
