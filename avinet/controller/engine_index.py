"""The service engines' records in memory: found by UUID, name, key or address, in one place without I/O.

The store has the truth; this is the copy that every question is answered from.  Each record is held with the
store's revision of it, which the next change compares with, so that a stale copy is found out and never
overwrites another controller's decision.

Loopback addresses are handed out here.  An address is free when nobody holds it and, after its SE was deleted,
a rest has passed (``avinet.model.engine.LOOPBACK_REST_S``).  ``reserve`` takes one before the store is asked, so
that two enrolments under way at once get two addresses.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import attrs

from avinet.errors import AvinetError, Kind, error
from avinet.model.engine import LOOPBACK_REST_S, Lifecycle, SeRecord
from avinet.model.ids import SeId, Thumbprint

DEFAULT_LOOPBACK_PREFIX = "127.1"
"""65,534 addresses; another prefix lets two controllers share a machine."""


@error
class LoopbackPrefixError(AvinetError):
    """The loopback prefix {prefix!r} is not usable: it must be 127 followed by one or two numbers from 0 to 255, such as 127.1."""

    kind: ClassVar[Kind] = Kind.INVALID
    prefix: str


@error
class LoopbackExhaustedError(AvinetError):
    """No loopback address under {prefix} is free: {held} are held or rest for a day after a deletion. Delete SEs that are gone, or set a shorter loopback prefix."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    prefix: str
    held: int


@attrs.frozen
class Held:
    """A record and the store's revision of it."""

    record: SeRecord
    revision: int


@attrs.define
class _Address:
    """Who has an address, the revision of its key in the store, and from when another may have it."""

    se: SeId
    revision: int
    free_at: float | None = None


def loopback_hosts(prefix: str) -> tuple[int, int]:
    """First and last address under ``prefix`` as integers; network and broadcast addresses are left out."""
    numbers = prefix.split(".")
    if len(numbers) not in {2, 3} or numbers[0] != "127":
        raise LoopbackPrefixError(prefix=prefix)
    try:
        network = ipaddress.ip_network(f"{prefix}{'.0' * (4 - len(numbers))}/{8 * len(numbers)}")
    except ValueError as failure:
        raise LoopbackPrefixError(prefix=prefix) from failure
    return int(network[1]), int(network[-2])


