"""What an operator carries to a machine that is to become a controller: a file that is a secret for ten minutes.

It holds the root certificate (the trust anchor, as in an image), the membership list, where the controllers are, and a
one-time token.  Who carries it must trust the way: another root in it is another cluster.
"""

from pathlib import Path
from typing import ClassVar

import msgspec
from cryptography import x509

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ClusterId
from avinet.model.membership import Membership
from avinet.trust.files import read_private
from avinet.trust.membership import verify_membership

FORMAT = 1


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; fields of later releases are ignored."""

    format: int = FORMAT
    cluster: ClusterId
    root: str
    """PEM."""
    membership: str
    """The list, a compact JWS by that root."""
    controllers: tuple[str, ...]
    """``host:port`` of registration APIs, in the order in which to try them."""
    token: str
    expires_at: float
    """UNIX seconds by the cluster's clock, for people; what counts is a lease of its store."""
    replaces: str = ""
    """Whose place it gives; empty for a further member."""

    def __repr__(self) -> str:
        """Without the token."""
        return f"Bundle(cluster={self.cluster!r}, controllers={self.controllers!r})"

    def verified(self) -> Membership:
        """Its list, which its root must have signed; ``BundleDamagedError`` and what ``verify_membership`` raises."""
        return verify_membership(self.membership, self.root_certificate(), self.cluster)

    def root_certificate(self) -> x509.Certificate:
        """Its root."""
        try:
            return x509.load_pem_x509_certificate(self.root.encode())
        except ValueError as why:
            raise BundleDamagedError(why="its root certificate does not read") from why


@error
class BundleDamagedError(AvinetError):
    """The bundle cannot be used: {why}. Copy it whole, or make another: avinet cluster bundle."""

    kind: ClassVar[Kind] = Kind.INVALID
    why: str


@error
class BundleNewerError(AvinetError):
    """The bundle has format {found}, and this release knows {known}. Install the release that the cluster runs."""

    kind: ClassVar[Kind] = Kind.INVALID
    found: int
    known: int


def read_bundle(path: Path) -> Bundle:
    """The bundle in a 0600 file, its list verified."""
    try:
        bundle = msgspec.json.decode(read_private(path), type=Bundle)
    except (msgspec.DecodeError, UnicodeDecodeError) as why:
        raise BundleDamagedError(why=str(why)) from why
    if bundle.format > FORMAT:
        raise BundleNewerError(found=bundle.format, known=FORMAT)
    if not bundle.controllers:
        raise BundleDamagedError(why="it names no controller")
    bundle.verified()
    return bundle
