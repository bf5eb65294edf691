"""Who may log in over SSH: the in-memory index, and the files for OpenSSH that say the same.

``AuthorizedKeys`` is what the SSH server asks; it changes at once with an SE's record.  ``authorized_keys`` and
``known_hosts`` are written from it for a stock sshd and the OpenSSH client.  Writing costs a rendering of all
lines and two fsyncs, so changes are gathered: one is written at once, those that come meanwhile go together when
the writer has rested as long as it took.  Whoever must not answer before the files tell of a change waits for
``written``.  A crash between loses nothing, since everything is rendered anew from the store at start.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.model.engine import Lifecycle, SeRecord
from avinet.model.ids import SeId
from avinet.trust.authorized_keys import AuthorizedKeys, Permit, known_hosts_line, render_all
from avinet.trust.files import write_public

MAX_REST_S = 2.0
"""Between two writes, however slow the disk is: an SE that has just enrolled waits for the next one."""
RETRY_S = 10.0
"""After a failed write (a full disk): often enough to be right soon after it is freed."""

InThread = Callable[[Callable[[], None]], Deferred[None]]
"""Runs a blocking call elsewhere: ``lambda call: deferToThread(call)``."""

LOGS_IN = frozenset({Lifecycle.ENROLLED, Lifecycle.DISABLED})

_log = Logger()


@attrs.frozen
class PermitRules:
    """What every SE's line has in common."""

    reverse_port: int
    permit_open: tuple[tuple[str, int], ...]
    """The services' addresses, as an SE asks for them."""
    networks: Callable[[str], tuple[str, ...]] = attrs.field(default=lambda _: ())
    """A group's ``allowed_networks`` by the group's name."""


@attrs.frozen
class PermitFiles:
    """Where the two files go."""

    authorized_keys: Path
    known_hosts: Path


@attrs.define(eq=False)
class Permits:
    """Keeps index and files in step with the records; ``start`` allows writing, ``stop`` finishes it."""

    rules: PermitRules
    files: PermitFiles
    clock: IReactorTime
    in_thread: InThread
    keys: AuthorizedKeys = attrs.field(factory=AuthorizedKeys)
    _known_hosts: dict[SeId, str] = attrs.field(factory=dict, init=False, repr=False)
    _dirty: bool = attrs.field(default=False, init=False)
    _timer: IDelayedCall | None = attrs.field(default=None, init=False)
    _writing: Deferred[None] | None = attrs.field(default=None, init=False)
    _running: bool = attrs.field(default=False, init=False)
    _failing: bool = attrs.field(default=False, init=False)
    _rest_until: float = attrs.field(default=0.0, init=False)
    _waiting: list[Deferred[None]] = attrs.field(factory=list, init=False, repr=False)

    def update(self, record: SeRecord) -> None:
        """Bring the index to what ``record`` says now; the files follow."""
        if record.lifecycle in LOGS_IN and record.se_key:
            permit = Permit(
                se=record.uuid,
                key=record.se_key,
                loopback=record.loopback,
                reverse_port=self.rules.reverse_port,
                permit_open=self.rules.permit_open,
                networks=self.rules.networks(record.group),
            )
            known = known_hosts_line(record.loopback, self.rules.reverse_port, record.host_key)
            if self.keys.by_se(record.uuid) == permit and self._known_hosts.get(record.uuid) == known:
                # Most changes of records, and every change of configuration, come here: nothing to write.
                return
            self.keys.put(permit)
            self._known_hosts[record.uuid] = known
        elif record.uuid in self._known_hosts:
            self.keys.remove(record.uuid)
            del self._known_hosts[record.uuid]
        else:
            return
        self._changed()

    def update_all(self, records: Iterable[SeRecord]) -> None:
        """After the groups' networks changed."""
        for record in records:
            self.update(record)

    def start(self) -> None:
        """From now on the files are written, once at least."""
        self._running = True
        self._changed()

    def written(self) -> Deferred[None]:
        """Fires, and never fails, once the files have what the index has now, or could not be written.

        The latter is no reason to wait: the server asks the index, and the files are tried again.
        """
        if not self._running or self._failing:
            return succeed(None)
        if self._dirty:
            self._waiting.append(Deferred())
            return self._waiting[-1]
        return _shared(self._writing) if self._writing is not None else succeed(None)

    async def stop(self) -> None:
        """Write what is still to be written, then stop."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await _shared(self._writing)
        if self._dirty:
            last = self.in_thread(self._snapshot())
            last.addErrback(self._failed)
            await last
        self._tell(self._take_waiting())

    def _changed(self) -> None:
        self._dirty = True
        if self._running and self._timer is None and self._writing is None:
            rest_s = max(0.0, self._rest_until - self.clock.seconds())
            self._timer = self.clock.callLater(rest_s, self._write)

    def _take_waiting(self) -> list[Deferred[None]]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def _tell(self, waiting: list[Deferred[None]]) -> None:
        for one in waiting:
            one.callback(None)

    def _snapshot(self) -> Callable[[], None]:
        # 8,000 lines take 40 ms to render; here is only what must be of one moment.
        permits, known = self.keys.permits(), list(self._known_hosts.values())
        files = self.files

        def write() -> None:
            write_public(files.authorized_keys, render_all(permits).encode())
            write_public(files.known_hosts, "".join(line + "\n" for line in known).encode())

        self._dirty = False
        return write

    def _write(self) -> None:
        self._timer = None
        begun, waiting = self.clock.seconds(), self._take_waiting()
        written = self.in_thread(self._snapshot())
        self._writing = written
        written.addCallback(lambda _: self._rest(self.clock.seconds() - begun))
        written.addErrback(self._failed)
        written.addCallback(self._written, waiting)

    def _rest(self, took_s: float) -> None:
        self._failing = False
        self._rest_until = self.clock.seconds() + min(took_s, MAX_REST_S)

    def _failed(self, failure: Failure) -> None:
        _log.error(
            "could not write {path}: {why}",
            path=str(self.files.authorized_keys),
            why=failure.getErrorMessage(),
        )
        self._dirty = self._failing = True
        self._rest_until = self.clock.seconds() + RETRY_S

    def _written(self, _: None, waiting: list[Deferred[None]]) -> None:
        self._writing = None
        if self._dirty:
            self._changed()
        self._tell(waiting)


def _shared(source: Deferred[None]) -> Deferred[None]:
    """A Deferred of one's own that fires with ``source`` and leaves its result to it."""
    if source.called:
        return succeed(None)
    mine: Deferred[None] = Deferred()

    def fire(result: None) -> None:
        mine.callback(None)
        return result

    source.addBoth(fire)
    return mine
