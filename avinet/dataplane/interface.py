"""What the SE's agent asks of a data plane.

A data plane takes the SE's whole desired state and makes it true, or leaves everything as it was.  It outlives
the agent: ``start`` adopts one that runs already.  What is in force is read back from the data plane itself,
never remembered.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred

from avinet.errors import AvinetError, Kind, error
from avinet.model.resources import Resource


@error
class RejectedError(AvinetError):
    """The data plane does not accept {resource}: {detail}. The configuration in force was left as it was."""

    kind: ClassVar[Kind] = Kind.INVALID
    resource: str
    """Resource name, or empty when the whole is at fault."""
    detail: str


@error
class DataPlaneDownError(AvinetError):
    """The data plane does not answer: {detail}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    detail: str


@attrs.frozen
class ServerStatus:
    """One server of one pool: ``pool`` is a resource name, ``server`` is ``host:port``."""

    pool: str
    server: str
    up: bool
    reason: str = ""


@attrs.frozen
class ServiceCounters:
    """One virtual service's counters since the data plane started; ``service`` is a resource name."""

    service: str
    requests: int = 0
    errors_5xx: int = 0
    connections: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@attrs.frozen
class Status:
    """All that is reported upward at one time."""

    started_at: float
    """UNIX seconds."""
    servers: tuple[ServerStatus, ...]
    services: tuple[ServiceCounters, ...]


class DataPlane(Protocol):
    """One running data plane."""

    @property
    def description(self) -> str:
        """Name and version, such as ``envoy 1.40.0``; empty until started."""

    def start(self) -> Deferred[None]:
        """Adopt the one that runs, else start one; from then on keep it running."""

    def on_restart(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` each time that it was found dead and runs again."""

    def apply(self, state: Mapping[str, Resource]) -> Deferred[None]:
        """Make ``state`` (by resource name) the one in force, whole.

        Fires once the data plane itself confirms it.  ``RejectedError`` names the resource at fault, and then
        what was in force before is in force still, confirmed.  One call at a time.
        """

    def in_force(self) -> Deferred[Mapping[str, str]]:
        """Resource name to resource hash, as the data plane reports them now."""

    def status(self) -> Deferred[Status]:
        """Health and counters now; ``DataPlaneDownError`` when it does not answer."""

    def detach(self) -> Deferred[None]:
        """Stop looking after it and leave it running."""

    def stop(self) -> Deferred[None]:
        """End it, with the traffic it carries; fires when it is gone."""
