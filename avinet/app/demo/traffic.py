"""Light, steady traffic to the demo's virtual service, and what came of it."""

import collections

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.web.client import Agent, readBody
from twisted.web.http_headers import Headers

REQUESTS_A_SECOND = 20
"""Enough to see it spread; a few percent of one core."""
ANSWER_TIMEOUT_S = 5.0
MAX_UNDER_WAY = 100
"""Requests not yet answered; beyond it new ones are counted as failed rather than piled up."""


@attrs.define
class Traffic:
    """Sends ``GET`` to one URL until stopped."""

    clock: IReactorTime
    agent: Agent
    url: str
    answered: collections.Counter[str] = attrs.field(factory=collections.Counter, init=False)
    """By the first line of the body: which server answered."""
    failed: int = attrs.field(default=0, init=False)
    last_failure: str = attrs.field(default="", init=False)
    _under_way: int = attrs.field(default=0, init=False)
    _loop: LoopingCall = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._loop = LoopingCall(self._send)
        self._loop.clock = self.clock

    def start(self) -> None:
        """Begin sending."""
        self._loop.start(1 / REQUESTS_A_SECOND, now=True)

    def stop(self) -> None:
        """Send no more; answers under way are still counted."""
        if self._loop.running:
            self._loop.stop()

    def _send(self) -> None:
        # The Deferred is not returned: a slow answer must not hold up the next request.
        if self._under_way >= MAX_UNDER_WAY:
            self.failed += 1
            self.last_failure = f"more than {MAX_UNDER_WAY} requests wait for an answer"
            return
        Deferred.fromCoroutine(self._one())

    async def _one(self) -> None:
        self._under_way += 1
        try:
            body = await Deferred.fromCoroutine(self._ask()).addTimeout(ANSWER_TIMEOUT_S, self.clock)
        except Exception as failure:  # noqa: BLE001 - any failure at all is what is counted here
            self.failed += 1
            self.last_failure = f"{type(failure).__name__}: {failure}"
        else:
            self.answered[body.decode("utf-8", "replace").split("\n", 1)[0]] += 1
        finally:
            self._under_way -= 1

    async def _ask(self) -> bytes:
        response = await self.agent.request(
            b"GET", self.url.encode(), Headers({b"user-agent": [b"avinet-demo"]})
        )
        body: bytes = await readBody(response)
        if response.code != 200:
            message = f"status {response.code}"
            raise ValueError(message)
        return body
