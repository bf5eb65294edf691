"""Transactions that are done once, however often their answers are lost.

Every transaction also puts a key of the store's own, its **turn**: compared on the revision of the turn before it,
set to a tag of its own.  So a copy that still lies somewhere (a stopped endpoint's socket) finds the turn taken and
does nothing; and what the turn holds tells whether a transaction without an answer was done.  There are
``TURNS`` turns, each for one transaction at a time.

A transaction that had no answer until its deadline leaves its turn in **doubt**.  Before anything else is begun,
the turn is put once more: then the lost one was done before, or never will be.

The turns lie under a lease of the **session**, so that they go when its process is gone.
"""

import secrets
from collections import deque

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.errors import AvinetError, error
from avinet.store.etcd_gateway import NOT_FOUND, Gateway, RefusedError
from avinet.store.etcd_leases import Leases
from avinet.store.etcd_messages import (
    Keyspace,
    RangeAnswer,
    Request,
    TxnAnswer,
    nested,
    put,
    read,
    unchanged,
)
from avinet.store.interface import (
    NO_LEASE,
    Compare,
    Delete,
    LeaseEndedError,
    LeaseId,
    Operation,
    Outcome,
    Put,
    StoreFullError,
    StoreUnavailableError,
)

TURNS = 32
"""Transactions under way at a time; etcd makes what comes together durable together."""
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""As the embedded store's: over either bound the caller is told to come later."""
SESSION_TTL_S = 600
"""Longer than any transaction waits by far, so that no turn is forgotten while one is in doubt."""
KEEP_ALIVE_S = SESSION_TTL_S / 4
CLOSE_S = 1.0
"""For ending the session; it ends by itself otherwise."""


@error
class _SessionEndedError(AvinetError):
    """The session with etcd has ended."""

    lost: bool
    """Whether a transaction may have been done in it whose answer was lost."""


@attrs.define(eq=False)
class _Turn:
    key: bytes
    revision: int = 0
    taken: int = 0
    doubt: bytes | None = None

    def tag(self) -> bytes:
        self.taken += 1
        return b"%d" % self.taken


@attrs.define(eq=False)
class _Session:
    lease: LeaseId
    free: list[_Turn]
    doubtful: list[_Turn] = attrs.Factory(list)


@attrs.frozen(eq=False)
class _Work:
    compares: tuple[Compare, ...]
    operations: tuple[Operation, ...]
    size: int
    since: float
    done: Deferred[Outcome]


