"""What happened, told once: events get an id, become durable, and only then reach whoever follows them.

Like events that have a ``reason`` (same code, subject and reason) within a window are one: the first is told at
once, what follows is counted, and when the window ends one more event says how many there were (``count``).  So an
operator sees the first refusal of an attack within the second, and ten thousand more as one line.  Events without a
reason are facts that nobody outside can cause at will (an SE is up, then down, then up): each is told.

An event that was seen is never lost: followers are called after the log's fsync, so no id is seen that a crash
would use again.  While the log cannot be written (disk full), events wait in bounded memory and the log of the
process has them already; what exceeds the bound is counted, and the count is an event once there is room.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from avinet.model.events import Event, Level

WINDOW_S = 60.0
"""Short enough to see a change of rate, long enough to make a storm a line."""
MAX_WINDOWS = 1_000
"""Kinds of events being coalesced at once.  Over it the oldest window ends early, so strangers cannot grow it."""
MAX_REASONS = 8
"""Reasons of one subject that are told apart at once.  Some are a peer's own words (a user's name, a port it asked
for, why it refused a configuration): without this bound each would be an event, and push the rest out of the log."""
MAX_PENDING = 10_000
"""Events that wait for the disk; some 10 MiB."""
MAX_TEXT = 2_000
"""Characters of a sentence; a rejected configuration's reason fits, a megabyte of a peer's garbage does not."""
MAX_SUBJECT = 200
"""Characters; a UUID with its prefix is 60 at most, an IPv6 address 45."""
MAX_FACTS_BYTES = 8 * 1024
"""As JSON; a peer's notice may be a whole frame of a MiB, and ten thousand of those would be all our memory."""
GATHER_S = 0.05
"""From the begin of one write of the log to the next, so that whoever changes a hundred things a second does not have as
many fsyncs of two logs beside those of the store.  The first event after a pause is written at once."""
RETRY_S = 5.0
"""Between tries at a log that cannot be written."""

_LEVELS = {Level.INFO: LogLevel.info, Level.WARNING: LogLevel.warn, Level.ERROR: LogLevel.error}
_OTHER = ""
"""Stands for every reason beyond ``MAX_REASONS``."""
_Key = tuple[str, str, str]


class Log(Protocol):
    """Where events are kept; ``avinet.store.eventlog.EventLog`` is one."""

    def last_id(self) -> int:
        """The newest durable event's id."""

    def append(self, events: Sequence[Event]) -> Deferred[None]:
        """Make events durable."""

    def since(self, after_id: int, limit: int = ...) -> Deferred[tuple[Event, ...]]:
        """Events after ``after_id``, oldest first."""


class MemoryLog:
    """The fake: a log that forgets when the process ends."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def last_id(self) -> int:
        """The newest event's id."""
        return self.events[-1].id if self.events else 0

    def append(self, events: Sequence[Event]) -> Deferred[None]:
        """Keep events."""
        self.events.extend(events)
        return succeed(None)

    def since(self, after_id: int, limit: int = 1_000) -> Deferred[tuple[Event, ...]]:
        """Events after ``after_id``."""
        return succeed(tuple(event for event in self.events if event.id > after_id)[:limit])


@attrs.define(eq=False)
class _Window:
    """What came after a first event."""

    ends: IDelayedCall
    last: dict[str, Any] | None = None
    count: int = 0


