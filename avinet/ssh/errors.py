"""Why a secure channel, or something inside one, could not be had."""

from typing import ClassVar

from avinet.errors import AvinetError, Kind, error


@error
class DialError(AvinetError):
    """Cannot connect to {address}: {detail}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    address: str
    detail: str


@error
class SshTimeoutError(AvinetError):
    """{step} took longer than {limit_s} s."""

    kind: ClassVar[Kind] = Kind.TIMEOUT
    step: str
    limit_s: float


@error
class CommandTimeoutError(SshTimeoutError):
    """{step} took longer than {limit_s} s and was cut."""


@error
class HostKeyMismatchError(AvinetError):
    """The server's host key {fingerprint} is not the one expected. Someone else may be answering there."""

    kind: ClassVar[Kind] = Kind.DENIED
    fingerprint: str


@error
class AuthRefusedError(AvinetError):
    """The server does not accept the key {fingerprint} for {user}."""

    kind: ClassVar[Kind] = Kind.DENIED
    user: str
    fingerprint: str


@error
class ServerBusyError(AvinetError):
    """The server has too many connections. Try again after {retry_after_s} s."""

    kind: ClassVar[Kind] = Kind.LIMITED
    retry_after_s: float


@error
class ConnectionEndedError(AvinetError):
    """The SSH connection ended: {detail}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    detail: str


@error
class ChannelRefusedError(AvinetError):
    """The peer refused to open {what}: {detail}."""

    kind: ClassVar[Kind] = Kind.DENIED
    what: str
    detail: str
    code: int
    """RFC 4254 section 5.1: 1 prohibited, 2 connect failed, 3 unknown type, 4 resource shortage."""


@error
class ForwardRefusedError(AvinetError):
    """The server refused to listen on {address}:{port} for us."""

    kind: ClassVar[Kind] = Kind.DENIED
    address: str
    port: int
