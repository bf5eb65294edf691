"""What a driver does: make the machine of one service engine, keep it, take it away.

The record and its token exist before a driver is asked, and a driver may be asked again for the same record
after a crash: every call is one that can be repeated.
"""

from pathlib import Path
from typing import ClassVar, Protocol

from twisted.internet.defer import Deferred

from avinet.errors import AvinetError, Kind, error
from avinet.model.engine import SeRecord
from avinet.wire.registration import MetaInfo


@error
class CloudError(AvinetError):
    """The cloud {cloud} could not {action} the machine of {se}: {detail}"""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    cloud: str
    action: str
    se: str
    detail: str


@error
class UnknownCloudError(AvinetError):
    """There is no cloud called {cloud}; there are {known}."""

    kind: ClassVar[Kind] = Kind.INVALID
    cloud: str
    known: str


class Cloud(Protocol):
    """One driver."""

    @property
    def name(self) -> str:
        """As records and commands call it."""

    def create(self, record: SeRecord, image: Path, meta: MetaInfo) -> Deferred[None]:
        """Make the machine, or give one that exists new meta-info; fires once it is on its way up."""

    def resume(self, record: SeRecord) -> Deferred[None]:
        """At the controller's start: what the driver itself must keep running runs again."""

    def has(self, record: SeRecord) -> bool:
        """Whether this driver, on this host, keeps its machine."""

    def connected(self, record: SeRecord) -> None:
        """The SE had a session: what it was made from, with its secrets, is of no use any more."""

    def delete(self, record: SeRecord) -> Deferred[None]:
        """Take the machine away; one that is gone already is no error."""

    def stop(self) -> Deferred[None]:
        """At the controller's end."""
