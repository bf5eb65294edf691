"""The registration request: a JWS in general JSON serialization with exactly two signatures.

One is by the image key (this machine booted from an image of ours), the other by the new SE key (and holds the key
it asks us to bind).  The payload is ``Claims`` as JSON.  Each protected header is ``{"alg": "Ed25519", "typ":
"avinet-registration+jws", "kid": <RFC 7638 thumbprint>}``; there is no unprotected header.  A JOSE library verifies
the signatures that are present; that they are the two expected ones is checked here, before and apart from it.
"""

import base64
from collections.abc import Callable
from typing import ClassVar, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ClusterId, ImageId
from avinet.trust.jose import ALGORITHM, BadDocumentError, sign_general, verify_general
from avinet.trust.keys import parse_line, thumbprint

REGISTRATION_TYPE = "avinet-registration+jws"
MAX_REQUEST_BYTES = 64 * 1024
"""A request is about 1.5 KiB."""
SIGNATURES = 2

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


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


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    protected: str
    signature: str


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payload: str
    signatures: tuple[_Signature, ...]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: str
    typ: str
    kid: str


@error
class RequestMalformedError(AvinetError):
    """The registration request is malformed: {what}."""

    kind: ClassVar[Kind] = Kind.INVALID
    what: str


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


@error
class SignatureInvalidError(AvinetError):
    """A signature of the registration request does not verify: it was altered after signing, or another key signed it."""

    kind: ClassVar[Kind] = Kind.DENIED


def sign_request(claims: Claims, image_key: Ed25519PrivateKey, se_key: Ed25519PrivateKey) -> bytes:
    """The body to send, and to send again."""
    document = sign_general(msgspec.json.encode(claims), (image_key, se_key), REGISTRATION_TYPE)
    return msgspec.json.encode(document)


def open_request(body: bytes, find_image_key: Callable[[ImageId], Ed25519PublicKey]) -> Claims:
    """The claims of a request that bears exactly the two right signatures.

    ``find_image_key`` raises for an image that is unknown.  Whether the image is still good, the cluster is ours and
    the token is live is for the caller to judge.
    """
    document = _decode(body, _Document, "the request")
    claims = _decode(_base64url(document.payload), Claims, "its payload")
    if len(document.signatures) != SIGNATURES:
        raise SignatureCountError(count=len(document.signatures))
    parse_line(claims.se_host_key)
    image_key, se_key = find_image_key(claims.image), parse_line(claims.se_key)
    expected: dict[str, Ed25519PublicKey] = {thumbprint(image_key): image_key, thumbprint(se_key): se_key}
    signers = {_kid(signature) for signature in document.signatures}
    if thumbprint(image_key) not in signers:
        raise SignerError(missing="the image key")
    if thumbprint(se_key) not in signers or len(signers) != SIGNATURES:
        raise SignerError(missing="the service engine's own key")
    used: set[str] = set()

    def find(kid: str) -> Ed25519PublicKey:
        used.add(kid)
        return expected[kid]

    try:
        verify_general(msgspec.to_builtins(document), find)
    except BadDocumentError as why:
        raise SignatureInvalidError from why
    # Two decoders read each header, ours above and joserfc's; a header that they read differently ends here.
    if used != set(expected):
        raise SignatureInvalidError
    return claims


def _kid(signature: _Signature) -> str:
    header = _decode(_base64url(signature.protected), _Header, "a protected header")
    if header.alg != ALGORITHM:
        raise RequestMalformedError(what=f"a signature's algorithm is not {ALGORITHM}")
    if header.typ != REGISTRATION_TYPE:
        raise RequestMalformedError(what="a signature was made for another purpose")
    return header.kid


def _base64url(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as why:
        raise RequestMalformedError(what="it is not base64url throughout") from why


def _decode(data: bytes, kind: type[_Struct], what: str) -> _Struct:
    if len(data) > MAX_REQUEST_BYTES:
        raise RequestMalformedError(what=f"it is over {MAX_REQUEST_BYTES} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
        raise RequestMalformedError(what=f"{what} does not read: {why}") from why
