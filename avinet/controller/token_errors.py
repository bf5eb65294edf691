"""Why a one-time token was not made, or not taken."""

from typing import ClassVar

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import TokenId


@error
class TokenUnknownError(AvinetError):
    """The token is not one of this cluster's, or its text was altered. Check that the meta-info belongs to this cluster."""

    kind: ClassVar[Kind] = Kind.DENIED


@error
class TokenNotFoundError(AvinetError):
    """There is no token {token}; see: avinet se token list."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    token: str


@error
class TokenExpiredError(AvinetError):
    """Token {token} has expired. Make a new one: avinet se token create."""

    kind: ClassVar[Kind] = Kind.DENIED
    token: TokenId


@error
class TokenRevokedError(AvinetError):
    """Token {token} was revoked by an operator. Make a new one: avinet se token create."""

    kind: ClassVar[Kind] = Kind.DENIED
    token: TokenId


@error
class TokenSpentError(AvinetError):
    """Token {token} is spent: another key enrolled with it. Make a new one: avinet se token create."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    token: TokenId


@error
class TokenCountError(AvinetError):
    """A token's count must be from 1 to {limit}, not {count}."""

    kind: ClassVar[Kind] = Kind.INVALID
    count: int
    limit: int


@error
class TooManyTokensError(AvinetError):
    """There are {limit} tokens already, ended ones of the last week included. Revoke some, or wait."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int
