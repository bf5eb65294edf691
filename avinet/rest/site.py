"""The HTTP server around a router: twisted.web's Site, with every wait and every buffer bounded.

twisted.web bounds the header (16 KiB, 500 fields) and idle time between bytes.  It does not bound a client that
sends a byte a minute, a body of any length, or a client that never reads its answer; the channel here does:

- headers, and the TLS handshake before them, arrive within ``HEADER_TIMEOUT_S`` of the first byte or go;
- a body may be as long as its route says, known before a byte of it is read, and arrives within
  ``BODY_TIMEOUT_S``; what is over is answered 413 and the rest read and discarded up to a bound, so that the client
  gets to read the answer (most do so only once they have sent all, and closing with unread input would reset the
  connection under it); a first line that is too long is answered 414 in the same way;
- an answer that the client does not read stalls for ``STALL_TIMEOUT_S``, then the connection is cut.

How many connections there may be is ``avinet.rest.connections``'s.  HTTP/2 is left out: one more parser before
authentication, and nothing here needs it.
"""

from typing import Any, cast

from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITCPTransport, ITransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http import HTTPChannel
from twisted.web.server import Request, Site

from avinet.errors import AvinetError
from avinet.rest.access import new_request_id
from avinet.rest.problem import (
    BodyTooLargeError,
    MalformedRequestError,
    SlowRequestError,
    TargetTooLongError,
    TooManyBodiesError,
    problem_of,
)
from avinet.rest.router import Router
from avinet.units import KIB, MIB

HEADER_TIMEOUT_S = 15.0
"""nginx and Apache give 60 and 20; a TLS handshake and one small header take a second on the worst of links."""
BODY_TIMEOUT_S = 30.0
"""64 KiB at 2 KiB/s.  Routes with larger bodies are for operators on better links."""
IDLE_TIMEOUT_S = 60
"""Between requests on a kept-alive connection; the default of twisted.web and of nginx's upstreams."""
STALL_TIMEOUT_S = 60.0
"""The kernel and we hold a few hundred KiB for a client; one that takes none of it for a minute is gone."""
LARGE_BODY_BYTES = 64 * KIB
LARGE_BODIES = 16
"""Under way at once on one surface.  They lie in temporary files until their sender has proved who it is, and 500
connections with 8 MiB each would fill a disk."""
LARGE_RETRY_S = 5.0
LINGER_S = 2.0
"""After a refusal, the answer's last chance to be read: how long the connection may then be silent before it is closed."""
LINGER_BYTES = MIB
"""How much of what follows a refusal is read and thrown away, of any client."""
LONG_LINGER_BYTES = 128 * MIB
"""The same of ``LONG_LINGERS`` at once: a file sent by mistake, whose sender is to learn what was wrong.  To decrypt it
costs us no more than it costs the sender, and none of it is kept."""
LONG_LINGERS = 16
LONG_LINGER_S = 30.0
"""In all: as long as a body that is accepted may take."""


