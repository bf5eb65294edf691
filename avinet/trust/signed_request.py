"""Requests that prove who made them: a JWS in general JSON serialization with exactly the signatures that are due.

Each protected header is ``{"alg": "Ed25519", "typ": <what for>, "kid": <RFC 7638 thumbprint>}``; there is no
unprotected header.  A JOSE library verifies the signatures that are present; that they are the expected ones, no fewer
and no more, is checked here, before and apart from it.
"""

import base64
from collections.abc import Mapping
from typing import ClassVar, Self, TypeVar

import attrs
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from avinet.errors import AvinetError, Kind, error
from avinet.trust.jose import ALGORITHM, BadDocumentError, verify_general

MAX_REQUEST_BYTES = 64 * 1024
"""A request is about 1.5 KiB."""

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


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
class SignatureInvalidError(AvinetError):
    """A signature of the registration request does not verify: it was altered after signing, or another key signed it."""

    kind: ClassVar[Kind] = Kind.DENIED


@attrs.frozen
class SignedRequest:
    """A request as it reads, before ``verify`` has said that it is what it claims to be."""

    _document: _Document = attrs.field(repr=False)

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Take a body apart; no signature's header is looked at yet."""
        return cls(_decode(body, _Document, "the request"))

    @property
    def count(self) -> int:
        """How many signatures there are."""
        return len(self._document.signatures)

    @property
    def payload(self) -> bytes:
        """What it says, as bytes; nothing of it is proved before ``verify``."""
        return _base64url(self._document.payload)

    def claims(self, kind: type[_Struct]) -> _Struct:
        """What it says; nothing of it is proved."""
        return _decode(_base64url(self._document.payload), kind, "its payload")

    def kids(self, typ: str) -> set[str]:
        """Which keys are said to have signed it for this purpose."""
        return {_kid(signature, typ) for signature in self._document.signatures}

    def verify(self, expected: Mapping[str, Ed25519PublicKey]) -> None:
        """``SignatureInvalidError`` unless each of these keys, and no other, signed it."""
        used: set[str] = set()

        def find(kid: str) -> Ed25519PublicKey:
            used.add(kid)
            return expected[kid]

        try:
            verify_general(msgspec.to_builtins(self._document), find)
        except BadDocumentError as why:
            raise SignatureInvalidError from why
        # Two decoders read each header, ours and joserfc's; a header that they read differently ends here.
        if used != set(expected):
            raise SignatureInvalidError


def _kid(signature: _Signature, typ: str) -> str:
    header = _decode(_base64url(signature.protected), _Header, "a protected header")
    if header.alg != ALGORITHM:
        raise RequestMalformedError(what=f"a signature's algorithm is not {ALGORITHM}")
    if header.typ != typ:
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
