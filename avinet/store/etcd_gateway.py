"""Asking etcd: which endpoint, which token, how long, and what an error means.

An operation has one deadline and as many attempts as fit in it, each at the endpoint that is best believed in: the
first of the list that has not failed lately.  Everything asked here may be asked twice (``avinet.store.etcd_turns``
sees to it for transactions), and an answer says whether an attempt before it was lost, so that its effect may
still come.
"""

import math
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Generic, TypeVar

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from avinet.errors import AvinetError, Kind, error
from avinet.store.etcd_http import EtcdAccess, GatewayHttp
from avinet.store.etcd_messages import AuthAnswer, Failed, Request
from avinet.store.interface import StoreFullError, StoreLimitError, StoreUnavailableError

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Of one answer: the largest value is 1 MiB, 1.4 MiB as base64; listings come in pages that adapt to this."""
SHORTEST_PENALTY_S = 1.0
LONGEST_PENALTY_S = 15.0
"""How long an endpoint that failed is asked last; doubled each time, so that a stopped one costs an attempt's time
seldom, and a restarted one is back soon."""
SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.5
"""Between rounds through all endpoints."""

_HTTP_OK = 200
NOT_FOUND, EXISTS, COMPACTED = 5, 9, 11
"""gRPC's not found, failed precondition, out of range, as etcd uses them."""
_UNKNOWN, _PERMISSION = 2, 7
_FOR_LATER = {1, 2, 4, 8, 10, 13, 14}
"""gRPC's canceled, unknown, deadline exceeded, resource exhausted, aborted, internal, unavailable: another attempt
may do."""
_OLD_TOKEN = (
    "invalid auth token",
    "revision of auth store is old",
    "user name is empty",
)
_NO_PASSWORDS = "etcdserver: authentication is not enabled"

_Answer = TypeVar("_Answer")


@error
class EtcdUnansweredError(StoreUnavailableError):
    """The cluster's store does not answer, so it may have no quorum ({where}: {detail}). Nothing is known to have changed; try again later. See: avinet cluster status."""


@error
class RefusedError(AvinetError):
    """etcd refused: {detail}."""

    kind: ClassVar[Kind] = Kind.INTERNAL
    code: int
    detail: str
    where: str
    means: AvinetError | None = None
    """What the store's users are told, where that is clear."""
    lost: bool = False
    """Whether the answer of an attempt before this was lost."""

    def told(self) -> AvinetError:
        """What the store's users are told."""
        return self.means or StoreUnavailableError(where=self.where, detail=self.detail)


@error
class AnswerTooLargeError(AvinetError):
    """An answer of etcd is larger than {limit} bytes."""

    limit: int


@attrs.frozen
class Reply(Generic[_Answer]):
    """An answer, and whether that of an attempt before it was lost."""

    answer: _Answer
    lost: bool


class _AgainError(Exception):
    """This attempt failed, another may not."""

    def __init__(self, why: str, *, lost: bool = True, elsewhere: bool = True) -> None:
        super().__init__(why)
        self.lost = lost
        """Whether it may have been done all the same, now or later."""
        self.elsewhere = elsewhere
        """Whether the endpoint is to blame."""


@attrs.define
class _Endpoint:
    url: str
    until: float = 0.0
    penalty_s: float = 0.0
    failed_at: float = -math.inf

    def may_be_asked(self, now: float) -> bool:
        """Whether its penalty is over, or the clock was set back since."""
        return not now < self.until <= now + LONGEST_PENALTY_S


class Endpoints:
    """Which endpoint is asked."""

    def __init__(self, urls: tuple[str, ...], clock: IReactorTime) -> None:
        self._clock = clock
        self._all = [_Endpoint(url.rstrip("/")) for url in urls]
        self.listeners: list[Callable[[str], None]] = []
        """Told of an endpoint that failed: whoever waits for its word may ask elsewhere."""

    def __len__(self) -> int:
        return len(self._all)

    def choose(self) -> str:
        """The first that did not fail lately; the one whose penalty is over first when all did."""
        now = self._clock.seconds()
        best = next((one for one in self._all if one.may_be_asked(now)), None)
        if best is None:
            return min(self._all, key=lambda one: one.until).url
        if best.penalty_s:
            best.until = now + best.penalty_s  # one request tries it, not all that come meanwhile
        return best.url

    def worked(self, url: str) -> None:
        """An answer came from there."""
        for one in self._all:
            if one.url == url:
                one.until = one.penalty_s = 0.0

    def failed(self, url: str) -> None:
        """None came, or none of use."""
        now = self._clock.seconds()
        for one in self._all:
            # Many requests that one failure took along count once.
            if one.url == url and abs(now - one.failed_at) >= SHORTEST_PENALTY_S:
                one.failed_at = now
                one.penalty_s = min(max(one.penalty_s * 2, SHORTEST_PENALTY_S), LONGEST_PENALTY_S)
                one.until = now + one.penalty_s
        for listener in list(self.listeners):
            listener(url)


