"""The membership list as it travels: a compact JWS by the root's key, believed only when newer.

Whoever holds a list refuses a lower number, and the same number with other content: the first would bring back
trust that was withdrawn, the second would mean that the root signed two truths.
"""

from collections.abc import Iterable
from typing import ClassVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ClusterId
from avinet.model.membership import Controller, Membership
from avinet.trust.ca import serial_of
from avinet.trust.jose import BadDocumentError, sign_compact, verify_compact

MEMBERSHIP_TYPE = "avinet-membership+jws"


@error
class MembershipOlderError(AvinetError):
    """A membership list with number {offered} was offered, but number {held} is known already. It was refused; whoever offers it may be restored from a backup, or replaying."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    offered: int
    held: int


@error
class MembershipConflictError(AvinetError):
    """Two different membership lists bear number {number}. The new one was refused; the root key must have signed both."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    number: int


@error
class MembershipForeignError(AvinetError):
    """The membership list is of cluster {offered}, not of {expected}."""

    kind: ClassVar[Kind] = Kind.DENIED
    offered: str
    expected: str


@error
class ControllerRemovedError(AvinetError):
    """Controller {name} was removed from the cluster by membership list {number}, so it does not start. Its state folder is of no more use: to make this machine a controller again, join with a new folder (avinet cluster bundle)."""

    kind: ClassVar[Kind] = Kind.GONE
    name: str
    number: int


def changed(before: Membership, controllers: Iterable[Controller]) -> Membership:
    """The list after ``before`` with these controllers; certificates that are in it no more are revoked."""
    after = tuple(sorted(controllers, key=lambda controller: controller.name))
    kept = {controller.node_certificate for controller in after}
    gone = (c.node_certificate for c in before.controllers if c.node_certificate not in kept)
    return Membership(
        cluster=before.cluster,
        number=before.number + 1,
        controllers=after,
        revoked_serials=(*before.revoked_serials, *(serial_of(pem.encode()) for pem in gone)),
    )


def root_key_of(certificate: x509.Certificate) -> Ed25519PublicKey:
    """The root's public key."""
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise BadDocumentError(what="root certificate", why="its key is not Ed25519")
    return key


def sign_membership(key: Ed25519PrivateKey, membership: Membership) -> str:
    """The list as it is handed out, signed with the root's key."""
    return sign_compact(msgspec.json.encode(membership), key, MEMBERSHIP_TYPE)


def verify_membership(
    document: str, root_certificate: x509.Certificate, cluster: ClusterId | None = None
) -> Membership:
    """The list that ``root_certificate`` vouches for, of ``cluster`` where given."""
    payload = verify_compact(document, root_key_of(root_certificate), MEMBERSHIP_TYPE)
    try:
        membership = msgspec.json.decode(payload, type=Membership)
    except msgspec.DecodeError as why:
        raise BadDocumentError(what="membership list", why=str(why)) from why
    if cluster is not None and membership.cluster != cluster:
        raise MembershipForeignError(offered=membership.cluster, expected=cluster)
    return membership


def newer(current: Membership | None, document: str, root_certificate: x509.Certificate) -> Membership:
    """The list to hold after ``document`` was offered: it, or ``current`` when it is that very list."""
    offered = verify_membership(document, root_certificate, None if current is None else current.cluster)
    if current is None or offered.number > current.number:
        return offered
    if offered.number < current.number:
        raise MembershipOlderError(offered=offered.number, held=current.number)
    if offered != current:
        raise MembershipConflictError(number=offered.number)
    return current
