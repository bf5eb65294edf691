"""Which controller may be sent which segment.  Decisions only.

A segment is **pinned** to the log store that it was begun with: that one may have it, whether it has said so or not.  So it
goes to no other one while the pin holds, which ends only when that store cannot take it any more: its controller has left
the membership list, or says that it has another store now.

What is pushed and not pinned is shared out among the controllers that take it, a virtual service to one of them: by
rendezvous hashing, so that those of one that goes are spread over the others, and nothing else moves.
"""

from collections.abc import Mapping
from hashlib import blake2b

import attrs
import msgspec

from avinet.model.ids import ControllerName, ObjectId
from avinet.model.logs import SegmentHead


class LogStore(msgspec.Struct, frozen=True):
    """A controller's log store; without an ``id`` of a version that does not know which it is."""

    controller: ControllerName
    id: str


class Sendable(msgspec.Struct, frozen=True):
    """A segment, and with which store it was begun before (``Begin.was``)."""

    head: SegmentHead
    was: str = ""


@attrs.frozen
class Reach:
    """What one controller may be sent."""

    store: LogStore
    listed: frozenset[ControllerName] | None
    """The controllers of the membership list; None when that is not known, and no pin ends for it."""
    said: Mapping[ControllerName, str]
    """The store that each said last."""
    owners: tuple[ControllerName, ...] | None = None
    """Among whom virtual services are shared out; None where they are not."""
    sure: bool = False
    """Nothing that may count elsewhere: whether it does cannot be found out at present."""

    def is_own(self, pin: LogStore) -> bool:
        """Whether it is pinned right here."""
        return pin.controller == self.store.controller and self.store.id in {"", pin.id}

    def may_have(self, pin: LogStore) -> bool:
        """Whether it may be sent here, being pinned there.  A version that knows of no pins has only what was its own."""
        return self.is_own(pin) or (bool(self.store.id) and not self.holds(pin))

    def holds(self, pin: LogStore) -> bool:
        """Whether that store may still take it."""
        listed = self.listed is None or pin.controller in self.listed
        return listed and self.said.get(pin.controller, pin.id) in {"", pin.id}

    def owns(self, service: ObjectId) -> bool:
        """Whether this one is to have what is pushed of a virtual service, and is not pinned.

        One of a version that has no store has it only where no other is.
        """
        if self.owners is None:
            return True
        if not self.owners:
            return not self.store.id
        return owner_of(service, self.owners) == self.store.controller


def owner_of(service: ObjectId, controllers: tuple[ControllerName, ...]) -> ControllerName:
    """The one of them that has the service; there must be one."""
    if len(controllers) == 1:
        return controllers[0]
    return max(controllers, key=lambda name: (_weight(service, name), name))


def _weight(service: ObjectId, name: ControllerName) -> bytes:
    return blake2b(f"{service} {name}".encode(), digest_size=8).digest()
