"""What a transaction may hold, checked the same way by every store before it does anything.

The limits are etcd's (``avinet.store.interface``), enforced by the embedded stores too, so that code which works
on one machine does not first fail on a cluster.
"""

from collections.abc import Sequence

from avinet.store.interface import (
    FENCE_KEY,
    MAX_KEY_BYTES,
    MAX_TXN_BYTES,
    MAX_TXN_OPS,
    Compare,
    Operation,
    Put,
    StoreLimitError,
)

MIN_LEASE_TTL_S = 1.0
"""etcd counts leases in whole seconds."""
MAX_LEASE_TTL_S = 9_000_000_000.0
"""etcd's own limit."""


def check_key(key: str) -> bytes:
    """``key`` as the bytes it is stored and ordered by."""
    try:
        encoded = key.encode()
    except UnicodeEncodeError as why:
        raise StoreLimitError(detail=f"the key {key!a} is not valid Unicode") from why
    if not encoded or b"\0" in encoded:
        raise StoreLimitError(detail="a key is empty or has a NUL in it")
    if len(encoded) > MAX_KEY_BYTES:
        raise StoreLimitError(detail=f"a key of {len(encoded)} bytes; {MAX_KEY_BYTES} is the most")
    return encoded


def check_transaction(compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
    """The transaction's size in bytes, or ``StoreLimitError``."""
    count = sum(compare.key != FENCE_KEY for compare in compares) + len(operations)
    if count > MAX_TXN_OPS:
        raise StoreLimitError(detail=f"{count} operations in one transaction; {MAX_TXN_OPS} is the most")
    size = sum(len(check_key(compare.key)) for compare in compares if compare.key != FENCE_KEY)
    written: set[str] = set()
    for operation in operations:
        size += len(check_key(operation.key))
        if operation.key in written:
            raise StoreLimitError(detail=f"the key {operation.key} is written twice in one transaction")
        written.add(operation.key)
        if isinstance(operation, Put):
            size += len(operation.value)
    if size > MAX_TXN_BYTES:
        raise StoreLimitError(detail=f"{size} bytes in one transaction; {MAX_TXN_BYTES} is the most")
    return size


def check_ttl(ttl_s: float) -> None:
    """Whether a lease may last so long."""
    if not MIN_LEASE_TTL_S <= ttl_s <= MAX_LEASE_TTL_S:
        raise StoreLimitError(
            detail=f"a lease of {ttl_s} s; {MIN_LEASE_TTL_S:.0f} s is the least, {MAX_LEASE_TTL_S:.0f} s the most"
        )