class BoundedChannel(HTTPChannel):
    """One connection.  A deadline is always running except while a request is being handled."""

    site: "BoundedSite"

    def __init__(self) -> None:
        super().__init__()
        self._deadline: IDelayedCall | None = None
        self._stall: IDelayedCall | None = None
        self._refused = False
        self._lingered = 0
        self._linger_end = 0.0
        self._closing = False
        self._lingers_long = False
        self._large = False
        self._at_first_line = True

    @property
    def first_line(self) -> tuple[str, str]:
        """Method and target of the request whose body is arriving; twisted.web tells a request only after it."""
        method, target = (value.decode("ascii", "backslashreplace") for value in (self._command, self._path))
        return method, target

    def connectionMade(self) -> None:
        """Give the first request its time."""
        super().connectionMade()
        self._await_until(HEADER_TIMEOUT_S, self._abort)

    def dataReceived(self, data: bytes) -> None:
        """Parse, unless the request was refused."""
        if self._refused:
            self._discard(len(data))
            return
        if self._deadline is None and not self._handlingRequest:
            self._await_until(HEADER_TIMEOUT_S, self._abort)
        super().dataReceived(data)

    def rawDataReceived(self, data: bytes) -> None:
        """Part of a body, or of requests that wait behind one another."""
        if not self._refused:
            super().rawDataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """A line of a header."""
        if not self._refused:
            # twisted.web, too, forgives an empty line before the first.
            self._at_first_line = self._at_first_line and not line
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """One line has more than its bound, which twisted.web would cut without a word."""
        if self._at_first_line:
            self.refuse(TargetTooLongError(limit=self.MAX_LENGTH))
        else:
            self._respondToBadRequestAndDisconnect()

    def allHeadersReceived(self) -> None:
        """The body's time starts."""
        self._await_until(BODY_TIMEOUT_S, self._body_too_slow)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """The request is whole."""
        if not self._refused:
            self._stop_waiting()
            self._at_first_line = True
            super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """The answer is written, as far as we are concerned; a last one gets time to leave."""
        self._release()
        if not self.persistent:
            self._await_until(STALL_TIMEOUT_S, self._abort)
        super().requestDone(request)

    def pauseProducing(self) -> None:
        """The transport has enough; the client has to read."""
        if self._stall is None:
            self._stall = self.site.clock.callLater(STALL_TIMEOUT_S, self._stalled)
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """The client has read."""
        self._stop_stall()
        super().resumeProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nothing is left to wait for."""
        self._release()
        if self._lingers_long:
            self._lingers_long = False
            self.site.long_lingers -= 1
        self._stop_waiting()
        self._stop_stall()
        super().connectionLost(reason)

    def admit_large(self) -> bool:
        """Whether the request's body may be a large one; it counts until the request is done."""
        if not self._large and self.site.large_bodies < LARGE_BODIES:
            self._large = True
            self.site.large_bodies += 1
        return self._large

    def _release(self) -> None:
        if self._large:
            self._large = False
            self.site.large_bodies -= 1

    def refuse(self, error: AvinetError) -> None:
        """Answer a request that is not whole yet, and end the connection."""
        if self._refused:
            return
        self._refused = True
        problem = problem_of(error)
        body = problem.body()
        headers = {
            **problem.headers(),
            "Content-Length": str(len(body)),
            "Connection": "close",
            "Server": "avinet",
            "X-Request-Id": new_request_id(),
        }
        lines = [
            f"HTTP/1.1 {problem.status} {error.reason}",
            *(f"{n}: {v}" for n, v in headers.items()),
            "",
            "",
        ]
        cast(ITransport, self.transport).write("\r\n".join(lines).encode("ascii") + body)
        self.setTimeout(None)
        self._linger_end = self.site.clock.seconds() + LONG_LINGER_S
        self._await_until(LINGER_S, self._close)

    def _discard(self, size: int) -> None:
        """So many bytes came after the refusal."""
        self._lingered += size
        over = self._lingered > (LONG_LINGER_BYTES if self._may_linger_long() else LINGER_BYTES)
        left_s = self._linger_end - self.site.clock.seconds()
        if over or left_s <= 0:
            self._abort()
        elif self._deadline is not None and not self._closing:
            self._deadline.reset(min(LINGER_S, left_s))

    def _may_linger_long(self) -> bool:
        """It counts from where it needs to until the connection ends."""
        if self._lingered > LINGER_BYTES and not self._lingers_long:
            self._lingers_long = self.site.long_lingers < LONG_LINGERS
            self.site.long_lingers += self._lingers_long
        return self._lingers_long

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(
            MalformedRequestError(what="its first line, a header or its framing is malformed or too long")
        )

    def _send100Continue(self) -> None:
        if not self._refused:
            super()._send100Continue()

    def _body_too_slow(self) -> None:
        self._deadline = None
        self.refuse(SlowRequestError(limit_s=BODY_TIMEOUT_S))

    def _close(self) -> None:
        self._closing = True
        self._await_until(STALL_TIMEOUT_S, self._abort)
        self.loseConnection()

    def _abort(self) -> None:
        self._stop_waiting()
        cast(ITCPTransport, self.transport).abortConnection()

    def _stalled(self) -> None:
        self._stall = None
        self._abort()

    def _await_until(self, seconds: float, then: Any) -> None:
        self._stop_waiting()
        self._deadline = self.site.clock.callLater(seconds, then)

    def _stop_waiting(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    def _stop_stall(self) -> None:
        stall, self._stall = self._stall, None
        if stall is not None and stall.active():
            stall.cancel()


class BoundedRequest(Request):
    """A request whose body is bounded by its route while it arrives."""

    _received = 0
    _limit = 0

    def gotLength(self, length: int | None) -> None:
        """The headers are there: decide how much body there may be."""
        channel = cast(BoundedChannel, self.channel)
        method, target = channel.first_line
        self._limit = channel.site.router.body_limit(method, target)
        # twisted.web opens a temporary file for an unknown or long length; only what may come decides here.
        super().gotLength(self._limit if length is None else min(length, self._limit))
        if length is not None and length > self._limit:
            channel.refuse(BodyTooLargeError(limit=self._limit))
        elif length is not None and length > LARGE_BODY_BYTES:
            self._refuse_unless_admitted()

    def _refuse_unless_admitted(self) -> None:
        channel = cast(BoundedChannel, self.channel)
        if not channel.admit_large():
            channel.refuse(TooManyBodiesError(limit=LARGE_BODIES, retry_after_s=LARGE_RETRY_S))

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body, whether its length was declared or not."""
        self._received += len(data)
        if self._received > self._limit:
            cast(BoundedChannel, self.channel).refuse(BodyTooLargeError(limit=self._limit))
            return
        if self._received > LARGE_BODY_BYTES:
            self._refuse_unless_admitted()
        super().handleContentChunk(data)


class BoundedSite(Site):
    """A Site for one router."""

    _log = Logger()
    protocol = BoundedChannel  # type: ignore[assignment] # Twisted's own way to leave HTTP/2 out
    requestFactory = BoundedRequest

    def __init__(self, router: Router, clock: IReactorTime) -> None:
        super().__init__(router, parsePOSTFormSubmission=False, timeout=IDLE_TIMEOUT_S, reactor=clock)
        self.router = router
        self.large_bodies = 0
        self.long_lingers = 0
        self.clock = clock

    def log(self, request: http.Request) -> None:
        """One line a request; never its query, which may be anything."""
        self._log.debug(
            "{peer} {method} {path} -> {status}",
            peer=getattr(request.getClientAddress(), "host", "local"),
            method=request.method,
            path=request.path,
            status=request.code,
        )
