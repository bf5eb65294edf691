"""Keeps the SE's request logs flowing from the data plane's files into the spool: on a clock, off the reactor.

All that touches files runs in one thread at a time, a chunk a call; the C code in it lets the reactor run.  The order is
always: rename, have the data plane open its files anew, only then read what was renamed.  So what a predecessor
renamed is read after an order to open anew, and never before.

What fails is tried again, later and later; an operator is told once that it fails, and once that it works again.
"""

import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.dataplane.interface import LogFiles
from avinet.errors import AvinetError, Kind, error
from avinet.logs.spool import Spool, SpoolLimits
from avinet.logs.spool_pieces import Piece
from avinet.logs.throttle import Throttles
from avinet.model.events import Level
from avinet.model.logs import Drop, LogClass
from avinet.se.log_turnover import Turnover
from avinet.sqlite_file import StoreDamagedError
from avinet.trust.files import private_dir

TICK_S = 0.5
"""How often sizes are looked at: at 150 MiB/s a piece grows by 75 MiB meanwhile."""
ENFORCE_S = 60.0
"""How often what is too old is looked for."""
BACKOFF_BASE_S = 1.0
BACKOFF_CAP_S = 10.0
"""Limits are held as often, and what cannot be taken in grows by 1.5 GB meanwhile at 150 MiB/s."""
CODE = "LOG_SPOOL"

InThread = Callable[..., Deferred[Any]]
"""``deferToThread`` or alike: runs a blocking callable with its arguments."""
Tell = Callable[[str, Level, str], None]
"""An event for the operator: code, level, text."""
_T = TypeVar("_T")

_log = Logger()