@attrs.define(eq=False)
class EngineIndex:
    """All records, deleted ones included: their keys are told 410, their addresses rest."""

    prefix: str = DEFAULT_LOOPBACK_PREFIX
    rest_s: float = LOOPBACK_REST_S
    _held: dict[SeId, Held] = attrs.field(factory=dict, init=False, repr=False)
    _by_key: dict[Thumbprint, SeId] = attrs.field(factory=dict, init=False, repr=False)
    _by_name: dict[str, SeId] = attrs.field(factory=dict, init=False, repr=False)
    _addresses: dict[str, _Address] = attrs.field(factory=dict, init=False, repr=False)
    _reserved: set[str] = attrs.field(factory=set, init=False, repr=False)
    _by_image_alone: Counter[str] = attrs.field(factory=Counter, init=False, repr=False)
    _deleted: dict[SeId, float] = attrs.field(factory=dict, init=False, repr=False)
    _range: tuple[int, int] = attrs.field(init=False, repr=False)
    _cursor: int = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._range = loopback_hosts(self.prefix)
        self._cursor = self._range[0]

    def __len__(self) -> int:
        return len(self._held) - len(self._deleted)

    def __iter__(self) -> Iterator[SeRecord]:
        """Every record that is not deleted, oldest first."""
        return (held.record for held in self._held.values() if held.record.lifecycle is not Lifecycle.DELETED)

    def deleted(self) -> tuple[SeRecord, ...]:
        """Every record of a deleted SE that is kept."""
        return tuple(self._held[se].record for se in self._deleted)

    def get(self, se: SeId) -> Held | None:
        """The record of ``se``, deleted ones included."""
        return self._held.get(se)

    def by_name(self, name: str) -> Held | None:
        """The SE that is called ``name`` now."""
        se = self._by_name.get(name)
        return None if se is None else self._held[se]

    def by_key(self, thumbprint: Thumbprint) -> Held | None:
        """The SE, perhaps deleted, that enrolled with this key."""
        se = self._by_key.get(thumbprint)
        return None if se is None else self._held[se]

    def put(self, record: SeRecord, revision: int) -> None:
        """Take what the store has; an older revision than the one held is ignored."""
        before = self._held.get(record.uuid)
        if before is not None:
            if before.revision > revision:
                return
            self._unlink(before.record)
        self._held[record.uuid] = Held(record, revision)
        if record.thumbprint is not None:
            self._by_key[record.thumbprint] = record.uuid
        if record.lifecycle is Lifecycle.DELETED:
            self._deleted[record.uuid] = record.deleted_at or 0.0
        else:
            self._by_name[record.name] = record.uuid
            self._by_image_alone[record.group] += _by_image_alone(record)
        address = self._addresses.get(record.loopback)
        if address is not None and address.se == record.uuid:
            address.free_at = self._free_at(record)

    def revisions(self) -> Iterator[tuple[SeId, int]]:
        """Every record's, deleted ones included."""
        return ((se, held.revision) for se, held in self._held.items())

    def address_revisions(self) -> Iterator[tuple[str, int]]:
        """Every address that is held, or was."""
        return ((address, known.revision) for address, known in self._addresses.items())

    def forget(self, se: SeId) -> None:
        """The store no longer has this record."""
        held = self._held.pop(se, None)
        if held is None:
            return
        self._unlink(held.record)
        if held.record.thumbprint is not None and self._by_key.get(held.record.thumbprint) == se:
            del self._by_key[held.record.thumbprint]

    def _unlink(self, record: SeRecord) -> None:
        self._deleted.pop(record.uuid, None)
        if self._by_name.get(record.name) == record.uuid:
            del self._by_name[record.name]
        if record.lifecycle is not Lifecycle.DELETED:
            self._by_image_alone[record.group] -= _by_image_alone(record)

    def by_image_alone(self, group: str) -> int:
        """How many SEs of ``group`` enrolled by their image's signature alone."""
        return self._by_image_alone[group]

    def oldest_deleted(self, beyond: int) -> Held | None:
        """The SE deleted longest ago, when there are more than ``beyond``."""
        if len(self._deleted) <= beyond:
            return None
        return self._held[min(self._deleted, key=self._deleted.__getitem__)]

    def _free_at(self, record: SeRecord) -> float | None:
        return None if record.deleted_at is None else record.deleted_at + self.rest_s

    def hold_address(self, address: str, se: SeId, revision: int) -> None:
        """Take from the store that ``se`` has ``address``."""
        held = self._held.get(se)
        free_at = 0.0 if held is None else self._free_at(held.record)
        self._addresses[address] = _Address(se, revision, free_at)

    def address_revision(self, address: str) -> int:
        """The revision of the address's key in the store, 0 when it has none."""
        known = self._addresses.get(address)
        return 0 if known is None else known.revision

    def reserve(self, now: float) -> str:
        """A free address, kept for the caller until ``hold_address`` and ``release``."""
        first, last = self._range
        for _ in range(last - first + 1):
            address = str(ipaddress.IPv4Address(self._cursor))
            self._cursor = first if self._cursor >= last else self._cursor + 1
            if self._is_free(address, now):
                self._reserved.add(address)
                return address
        raise LoopbackExhaustedError(prefix=self.prefix, held=len(self._addresses))

    def _is_free(self, address: str, now: float) -> bool:
        if address in self._reserved:
            return False
        known = self._addresses.get(address)
        return known is None or (known.free_at is not None and known.free_at <= now)

    def release(self, address: str) -> None:
        """End a reservation, whether it was used or not."""
        self._reserved.discard(address)


def _by_image_alone(record: SeRecord) -> bool:
    return record.token is None and record.thumbprint is not None
