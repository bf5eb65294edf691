"""What one of several processes answers itself and what it hands on: the seam between a router and its cluster.

A router asks its ``Elsewhere`` before it lets a handler of a leader's route work, and how old what it reads may be.  What
was handed on arrives at a surface that only other controllers reach; there ``Origin`` says for whom, and is believed.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import attrs

from avinet.rest.access import Caller
from avinet.rest.route import Request, Response

STALE_HEADER = "X-Avinet-Stale-Seconds"
"""On an answer whose facts may be so old."""
SHOWN_STALE_S = 3.0
"""Less is what answers of several controllers always differ by."""
REASON_HEADER = "X-Avinet-Reason"
"""On an answer to another controller: the refusal's stable word, for the audit of the one that was asked first."""


Do = Callable[[], Awaitable[Response]]
"""Let the route's handler answer."""


class Elsewhere(Protocol):
    """Of one process."""

    @property
    def stale_s(self) -> float:
        """How old what it knows may be."""

    def hand_on(self, request: Request, here: Do) -> Awaitable[Response]:
        """The answer to a request of a leader's route: ``here`` where this process leads, the leader's otherwise.

        Fails with an ``AvinetError`` when it can be done nowhere now.
        """

    def marks(self) -> Mapping[str, str]:
        """Header fields of an answer to a process that handed a request on to this one."""


class Here:
    """The only process there is."""

    stale_s = 0.0

    def hand_on(self, request: Request, here: Do) -> Awaitable[Response]:
        """Everything is done here."""
        return here()

    def marks(self) -> Mapping[str, str]:
        """Nobody hands anything on."""
        return {}


@attrs.frozen(kw_only=True)
class Origin:
    """For whom another process asks."""

    request_id: str
    peer: str
    """The caller's IP address; empty on a UNIX socket."""
    asked_at: str
    """The controller that was asked."""


FindOrigin = Callable[[Caller], Origin | None]


def direct(caller: Caller) -> Origin | None:
    """Nobody asks for others here."""
    return None
