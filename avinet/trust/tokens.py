"""One-time tokens: their text, and how one is recognised without being kept.

``avt1.<id>.<secret>``: the id names the token in lists and events, the secret (256 bits) proves it.  What is stored
is the SHA-256 of the whole text; a secret of this length needs no slow hash.
"""

import hashlib
import hmac
import re
import secrets
from typing import ClassVar

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import TokenId

ID_BYTES = 6
SECRET_BYTES = 32

_TEXT = re.compile(r"avt1\.([0-9a-f]{12})\.[A-Za-z0-9_-]{43}")


@error
class TokenMalformedError(AvinetError):
    """This is not a token: one looks like avt1.<id>.<secret>. Copy it whole, or make a new one: avinet se token create."""

    kind: ClassVar[Kind] = Kind.INVALID


def new_token() -> tuple[TokenId, str]:
    """A fresh token's id and text; the text is shown once and never stored."""
    identifier = secrets.token_hex(ID_BYTES)
    return TokenId(identifier), f"avt1.{identifier}.{secrets.token_urlsafe(SECRET_BYTES)}"


def parse_token(text: str) -> TokenId:
    """The id within a token's text."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise TokenMalformedError
    return TokenId(match[1])


def secret_hash(text: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(text.encode()).hexdigest()


def matches(text: str, kept: str) -> bool:
    """Whether ``text`` is the token that ``kept`` is the hash of; in constant time."""
    return hmac.compare_digest(secret_hash(text), kept)
