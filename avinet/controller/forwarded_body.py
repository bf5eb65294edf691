"""The body of an answer that another controller gives, passed on as fast as the client reads and no faster."""

from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer, IResponse
from zope.interface import implementer


class _Pipe(Protocol):
    """From the other controller's answer to the client."""

    def __init__(self, body: "ForwardedBody", consumer: IConsumer) -> None:
        self._body = body
        self._consumer = consumer

    def dataReceived(self, data: bytes) -> None:
        """A piece."""
        self._consumer.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, or the way broke."""
        self._body.ended(None if reason.check(ResponseDone, PotentialDataLoss) else reason)


@implementer(IBodyProducer, IPushProducer)
@attrs.define(eq=False)
class ForwardedBody:
    """A streamed body; whoever has it starts or stops it."""

    answer: IResponse
    _pipe: _Pipe | None = attrs.field(default=None, init=False)
    _done: Deferred[None] = attrs.field(factory=Deferred, init=False, repr=False)
    _over: bool = attrs.field(default=False, init=False)

    @property
    def length(self) -> Any:
        """As the other controller said."""
        length = self.answer.length
        return length if isinstance(length, int) else UNKNOWN_LENGTH

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Pass on; fires when all has been, with a failure when the way broke."""
        self._pipe = _Pipe(self, consumer)
        consumer.registerProducer(self, True)
        self.answer.deliverBody(self._pipe)
        return self._done

    def ended(self, failure: Failure | None) -> None:
        """No more comes."""
        if self._over:
            return
        self._over = True
        if failure is None:
            self._done.callback(None)
        else:
            self._done.errback(failure)

    def pauseProducing(self) -> None:
        """The client reads slowly."""
        self._do("pauseProducing")

    def resumeProducing(self) -> None:
        """It has read."""
        self._do("resumeProducing")

    def stopProducing(self) -> None:
        """It is gone, or nobody wants this."""
        if self._pipe is None:
            self._pipe = _Pipe(self, cast("Any", None))
            self.answer.deliverBody(self._pipe)
        self._do("loseConnection")
        self.ended(None)

    def _do(self, what: str) -> None:
        transport: Any = None if self._pipe is None else self._pipe.transport
        if transport is not None and not self._over:
            getattr(transport, what)()
