"""JSON Web Signatures as avinet uses them: Ed25519 only, the type of document in the protected header.

The algorithm is what the verifier says, never what the document says; ``typ`` keeps a signature made for one
purpose from being shown for another.  joserfc verifies the signatures that are present, so whoever needs
particular ones counts and names them (``avinet.trust.registration``).
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

from avinet.errors import AvinetError, Kind, error
from avinet.trust.keys import thumbprint

ALGORITHM = "Ed25519"
"""RFC 9864's fully specified name; the older "EdDSA" leaves the curve open."""
MAX_DOCUMENT_BYTES = 256 * 1024
"""A membership list of three controllers is 6 KiB, an image's manifest 4 KiB."""


class _Registry(JWSRegistry):
    max_payload_length = MAX_DOCUMENT_BYTES


_REGISTRY = _Registry(algorithms=[ALGORITHM])


@error
class BadDocumentError(AvinetError):
    """The {what} is not validly signed: {why}. It was altered on its way, or another key signed it."""

    kind: ClassVar[Kind] = Kind.DENIED
    what: str
    why: str


def _jose_key(key: Ed25519PrivateKey | Ed25519PublicKey) -> OKPKey:
    return OKPKey(key, key, None)


def sign_compact(payload: bytes, key: Ed25519PrivateKey, typ: str) -> str:
    """A compact JWS over ``payload``."""
    header = {"alg": ALGORITHM, "typ": typ, "kid": thumbprint(key.public_key())}
    return jws.serialize_compact(header, payload, _jose_key(key), registry=_REGISTRY)


def verify_compact(document: str, key: Ed25519PublicKey, typ: str) -> bytes:
    """The payload of a compact JWS that ``key`` made for this purpose; else ``BadDocumentError``."""
    what = typ.removesuffix("+jws")
    if len(document) > MAX_DOCUMENT_BYTES:
        raise BadDocumentError(what=what, why=f"it is over {MAX_DOCUMENT_BYTES} bytes")
    try:
        found = jws.deserialize_compact(document.strip(), _jose_key(key), registry=_REGISTRY)
    except (JoseError, ValueError, TypeError) as why:
        raise BadDocumentError(what=what, why=_short(why)) from why
    if found.headers().get("typ") != typ:
        raise BadDocumentError(what=what, why="it was signed for another purpose")
    return found.payload


def sign_general(payload: bytes, keys: tuple[Ed25519PrivateKey, ...], typ: str) -> Mapping[str, Any]:
    """A general JSON serialization with one signature a key, in their order."""
    by_kid = {thumbprint(key.public_key()): _jose_key(key) for key in keys}
    members: list[Any] = [{"protected": {"alg": ALGORITHM, "typ": typ, "kid": kid}} for kid in by_kid]

    def find(member: Any) -> Any:
        return by_kid[member.headers()["kid"]]

    return cast(
        "Mapping[str, Any]", jws.serialize_json(members, payload, cast("Any", find), registry=_REGISTRY)
    )


def verify_general(document: Any, find: Callable[[str], Ed25519PublicKey]) -> bytes:
    """The payload, when every signature present verifies with the key that ``find`` gives for its ``kid``."""

    def find_key(member: Any) -> Any:
        return _jose_key(find(member.headers().get("kid", "")))

    try:
        found: bytes = jws.deserialize_json(document, cast("Any", find_key), registry=_REGISTRY).payload
    except (JoseError, ValueError, TypeError, KeyError) as why:
        raise BadDocumentError(what="request", why=_short(why)) from why
    return found


def _short(why: Exception) -> str:
    return str(why)[:200] or type(why).__name__