class Turns:
    """The transactions of one store."""

    _log = Logger()

    def __init__(self, gateway: Gateway, keys: Keyspace) -> None:
        self._gateway = gateway
        self._keys = keys
        self._leases = Leases(gateway)
        self._waiting: deque[_Work] = deque()
        self._waiting_bytes = 0
        self._running = 0
        self._session: _Session | None = None
        self._preparing = False
        self._beginning = False
        self._keep_alive: IDelayedCall | None = None
        self._closing: Deferred[None] | None = None

    def transact(
        self, compares: tuple[Compare, ...], operations: tuple[Operation, ...], size: int
    ) -> Deferred[Outcome]:
        """Do a checked transaction of ``size`` bytes."""
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            return fail(self._unavailable("too much work is waiting"))
        work = _Work(compares, operations, size, self._gateway.clock.seconds(), Deferred())
        self._waiting.append(work)
        self._waiting_bytes += size
        self._next()
        return work.done

    async def close(self) -> None:
        """Finish what was asked for, then end the session."""
        if self._waiting or self._running or self._preparing:
            self._closing = Deferred()
            await self._closing
        if self._keep_alive is not None:
            self._keep_alive.cancel()
            self._keep_alive = None
        session, self._session = self._session, None
        if session is not None and session.lease != NO_LEASE:
            try:
                await self._leases.revoke(session.lease, self._gateway.clock.seconds() + CLOSE_S)
            except AvinetError as why:
                self._log.info(
                    "the session with {where} is left to end: {why}", where=self._gateway.where, why=why
                )

    def _next(self) -> None:
        """Begin what can be begun; not from inside itself, since ten thousand that fail at once would nest."""
        if self._beginning:
            return
        self._beginning = True
        while self._begin_one():
            pass
        self._beginning = False
        if self._closing is not None and not (self._waiting or self._running or self._preparing):
            closing, self._closing = self._closing, None
            closing.callback(None)

    def _begin_one(self) -> bool:
        if not self._waiting or self._preparing:
            return False
        session = self._session
        deadline = self._gateway.deadline(self._waiting[0].since)
        if deadline <= self._gateway.clock.seconds():
            self._fail([self._take()], Failure(self._unavailable("nothing was answered while it waited")))
        elif session is None or session.doubtful:
            self._preparing = True
            Deferred.fromCoroutine(self._prepare(session, deadline))
        elif session.free:
            self._running += 1
            Deferred.fromCoroutine(self._run(session, session.free.pop(), self._take(), deadline))
        else:
            return False
        return True

    def _take(self) -> _Work:
        work = self._waiting.popleft()
        self._waiting_bytes -= work.size
        return work

    def _fail(self, works: list[_Work], failure: Failure) -> None:
        for work in works:
            work.done.errback(failure)

    def _unavailable(self, detail: str) -> StoreUnavailableError:
        return StoreUnavailableError(where=self._gateway.where, detail=detail)

    async def _prepare(self, session: _Session | None, deadline: float) -> None:
        try:
            if session is None:
                self._session = await self._begin(deadline)
            else:
                while session.doubtful:
                    await self._settle(session, session.doubtful[-1], deadline)
                    session.free.append(session.doubtful.pop())
        except _SessionEndedError:
            self._session = None
        except Exception:  # noqa: BLE001 - the edge: those who wait are told
            self._fail([self._take() for _ in range(len(self._waiting))], Failure())
        self._preparing = False
        self._next()

    async def _begin(self, deadline: float) -> _Session:
        try:
            lease = await self._leases.grant(SESSION_TTL_S, deadline)
        except StoreFullError:
            lease = NO_LEASE  # what is full must still take deletions; the turns of this session stay behind
        name = secrets.token_hex(8).encode()
        turns = [_Turn(self._keys.own(b"turn/%s/%d" % (name, number))) for number in range(TURNS)]
        session = _Session(lease, turns)
        if lease != NO_LEASE:
            self._keep_alive_later(session)
        return session

    def _keep_alive_later(self, session: _Session) -> None:
        if self._keep_alive is not None and self._keep_alive.active():
            self._keep_alive.cancel()
        self._keep_alive = self._gateway.clock.callLater(KEEP_ALIVE_S, self._keep_session, session)

    def _keep_session(self, session: _Session) -> None:
        self._keep_alive_later(session)
        Deferred.fromCoroutine(self._kept(session))

    async def _kept(self, session: _Session) -> None:
        try:
            lives = await self._leases.keep_alive(session.lease, self._gateway.deadline())
        except AvinetError as why:
            self._log.info(
                "the session with {where} was not renewed: {why}", where=self._gateway.where, why=why
            )
            return
        if not lives and self._session is session:
            self._session = None

    async def _run(self, session: _Session, turn: _Turn, work: _Work, deadline: float) -> None:
        result: Outcome | Failure | None = None
        try:
            result = await self._attempt(session, turn, work, deadline)
        except _SessionEndedError as ended:
            if self._session is session:
                self._session = None
            if ended.lost:
                detail = "the session with it ended, so what became of a lost transaction is not known"
                result = Failure(self._unavailable(detail))
        except RefusedError as refused:
            result = Failure(refused.told())
        except Exception:  # noqa: BLE001 - the edge: who asked is told
            result = Failure()
        (session.free if turn.doubt is None else session.doubtful).append(turn)
        self._running -= 1
        if result is None:
            self._waiting.appendleft(work)
            self._waiting_bytes += work.size
        else:
            work.done.callback(result)  # a Failure becomes an errback
        self._next()

    async def _attempt(self, session: _Session, turn: _Turn, work: _Work, deadline: float) -> Outcome:
        tag = turn.tag()
        turn.doubt = tag
        try:
            reply = await self._gateway.ask(
                "kv/txn", self._request(session, turn, tag, work), TxnAnswer, deadline=deadline
            )
        except RefusedError as refused:
            done_at = None
            if isinstance(refused.means, StoreFullError):
                done_at = await self._done_all_the_same(turn, tag, deadline)
            if done_at is None:
                done_at = await self._surely(session, turn, deadline, lost=refused.lost)
            if done_at is not None:
                return Outcome(succeeded=True, revision=done_at)
            raise await self._meaning(refused, session, work, deadline) from refused
        answer = reply.answer
        outcome = Outcome(succeeded=answer.succeeded, revision=answer.header.revision)
        if answer.succeeded:
            if _turn_was_put(work, answer):
                turn.revision = outcome.revision
                turn.doubt = None
                return outcome
        else:
            done_at = _done_at(turn, tag, answer, lost=reply.lost)
            if done_at is not None:
                turn.revision = done_at
                turn.doubt = None
                return Outcome(succeeded=True, revision=done_at)
        done_at = await self._surely(session, turn, deadline, lost=reply.lost)
        return outcome if done_at is None else Outcome(succeeded=True, revision=done_at)

    async def _done_all_the_same(self, turn: _Turn, tag: bytes, deadline: float) -> int | None:
        """etcd does the transaction that makes it full, and says that it was too full (``quotaApplierV3``)."""
        reply = await self._gateway.ask("kv/range", {"key": turn.key}, RangeAnswer, deadline=deadline)
        if not reply.answer.kvs or reply.answer.kvs[0].value != tag:
            return None
        turn.revision = reply.answer.kvs[0].mod_revision
        turn.doubt = None
        return turn.revision

    async def _surely(self, session: _Session, turn: _Turn, deadline: float, *, lost: bool) -> int | None:
        """Make sure that a transaction which was not done never will be; the revision if it was after all."""
        if lost:
            return await self._settle(session, turn, deadline)
        turn.doubt = None
        return None

    async def _settle(self, session: _Session, turn: _Turn, deadline: float) -> int | None:
        """End a turn's doubt; the revision at which its transaction was done, or None."""
        doubt = turn.doubt
        if doubt is None:
            return None
        settled = doubt + b"!"
        request = {
            "compare": [unchanged(turn.key, turn.revision)],
            # Nested: so it is done even when etcd takes no more puts for want of space.
            "success": [nested((), [put(turn.key, settled, session.lease)], ())],
            "failure": [read(turn.key)],
        }
        try:
            reply = await self._gateway.ask("kv/txn", request, TxnAnswer, deadline=deadline)
        except RefusedError as refused:
            raise _SessionEndedError(lost=True) from refused
        answer = reply.answer
        found = None if answer.succeeded else answer.found()
        if answer.succeeded:
            turn.revision = answer.header.revision
        elif found is None or found.value not in {doubt, settled}:
            raise _SessionEndedError(lost=True)
        else:
            turn.revision = found.mod_revision
        turn.doubt = None
        return turn.revision if found is not None and found.value == doubt else None

    def _request(self, session: _Session, turn: _Turn, tag: bytes, work: _Work) -> Request:
        compares = self._keys.compares(work.compares)
        operations = self._keys.operations(work.operations)
        taking = put(turn.key, tag, session.lease)
        if all(isinstance(operation, Delete) for operation in work.operations):
            # What deletes nothing must cost no revision.  (And etcd's want of space stops no nested put.)
            nothing = [unchanged(self._keys.key(one.key.encode()), 0) for one in work.operations]
            success = [nested(nothing, (), [*operations, taking])]
        else:
            success = [*operations, taking]
        return {
            "compare": [*compares, unchanged(turn.key, turn.revision)],
            "success": success,
            "failure": [read(turn.key)],
        }

    async def _meaning(
        self, refused: RefusedError, session: _Session, work: _Work, deadline: float
    ) -> AvinetError:
        if refused.code == NOT_FOUND:
            for lease in {one.lease for one in work.operations if isinstance(one, Put)} - {NO_LEASE}:
                if not await self._leases.lives(lease, deadline):
                    return LeaseEndedError(lease=lease)
            if session.lease != NO_LEASE and not await self._leases.lives(session.lease, deadline):
                return _SessionEndedError(lost=False)
        return refused.told()


def _turn_was_put(work: _Work, answer: TxnAnswer) -> bool:
    """Whether a done transaction changed anything: one of deletions may not."""
    inner = answer.responses[0].response_txn if answer.responses else None
    return inner is None or not inner.succeeded


def _done_at(turn: _Turn, tag: bytes, answer: TxnAnswer, *, lost: bool) -> int | None:
    """The revision at which an earlier attempt was done, when this one failed; None when none was."""
    found = answer.found()
    if found is not None and found.value == tag:
        return found.mod_revision
    if (found.mod_revision if found is not None else 0) != turn.revision:
        raise _SessionEndedError(lost=lost)
    return None
