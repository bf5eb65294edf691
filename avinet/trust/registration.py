"""The registration request: a JWS (``avinet.trust.signed_request``) with exactly two signatures.

One is by the image key (this machine booted from an image of ours), the other by the new SE key (and holds the key
it asks us to bind).  The payload is ``Claims`` as JSON.
"""

from collections.abc import Callable
from typing import ClassVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ClusterId, ImageId
from avinet.trust.jose import sign_general
from avinet.trust.keys import parse_line, thumbprint
from avinet.trust.signed_request import SignedRequest

REGISTRATION_TYPE = "avinet-registration+jws"
SIGNATURES = 2


class Claims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a machine says about itself.  Keys are OpenSSH lines without comment."""

    cluster: ClusterId
    image: ImageId
    se_key: str
    se_host_key: str
    token: str | None = None
    nonce: str
    issued_at: int
    """UNIX seconds by the machine's own clock, which may be wrong by years."""

    def __repr__(self) -> str:
        return f"Claims(cluster={self.cluster!r}, image={self.image!r}, se_key={self.se_key!r})"


@error
class SignatureCountError(AvinetError):
    """The registration request bears {count} signatures instead of two, by the image key and by the SE key."""

    kind: ClassVar[Kind] = Kind.DENIED
    count: int


@error
class SignerError(AvinetError):
    """The registration request is not signed by {missing}, or by some other key too."""

    kind: ClassVar[Kind] = Kind.DENIED
    missing: str


def sign_request(claims: Claims, image_key: Ed25519PrivateKey, se_key: Ed25519PrivateKey) -> bytes:
    """The body to send, and to send again."""
    document = sign_general(msgspec.json.encode(claims), (image_key, se_key), REGISTRATION_TYPE)
    return msgspec.json.encode(document)


def open_request(body: bytes, find_image_key: Callable[[ImageId], Ed25519PublicKey]) -> Claims:
    """The claims of a request that bears exactly the two right signatures.

    ``find_image_key`` raises for an image that is unknown.  Whether the image is still good, the cluster is ours and
    the token is live is for the caller to judge.
    """
    request = SignedRequest.read(body)
    claims = request.claims(Claims)
    if request.count != SIGNATURES:
        raise SignatureCountError(count=request.count)
    parse_line(claims.se_host_key)
    image_key, se_key = find_image_key(claims.image), parse_line(claims.se_key)
    expected: dict[str, Ed25519PublicKey] = {thumbprint(image_key): image_key, thumbprint(se_key): se_key}
    signers = request.kids(REGISTRATION_TYPE)
    if thumbprint(image_key) not in signers:
        raise SignerError(missing="the image key")
    if thumbprint(se_key) not in signers or len(signers) != SIGNATURES:
        raise SignerError(missing="the service engine's own key")
    request.verify(expected)
    return claims