class Gateway:
    """A client of etcd's gateway."""

    def __init__(self, access: EtcdAccess, http: GatewayHttp, clock: IReactorTime) -> None:
        if not access.endpoints:
            raise StoreUnavailableError(where="etcd", detail="no endpoint is given")
        self.access = access
        self.clock = clock
        self.endpoints = Endpoints(access.endpoints, clock)
        self.where = f"etcd at {', '.join(access.endpoints)}"
        self._http = http
        self._token = ""
        self._no_passwords = False
        self._token_lock = DeferredLock()
        self._answered_at = -math.inf

    @property
    def attempt_s(self) -> float:
        """For one attempt: a third, so that a stopped endpoint leaves time for two others.

        With one endpoint as well: what etcd was given in the moment when its leader went it keeps without an answer for
        as long as we would wait; asked again, it answers as soon as it has another.
        """
        return self.access.timeout_s / 3

    def deadline(self, since: float = math.inf) -> float:
        """Of an operation that begins now and has waited ``since`` then.

        While etcd answers it has its whole time, however long the queue was; else what is left of it.
        """
        now = self.clock.seconds()
        answers = abs(now - self._answered_at) < self.access.timeout_s
        return (now if answers else min(since, now)) + self.access.timeout_s

    async def ask(
        self,
        path: str,
        request: Request,
        answer: type[_Answer],
        *,
        deadline: float | None = None,
        adapts: bool = False,
    ) -> Reply[_Answer]:
        """One operation, whatever it takes until the deadline.

        ``RefusedError`` when etcd says so; ``StoreUnavailableError`` when there was no answer in time.  Who
        ``adapts`` is told of an ``AnswerTooLargeError`` and asks for less.
        """
        ends = self.deadline() if deadline is None else deadline
        body = msgspec.json.encode(request)
        lost = False
        attempts = 0
        why = "there was no time to ask"
        while (left := ends - self.clock.seconds()) > 0:
            url = self.endpoints.choose()
            try:
                found = await self.timed(self._attempt(url, path, body, answer), left)
            except _AgainError as again:
                why = f"{url}: {again}"
                lost = lost or again.lost
                if again.elsewhere:
                    self.endpoints.failed(url)
            except AnswerTooLargeError as large:
                if adapts:
                    raise
                why, lost = f"{url}: {large}", True
                self.endpoints.failed(url)
            except RefusedError as refused:
                self._answered(url)
                refused.lost = lost
                raise
            else:
                self._answered(url)
                return Reply(found, lost)
            attempts += 1
            if attempts % len(self.endpoints) == 0:
                await self._pause(attempts // len(self.endpoints), ends)
        raise EtcdUnansweredError(where=self.where, detail=why)

    async def token(self, url: str) -> str:
        """What proves who we are; asked for when there is none."""
        if self._token or not self.access.user or self._no_passwords:
            return self._token
        await self._token_lock.acquire()
        try:
            if not self._token and not self._no_passwords:
                self._token = await self._authenticate(url)
        finally:
            self._token_lock.release()
        return self._token

    def forget_token(self, token: str) -> None:
        """It is not taken any more."""
        if token == self._token:
            self._token = ""
            self._no_passwords = False

    def post(
        self, url: str, path: str, token: str, body: bytes, on_piece: Callable[[bytes], None]
    ) -> Deferred[int]:
        """A request as it is, for watches."""
        return self._http.post(f"{url}/v3/{path}", token, body, on_piece)

    def close(self) -> Deferred[None]:
        """Let go of every connection."""
        return self._http.close()

    def _answered(self, url: str) -> None:
        self._answered_at = self.clock.seconds()
        self.endpoints.worked(url)

    async def _attempt(self, url: str, path: str, body: bytes, answer: type[_Answer]) -> _Answer:
        token = await self.token(url)
        status, found = await self._whole(url, path, token, body)
        if status == _HTTP_OK:
            decoded = _decoded(found, answer)
            # What is a stream says so inside.
            failed: Failed | None = getattr(decoded, "error", None)
            if failed is None:
                return decoded
        else:
            failed = failure_of(status, found)
        if is_old_token(failed.message) or (failed.code == _PERMISSION and not token and self.access.user):
            self.forget_token(token)
            raise _AgainError(failed.message, lost=False, elsewhere=False)
        raise error_of(failed, self.where)

    async def _authenticate(self, url: str) -> str:
        try:
            password = self.access.password_file.read_text().strip() if self.access.password_file else ""
        except OSError as why:
            raise StoreUnavailableError(where=self.where, detail=f"its password file: {why}") from why
        request = msgspec.json.encode({"name": self.access.user, "password": password})
        status, found = await self._whole(url, "auth/authenticate", "", request)
        if status == _HTTP_OK:
            return _decoded(found, AuthAnswer).token
        failed = failure_of(status, found)
        if failed.message == _NO_PASSWORDS:
            self._no_passwords = True
            return ""
        wrong = error_of(failed, self.where)
        if isinstance(wrong, _AgainError):
            wrong.lost = False
            raise wrong
        raise StoreUnavailableError(where=self.where, detail=f"user {self.access.user}: {failed.message}")

    async def _whole(self, url: str, path: str, token: str, body: bytes) -> tuple[int, bytes]:
        received = bytearray()

        def take(piece: bytes) -> None:
            received.extend(piece)
            if len(received) > MAX_ANSWER_BYTES:
                raise AnswerTooLargeError(limit=MAX_ANSWER_BYTES)

        try:
            status = await self.post(url, path, token, body, take)
        except (AvinetError, CancelledError):
            raise
        except ConnectError as why:
            raise _AgainError(str(why), lost=False) from why
        except Exception as why:  # HTTP and TLS have many ways to fail
            raise _AgainError(cause_of(why)) from why
        return status, bytes(received)

    async def timed(self, attempt: Coroutine[Any, Any, _Answer], left_s: float = math.inf) -> _Answer:
        """Give an attempt its time."""
        seconds = min(left_s, self.attempt_s)
        running = Deferred.fromCoroutine(attempt)
        # HTTP tells of a cancelling in words of its own, from which neither a timeout nor whoever gave up could be told.
        given_up = False

        def give_up(_: object) -> None:
            nonlocal given_up
            given_up = True
            running.cancel()

        def settle(result: Any) -> None:
            outcome.callback(Failure(CancelledError()) if given_up else result)

        outcome: Deferred[_Answer] = Deferred(give_up)
        running.addBoth(settle)
        timer = self.clock.callLater(seconds, running.cancel)
        try:
            return await outcome
        except Exception as why:
            if timer.active():
                raise
            raise _AgainError(f"no answer in {seconds:.1f} s") from why
        finally:
            if timer.active():
                timer.cancel()

    async def _pause(self, rounds: int, ends: float) -> None:
        seconds = min(SHORTEST_PAUSE_S * 2 ** min(rounds - 1, 10), LONGEST_PAUSE_S)
        await deferLater(self.clock, min(seconds, max(0.0, ends - self.clock.seconds())))


def _decoded(data: bytes, kind: type[_Answer]) -> _Answer:
    try:
        return msgspec.json.decode(data, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
        raise _AgainError(f"its answer is not etcd's: {why}") from why


def failure_of(status: int, body: bytes) -> Failed:
    """What an answer other than 200 says."""
    try:
        failed = _decoded(body, Failed)
    except _AgainError:
        said = body[:200].decode("ascii", "backslashreplace").strip()
        return Failed(code=_UNKNOWN, message=f"HTTP status {status}: {said}")
    return failed if failed.code else Failed(code=_UNKNOWN, message=failed.message or f"HTTP status {status}")


def error_of(failed: Failed, where: str) -> "_AgainError | RefusedError":
    """What to raise: another attempt is worth it, or not."""
    code = failed.code or failed.grpc_code
    means: AvinetError | None = None
    if "database space exceeded" in failed.message:
        means = StoreFullError(where=where, detail=failed.message)
    elif "request is too large" in failed.message:
        means = StoreLimitError(detail=f"{where} takes smaller requests only")
    elif "not supported for learner" in failed.message:
        return _AgainError(failed.message, lost=False)
    elif code in _FOR_LATER:
        return _AgainError(failed.message)
    return RefusedError(code=code, detail=failed.message, where=where, means=means)


def is_old_token(message: str) -> bool:
    """Whether a new token would help."""
    return any(text in message for text in _OLD_TOKEN)


def cause_of(why: BaseException) -> str:
    """What lies behind a failure of HTTP, which hides it in lists of reasons."""
    reasons = getattr(why, "reasons", None)
    return cause_of(reasons[0].value) if reasons else str(why) or type(why).__name__
