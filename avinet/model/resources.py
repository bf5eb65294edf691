"""What one service engine is to have, as named blobs with hashes.

A resource is one configuration object, projected for the SE and encoded; its hash is the SHA-256 of exactly
those bytes.  An SE's state is the set of its resources, and its hash covers their sorted (name, hash) pairs:
two sides agree when the two hashes do, whatever path led there.
"""

import hashlib
from collections.abc import Iterable, Mapping

import attrs

EMPTY_STATE_HASH = hashlib.sha256(b"").hexdigest()


@attrs.frozen
class Resource:
    """One named blob.  ``name`` is ``<kind>/<uuid>``; ``body`` is hidden from reprs, since it may hold a key."""

    name: str
    body: bytes = attrs.field(repr=False)
    digest: str = attrs.field(init=False)

    @digest.default
    def _digest_of_body(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@attrs.frozen
class Delta:
    """How to get from one state to another: set these, remove those."""

    put: tuple[Resource, ...]
    remove: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether the two states are the same."""
        return not self.put and not self.remove


def state_hash(hashes: Mapping[str, str]) -> str:
    """The hash of a state given as resource name to resource hash (hexadecimal)."""
    digest = hashlib.sha256()
    for name in sorted(hashes):
        digest.update(f"{name}\0{hashes[name]}\n".encode())
    return digest.hexdigest()


def hashes_of(resources: Iterable[Resource]) -> dict[str, str]:
    """Resource name to resource hash."""
    return {resource.name: resource.digest for resource in resources}


def delta_between(have: Mapping[str, str], want: Mapping[str, Resource]) -> Delta:
    """What turns a state known by its hashes into ``want``."""
    return Delta(
        put=tuple(r for name, r in sorted(want.items()) if have.get(name) != r.digest),
        remove=tuple(sorted(name for name in have if name not in want)),
    )
