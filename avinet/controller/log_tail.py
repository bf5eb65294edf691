"""Records as they come into the store: each new file of it is asked once, for every client that follows.

A record's number in a stream is when its file came, in milliseconds, and its place in the answer; so a client that comes
back goes on where it was, also at a controller that has been started again, as long as the file is remembered here and
has not been merged into another.  Whoever is slower than that misses records of full logs; the store has them.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from avinet.errors import AvinetError, Kind
from avinet.logs.query.answers import Answer
from avinet.logs.query.expressions import Compare, Expression, Op, every
from avinet.logs.query.shapes import Count, Query, Records
from avinet.model.logs import LogClass
from avinet.rest.stream import Item

REMEMBERED = 1_000
"""Files: an hour of significant segments, stored each few seconds."""
ROW_BITS = 20
"""Places within one file: a million records; the numbers stay below 2**63 until the year 2248."""
MAX_ROWS = 2**ROW_BITS - 2
LOOKED_AT = 64
"""Files that a client who comes back asks about at once, before one by one: most have nothing for a narrow filter."""
LATER = frozenset({Kind.LIMITED, Kind.UNAVAILABLE, Kind.TIMEOUT})
"""The store has too much to do, or its worker is started again."""
_encode = msgspec.msgpack.encode


class Searched(Protocol):
    """A store that can be asked about one file."""

    def ask_files(self, query: Query, names: Sequence[str]) -> Awaitable[Answer]:
        """The answer of these files alone, as far as they are there still."""


@attrs.frozen
class _Arrival:
    at_ms: int
    name: str
    significant: bool


@attrs.define(eq=False)
class Arrivals:
    """The files that came lately.  ``wall`` gives UNIX seconds.

    What several clients ask of a file at the same time is asked once: all are woken by the same file.
    """

    store: Searched
    wall: Callable[[], float]
    _files: deque[_Arrival] = attrs.field(factory=lambda: deque(maxlen=REMEMBERED), init=False)
    _last_ms: int = attrs.field(init=False)
    """Begins with now, so that numbers grow over restarts, too."""
    _woken: list[Callable[[], None]] = attrs.field(factory=list, init=False)
    _asked: dict[tuple[bytes, tuple[str, ...]], list[Deferred[Answer]]] = attrs.field(
        factory=dict, init=False
    )
    """Who waits for which answer."""

    @_last_ms.default
    def _begun(self) -> int:
        begun: int = int(self.wall() * 1_000)
        return begun

    def stored(self, name: str, *, significant: bool = True) -> None:
        """A new file is in the store; whether it may have ``significant`` records."""
        self._last_ms = max(self._last_ms + 1, int(self.wall() * 1_000))
        self._files.append(_Arrival(self._last_ms, name, significant))
        for woken in tuple(self._woken):
            woken()

    def after(self, number: int) -> list[_Arrival]:
        """Those that may hold records after that number, oldest first."""
        at_ms, place = number >> ROW_BITS, number & (2**ROW_BITS - 1)
        return [one for one in self._files if one.at_ms > at_ms or (one.at_ms == at_ms and place <= MAX_ROWS)]

    def ask(self, query: Query, names: tuple[str, ...]) -> Deferred[Answer]:
        """What the store answers of these files."""
        key = (_encode(query), names)
        done: Deferred[Answer] = Deferred()
        if key in self._asked:
            self._asked[key].append(done)
            return done
        self._asked[key] = [done]

        async def asked() -> Answer:
            return await self.store.ask_files(query, names)

        def tell(result: Answer | Failure) -> None:
            for waiting in self._asked.pop(key):
                if not waiting.called:
                    waiting.callback(result)

        # Whoever leaves before the end takes nothing from the others.
        Deferred.fromCoroutine(asked()).addBoth(tell)
        return done

    @property
    def last_number(self) -> int:
        """After everything that came until now."""
        number: int = (self._last_ms << ROW_BITS) | (MAX_ROWS + 1)
        return number

    def follow(self, woken: Callable[[], None]) -> Callable[[], None]:
        """Call ``woken`` when a file comes; the answer ends that."""
        self._woken.append(woken)
        return lambda: self._woken.remove(woken)


def tail_filter(filter_: Expression | None, *, full: bool) -> Expression | None:
    """What a tail shows: significant records, unless the full ones are wanted, too."""
    if full:
        return filter_
    significant = Compare("class", Op.EQUAL, LogClass.SIGNIFICANT.value)
    return significant if filter_ is None else every([significant, filter_])


@attrs.define(eq=False)
class TailSource:
    """One client's stream of records that pass ``filter``; of ``full`` logs, too."""

    arrivals: Arrivals
    filter: Expression | None
    full: bool = False
    _looked: int = attrs.field(default=0, init=False)

    @property
    def looked(self) -> int:
        """Up to which number there is nothing for this client."""
        return self._looked

    def since(self, after: int, limit: int) -> Deferred[Sequence[Item]]:
        """The oldest records after that number."""
        return Deferred.fromCoroutine(self._since(after, limit))

    def follow(self, woken: Callable[[], None]) -> Callable[[], None]:
        """Wake the stream when something came."""
        return self.arrivals.follow(woken)

    async def _since(self, after: int, limit: int) -> Sequence[Item]:
        start, found = max(after, self._looked), list[Item]()
        arrivals = [one for one in self.arrivals.after(start) if self.full or one.significant]
        held: set[str] = set()
        for number, arrival in enumerate(arrivals):
            if number % LOOKED_AT == 0:
                held = await self._holding(arrivals[number : number + LOOKED_AT])
            if arrival.name not in held:
                self._looked = start = (arrival.at_ms << ROW_BITS) + MAX_ROWS + 1
                continue
            base = arrival.at_ms << ROW_BITS
            skip = max(0, start - base)
            try:
                rows, more = await self._rows(arrival.name, skip, limit - len(found))
            except AvinetError as why:
                if why.kind not in LATER:
                    raise
                break  # asked again when the next file comes
            rows = rows[: max(0, MAX_ROWS - skip)]
            found += (_item(base + skip + place, row) for place, row in enumerate(rows, start=1))
            if more:
                break
            # Nothing more is in that file, whether or not something was.
            self._looked = start = base + MAX_ROWS + 1
        return found

    async def _holding(self, arrivals: Sequence[_Arrival]) -> set[str]:
        """Those that may have a record for this client: of many files it is asked at once whether one has."""
        names = tuple(one.name for one in arrivals)
        if len(names) > 1:
            try:
                if not (await self.arrivals.ask(Query(filter=self.filter, shape=Count()), names)).count:
                    return set()
            except AvinetError as why:
                if why.kind not in LATER:
                    raise
        return set(names)

    async def _rows(self, name: str, skip: int, limit: int) -> tuple[Sequence[dict[str, Any]], bool]:
        """As many of the file as there may be, and whether there are more; fewer where they are very large."""
        query = Query(filter=self.filter, shape=Records(limit, None, oldest_first=True, skip=skip))
        try:
            rows = (await self.arrivals.ask(query, (name,))).results or ()
        except AvinetError as why:
            if why.kind is not Kind.TOO_LARGE or limit == 1:
                raise
            # Records of a MiB each, which no client of anybody's makes, must not hide the others.
            return await self._rows(name, skip, limit // 4 or 1)
        return rows, len(rows) >= limit


def _item(number: int, row: dict[str, Any]) -> Item:
    return Item(number, "record", msgspec.json.encode({"id": number, **row}))
