"""A watch on etcd that outlives its endpoint.

etcd answers a watch with one line of JSON a message, for as long as the connection lasts.  A watch here is a row of
such streams, each begun at the **position**: the last revision that was reported whole.  What an old stream still
says is not heard, and what a new one repeats is dropped, so nothing is reported twice or left out.

A stream that says nothing for ``SILENT_S``, not even that there is nothing, is begun anew: that asks the question
whether it still lives, and brings what it may have withheld.  (An etcd started with
``--experimental-watch-progress-notify-interval`` below ``SILENT_S`` is not troubled so; its own is ten minutes.)

Each stream begins at the position itself, one before what is wanted: a compaction at revision n may drop what was
removed at n, and asking for n - 1 makes etcd say so.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.errors import AvinetError
from avinet.store.etcd_gateway import SHORTEST_PAUSE_S, Gateway, cause_of, is_old_token
from avinet.store.etcd_messages import Event, Keyspace, Request, WatchLine, WatchResult
from avinet.store.interface import Change, CompactedError, StoreUnavailableError

SILENT_S = 5.0
"""As long as one operation may take: a follower is never much staler than a failed read would tell."""
MAX_LINE_BYTES = 16 * 1024 * 1024
"""etcd cuts messages at 1.5 MiB plus 0.5 MiB; small events are up to five times as long in JSON, values 1.4."""
MAX_HELD_BYTES = 64 * 1024 * 1024
"""Of one revision that comes in several messages; a transaction of ours is 1 MiB, a lease may take many keys along."""

MAX_HELD_EVENTS = 500_000
LONGEST_WATCH_PAUSE_S = 2.0
"""Between attempts: soon enough for whoever waits for the quorum to be back."""

_Argument = TypeVar("_Argument")


class _EndedByEtcdError(Exception):
    """etcd ended the watch; its token may have been the reason."""


class _StreamError(Exception):
    """This stream is of no use; another may be."""


class EtcdWatch:
    """One watch; made by ``EtcdStore.watch``, which is told of its end."""

    _log = Logger()

    def __init__(
        self, gateway: Gateway, keys: Keyspace, span: Request, after_revision: int, watcher: "Watcher"
    ) -> None:
        self._gateway = gateway
        self._keys = keys
        self._span = span
        self._asked = after_revision
        self._watcher = watcher
        self._events = EventOrder(after_revision)
        self._cluster = 0
        self._silence: IDelayedCall | None = None
        self._url = ""
        self._stream: Deferred[int] | None = None
        self._failures = 0
        self._said = ""
        gateway.endpoints.listeners.append(self._suspect)
        self._task: Deferred[None] | None = Deferred.fromCoroutine(self._live())
        self._task.addErrback(self._failed)

    def cancel(self) -> None:
        """Stop; no call is made after this."""
        task = self._end()
        if task is not None:
            task.cancel()

    def lose(self, why: AvinetError) -> None:
        """End it, and say why."""
        task = self._end()
        if task is not None:
            task.cancel()
            self._call(self._watcher.on_lost, why)

    def _end(self) -> Deferred[None] | None:
        """The task that is left to be ended; None when that was done."""
        task, self._task = self._task, None
        if task is not None:
            self._gateway.endpoints.listeners.remove(self._suspect)
            self._watcher.on_end(self)
        return task

    def _suspect(self, url: str) -> None:
        """Others have no answer from there: the stream may be as dead, and say nothing either."""
        stream = self._stream
        if url == self._url and stream is not None:
            self._stream = None
            stream.cancel()

    async def _live(self) -> None:
        # In a later turn: nobody is called before ``watch`` has returned.
        await deferLater(self._gateway.clock, 0)
        while True:
            url = self._gateway.endpoints.choose()
            try:
                await self._follow(url)
            except CompactedError as why:
                if self._end() is not None:
                    self._call(self._watcher.on_lost, why)
                return
            except CancelledError:
                raise
            except Exception as why:  # noqa: BLE001 - whatever fails here, another stream may not
                self._gateway.endpoints.failed(url)
                self._say(f"{url}: {cause_of(why)}")
                await deferLater(self._gateway.clock, self._pause())

    async def _follow(self, url: str) -> None:
        """One stream, until it has been silent; any other end is an exception."""
        clock = self._gateway.clock
        token = await self._gateway.timed(self._gateway.token(url))
        request = {
            **self._span,
            # 0 would mean: from now.
            "start_revision": max(1, self._events.position),
            "fragment": True,
            "progress_notify": True,
        }
        stream = _Stream(lambda result: self._took(result, url))
        self._events.again()
        running = self._gateway.post(
            url, "watch", token, msgspec.json.encode({"create_request": request}), stream.take
        )
        self._silence = clock.callLater(self._gateway.attempt_s, running.cancel)
        self._url, self._stream = url, running
        try:
            status = await running
        except CancelledError:
            if self._task is None or not stream.opened:
                raise (CancelledError() if self._task is None else _StreamError("no answer")) from None
        except _EndedByEtcdError:
            self._gateway.forget_token(token)
            raise
        else:
            raise _StreamError(f"it ended with HTTP status {status}")
        finally:
            self._stream = None
            if self._silence.active():
                self._silence.cancel()

    def _took(self, result: WatchResult, url: str) -> None:
        if self._task is None:
            return  # cancelled by the call for the message before, of the same piece
        if self._cluster not in {0, result.header.cluster_id}:
            # Another history, whose revisions mean other things: list again.
            raise CompactedError(revision=self._asked)
        self._cluster = result.header.cluster_id
        if result.compact_revision:
            raise CompactedError(revision=self._asked)
        if result.canceled:
            raise _EndedByEtcdError(result.cancel_reason or "it was ended")
        if self._silence is not None and self._silence.active():
            self._silence.reset(SILENT_S)
        if result.created:
            self._gateway.endpoints.worked(url)
            self._failures = 0
            self._say("")
        events = self._events.take(result)
        changes = tuple(self._keys.change(event) for event in events if not self._keys.is_own(event.kv.key))
        if changes:
            self._call(self._watcher.on_changes, changes)

    def _pause(self) -> float:
        self._failures += 1
        return min(SHORTEST_PAUSE_S * 2.0 ** min(self._failures, 10), LONGEST_WATCH_PAUSE_S)

    def _say(self, why: str) -> None:
        """Each reason once."""
        if why and why != self._said:
            self._log.warn("watching goes on elsewhere or later: {why}", why=why)
        elif self._said and not why:
            self._log.info("watching again")
        self._said = why

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("a watch failed", failure=failure)
            self.lose(
                StoreUnavailableError(where=self._gateway.where, detail="its watch failed; the log says how")
            )

    def _call(self, callback: Callable[[_Argument], None], argument: _Argument) -> None:
        try:
            callback(argument)
        except Exception:  # noqa: BLE001 - the edge between the store and whoever watches
            self._log.failure("a watcher of the store failed")


@attrs.frozen(eq=False)
class Watcher:
    """Who watches."""

    on_changes: Callable[[tuple[Change, ...]], None]
    on_lost: Callable[[AvinetError], None]
    on_end: Callable[[EtcdWatch], None]


class EventOrder:
    """What a watch has reported, and of what comes what it may report: whole revisions, each once."""

    def __init__(self, position: int) -> None:
        self.position = position
        """The last revision that was given out, or is known to hold nothing before what was asked for."""
        self._held: list[Event] = []
        self._held_bytes = 0

    def again(self) -> None:
        """A new stream begins; what the old one left unfinished comes again."""
        self._held = []
        self._held_bytes = 0

    def take(self, result: WatchResult) -> list[Event]:
        """The events to report now; raises when held ones are too many or out of order."""
        if not result.events and not result.created and not self._held:
            # A notice of progress: there is nothing more up to there.
            self.position = max(self.position, result.header.revision)
        events = self._held + [event for event in result.events if event.kv.mod_revision > self.position]
        self.again()
        if any(one.kv.mod_revision > two.kv.mod_revision for one, two in pairwise(events)):
            raise _StreamError("its events are out of order")
        if result.fragment and events:
            # The rest of the last revision may be in the next message.
            last = events[-1].kv.mod_revision
            self._held = [event for event in events if event.kv.mod_revision == last]
            self._held_bytes = sum(len(event.kv.key) + len(event.kv.value) for event in self._held)
            if self._held_bytes > MAX_HELD_BYTES or len(self._held) > MAX_HELD_EVENTS:
                raise _StreamError("one revision is too large")
            events = events[: len(events) - len(self._held)]
        if events:
            self.position = events[-1].kv.mod_revision
        return events


class _Stream:
    """The lines of one answer."""

    def __init__(self, on_result: Callable[[WatchResult], None]) -> None:
        self._on_result = on_result
        self._buffer = bytearray()
        self.opened = False

    def take(self, piece: bytes) -> None:
        """Bytes as they come."""
        searched = len(self._buffer)
        self._buffer += piece
        while (end := self._buffer.find(b"\n", searched)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            searched = 0
            if line:
                self._line(line)
        if len(self._buffer) > MAX_LINE_BYTES:
            raise _StreamError("a message of it is too large")

    def _line(self, line: bytes) -> None:
        try:
            found = msgspec.json.decode(line, type=WatchLine, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError) as why:
            raise _StreamError(f"it is not etcd's: {why}") from why
        if found.result is None:
            message = found.error.message if found.error else "it says nothing that is known"
            raise _EndedByEtcdError(message) if is_old_token(message) else _StreamError(message)
        self.opened = True
        self._on_result(found.result)