class Events:
    """The controller's events.  ``wall`` gives UNIX seconds, for people; windows count by ``clock``.

    ``gather_s``: no write of the log begins sooner after the one before it.
    """

    _log = Logger()

    def __init__(
        self, log: Log, clock: IReactorTime, gather_s: float = 0.0, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._durable = log
        self._clock = clock
        self._gather_s = gather_s
        self._wall = wall
        self._next_id = log.last_id() + 1
        self._windows: dict[_Key, _Window] = {}
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._pending: deque[Event] = deque()
        self._writing: Deferred[None] | None = None
        self._wrote_at = -math.inf
        """When the last write began."""
        self._later: IDelayedCall | None = None
        """The next write, where it is not to be now."""
        self._followers: dict[object, Callable[[Event], None]] = {}
        self._dropped = 0
        self.counts: Counter[str] = Counter()
        """Since the start, by code; of like events that are told as one, each."""
        self._stopped = False
        self._idle: Deferred[None] | None = None

    def emit(self, code: str, level: Level, subject: str, text: str, **facts: Any) -> None:
        """Something happened.  With a fact called ``reason``, it is counted together with its like."""
        fields = {
            "at": self._wall(),
            "code": code,
            "level": level,
            "subject": subject[:MAX_SUBJECT],
            "text": text[:MAX_TEXT],
            "facts": _plain(facts),
        }
        if "reason" not in facts:
            self._add(fields, 1)
            return
        about = (code, subject[:MAX_SUBJECT])
        key = (*about, str(facts["reason"])[:MAX_SUBJECT])
        if key not in self._windows and self._reasons[about] >= MAX_REASONS:
            key = (*about, _OTHER)
        window = self._windows.get(key)
        if window is not None:
            window.count += 1
            window.last = fields
            return
        if len(self._windows) >= MAX_WINDOWS:
            self._end(next(iter(self._windows)))
        self._windows[key] = _Window(self._clock.callLater(WINDOW_S, self._end, key))
        self._reasons[about] += 1
        self._add(fields, 1)

    def follow(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``callback`` with each event once it is durable, in order; the answer ends that."""
        token = object()
        self._followers[token] = callback

        def cancel() -> None:
            self._followers.pop(token, None)

        return cancel

    def since(self, after_id: int, limit: int = 1_000) -> Deferred[tuple[Event, ...]]:
        """Durable events after ``after_id``, oldest first."""
        return self._durable.since(after_id, limit)

    def last_id(self) -> int:
        """The newest durable event's id."""
        return self._durable.last_id()

    async def stop(self) -> None:
        """Tell what was being counted, then make all of it durable if the disk lets us."""
        for key in list(self._windows):
            self._end(key)
        self._stopped = True
        if self._later is not None:
            self._later.cancel()
            self._write_now()
        while self._writing is not None:
            self._idle = Deferred()
            await self._idle

    def _end(self, key: _Key) -> None:
        window = self._windows.pop(key)
        code, subject, reason = key
        self._reasons[code, subject] -= 1
        if not self._reasons[code, subject]:
            del self._reasons[code, subject]
        if window.ends.active():
            window.ends.cancel()
        if window.last is not None:
            if window.count > 1:
                like = "times" if reason else "of the kind, for one reason or another"
                window.last["text"] = f"{window.last['text']} ({window.count} {like})"
            self._add(window.last, window.count)

    def _add(self, fields: dict[str, Any], count: int) -> None:
        self._log.emit(
            _LEVELS[fields["level"]],
            "{code} {subject}: {text}",
            code=fields["code"],
            subject=fields["subject"],
            text=fields["text"],
            count=count,
        )
        self.counts[fields["code"]] += count
        if len(self._pending) >= MAX_PENDING:
            self._dropped += 1
            return
        self._pending.append(Event(id=self._next_id, count=count, **fields))
        self._next_id += 1
        self._write()

    def _write(self) -> None:
        if self._writing is not None or self._later is not None or not self._pending:
            return
        wait_s = min(self._wrote_at + self._gather_s - self._clock.seconds(), self._gather_s)
        if wait_s > 0 and not self._stopped:
            self._later = self._clock.callLater(wait_s, self._write_now)
        else:
            self._write_now()

    def _write_now(self) -> None:
        self._later = None
        self._wrote_at = self._clock.seconds()
        batch = tuple(self._pending)
        self._writing = done = self._durable.append(batch)
        done.addCallbacks(self._written, self._failed, callbackArgs=(batch,))

    def _written(self, result: None, batch: tuple[Event, ...]) -> None:
        self._writing = None
        for _ in batch:
            self._pending.popleft()
        for event in batch:
            for callback in list(self._followers.values()):
                try:
                    callback(event)
                except Exception:  # noqa: BLE001 - one faulty follower must not silence the others
                    self._log.failure("a follower of events failed")
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            text = f"{dropped} events were lost while the event log could not be written"
            self.emit("EVENTS_DROPPED", Level.ERROR, "controller", text, dropped=dropped)
        self._write()
        self._wake()

    def _failed(self, failure: Failure) -> None:
        self._writing = None
        self._log.error("the event log cannot be written: {why}", why=failure.getErrorMessage())
        if not self._stopped:
            self._later = self._clock.callLater(RETRY_S, self._write_now)
        self._wake()

    def _wake(self) -> None:
        """Let ``stop`` look again whether all is written."""
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.callback(None)


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """A copy of JSON data alone, within bounds."""
    encoded = msgspec.json.encode(facts, enc_hook=str)
    if len(encoded) > MAX_FACTS_BYTES:
        return {"reason": str(facts.get("reason", ""))[:MAX_SUBJECT], "omitted_bytes": len(encoded)}
    plain: dict[str, Any] = msgspec.json.decode(encoded)
    return plain