@error
class SpoolNotReadyError(AvinetError):
    """The log spool of this service engine is not open: {detail}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    detail: str


class LogSource(Protocol):
    """What is asked of the data plane."""

    def log_files(self) -> LogFiles:
        """Where it writes."""

    def reopen_logs(self) -> Deferred[None]:
        """What was renamed before is final when it fires."""


@attrs.define(eq=False)
class LogSpooler:
    """``open_spool`` blocks.  ``stop`` before the data plane is detached."""

    source: LogSource
    open_spool: Callable[[], Spool]
    clock: IReactorTime
    in_thread: InThread
    tell: Tell
    _spool: Spool | None = attrs.field(default=None, init=False)
    _limits: SpoolLimits = attrs.field(factory=SpoolLimits, init=False)
    _throttles: Throttles = attrs.field(factory=Throttles, init=False)
    _opened: list[Callable[[Spool], None]] = attrs.field(factory=list, init=False)
    _watchers: dict[object, Callable[[], None]] = attrs.field(factory=dict, init=False)
    _turns: DeferredLock = attrs.field(factory=DeferredLock, init=False)
    """One job at a time: a tick, a flush, a note."""
    _turnover: Turnover = attrs.field(factory=Turnover, init=False)
    _call: IDelayedCall | None = attrs.field(default=None, init=False)
    _running: bool = attrs.field(default=False, init=False)
    _final: bool = attrs.field(default=False, init=False)
    """The data plane was told after the last rename, so all pieces are final."""
    _damaged: bool = attrs.field(default=False, init=False)
    """The index was found damaged and is to be made anew."""
    _enforce_at: float = attrs.field(default=0.0, init=False)
    _backoff_s: float = attrs.field(default=0.0, init=False)
    _trouble: str = attrs.field(default="", init=False)
    """What was told; empty when all is well."""

    def start(self) -> None:
        """Open the spool and take in what a predecessor left; returns at once."""
        self._running = True
        self._call = self.clock.callLater(0, self._tick)

    async def stop(self) -> None:
        """Finish the chunk under way and close the spool.  A successor takes in what is left."""
        self._running = False
        if self._call is not None and self._call.active():
            self._call.cancel()
        await self._turns.acquire()
        try:
            spool, self._spool = self._spool, None
            if spool is not None:
                await self.in_thread(spool.close)
        finally:
            self._turns.release()

    @property
    def spool(self) -> Spool:
        """``SpoolNotReadyError`` until it is open, and after ``stop``."""
        if self._spool is None:
            raise SpoolNotReadyError(detail=self._trouble or "it is being opened, or closed")
        return self._spool

    def on_open(self, callback: Callable[[Spool], None]) -> None:
        """Call ``callback`` with the spool: now, or once it is open."""
        if self._spool is not None:
            callback(self._spool)
        else:
            self._opened.append(callback)

    def on_segments(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` whenever there are new significant segments; the answer ends that."""
        token = object()
        self._watchers[token] = callback

        def cancel() -> None:
            self._watchers.pop(token, None)

        return cancel

    def configure(self, limits: SpoolLimits, throttles: Throttles) -> None:
        """What is kept, from now on."""
        self._limits, self._throttles = limits, throttles
        self._enforce_at = 0.0
        self._turnover.limit(limits.max_bytes)
        if self._spool is not None:
            self._set(self._spool)

    def flush(self) -> Deferred[int]:
        """Take in all that was logged before; fires with the last segment's counter."""
        return self._turn(self._flush)

    def note(self, drop: Drop) -> Deferred[None]:
        """Lost by others."""
        return self._turn(lambda: self._note(drop))

    async def _note(self, drop: Drop) -> None:
        await self.in_thread(self.spool.note, [drop])

    def _turn(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> Deferred[_T]:
        async def turn() -> _T:
            await self._turns.acquire()
            try:
                return await work()
            except StoreDamagedError:
                self._damaged = True
                raise
            finally:
                self._turns.release()

        return Deferred.fromCoroutine(turn())

    def _tick(self) -> None:
        looking = self._turn(self._look)
        looking.addCallbacks(self._well, self._failed)
        # A failure would end the ticks for good.
        looking.addErrback(lambda f: _log.failure("the log spool's own troubles", f))
        looking.addBoth(self._again)

    def _again(self, _: object) -> None:
        if self._running:
            self._call = self.clock.callLater(max(TICK_S, self._backoff_s), self._tick)

    def _well(self, _: object) -> None:
        self._backoff_s = 0.0
        if self._trouble:
            self._trouble = ""
            self.tell(CODE, Level.INFO, "request logs are taken in again")

    def _failed(self, failure: Failure) -> None:
        self._backoff_s = min(max(BACKOFF_BASE_S, 2 * self._backoff_s), BACKOFF_CAP_S)
        if not failure.check(AvinetError, OSError):
            _log.failure("taking in request logs failed", failure)
        if not self._trouble:
            self._trouble = failure.getErrorMessage()
            self.tell(CODE, Level.ERROR, f"request logs are not taken in: {self._trouble}")

    async def _look(self) -> None:
        if not self._running:
            return
        spool = await self._ready()
        files = self.source.log_files()
        try:
            await self.in_thread(spool.look_after)
            if await self.in_thread(_make_folder, files):
                await self._reopen()
                self.tell(
                    CODE,
                    Level.ERROR,
                    f"request logs are lost, nobody knows how many: {files.folder} was removed",
                )
            waiting = await self.in_thread(_waiting, files)
            for log_class in self._turnover.due(waiting, self.clock.seconds()):
                await self._set_aside(files, log_class)
            await self._take_all(spool)
        except Exception:
            # What cannot be taken in fills the disk as well; what is told is why it cannot.
            with contextlib.suppress(AvinetError, OSError):
                await self._enforce(spool)
            raise
        if self.clock.seconds() >= self._enforce_at:
            await self._enforce(spool)

    async def _enforce(self, spool: Spool) -> None:
        await self.in_thread(partial(spool.enforce, final=self._final))
        self._enforce_at = self.clock.seconds() + ENFORCE_S

    async def _flush(self) -> int:
        spool = self.spool
        files = self.source.log_files()
        # Twice, since what the data plane has in memory goes to the file that it opens anew.
        for _ in range(2):
            for log_class in LogClass:
                await self._set_aside(files, log_class)
            await self._reopen()
        await self._take_all(spool)
        if not self._running:
            raise SpoolNotReadyError(detail="the agent stops")
        return spool.last_counter()

    async def _ready(self) -> Spool:
        if self._spool is None:
            spool: Spool = await self.in_thread(self.open_spool)
            self._set(spool)
            self._spool = spool
            while self._opened:
                self._opened.pop()(spool)
        if self._damaged:
            await self.in_thread(self._spool.repair)
            self._damaged = False
        return self._spool

    def _set(self, spool: Spool) -> None:
        spool.set_limits(self._limits)
        spool.set_throttles(self._throttles)

    async def _set_aside(self, files: LogFiles, log_class: LogClass) -> None:
        if await self.in_thread(files.set_aside, log_class) is not None:
            self._final = False
            self._turnover.taken(log_class)

    async def _reopen(self) -> None:
        await self.source.reopen_logs()
        self._final = True

    async def _take_all(self, spool: Spool) -> None:
        pieces: list[Piece] = await self.in_thread(spool.pieces)
        if pieces and not self._final:
            await self._reopen()
        for piece in pieces:
            await self._take(spool, piece)

    async def _take(self, spool: Spool, piece: Piece) -> None:
        services, done = 0, False
        while not done and self._running:
            taken = await self.in_thread(spool.take_in, piece)
            services = max(services, taken.services)
            done = taken.done
            if taken.segments and piece.log_class is LogClass.SIGNIFICANT:
                for watcher in tuple(self._watchers.values()):
                    watcher()
        if done and piece.log_class is LogClass.FULL:
            self._turnover.made(services)


def _make_folder(files: LogFiles) -> bool:
    """Whether somebody has removed it: the data plane goes on writing to files that nobody can open.  Blocking."""
    if files.folder.is_dir():
        return False
    private_dir(files.folder)
    return True


def _waiting(files: LogFiles) -> dict[LogClass, int]:
    """Bytes in the files that are written now.  Blocking."""
    found = {}
    for log_class in LogClass:
        try:
            found[log_class] = files.current(log_class).stat().st_size
        except FileNotFoundError:
            found[log_class] = 0
    return found
