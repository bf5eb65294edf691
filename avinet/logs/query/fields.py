"""What a stored record consists of: its columns, how each can be asked about, and what people call them.

The store writes exactly these columns, the language knows exactly these names, and the documents list them, so that
the three cannot disagree.  A client's address is kept as text, as it was logged, and once more as two integers: to
look for a network is then a comparison of integers (3 million records: 71 ms against 270 for a regular expression on
the text, which knows no IPv6), and whole row groups are left out by their smallest and largest values.
"""

import difflib
import enum
import ipaddress
import socket
from collections.abc import Mapping

import attrs


class Type(enum.Enum):
    """What a column holds."""

    TIME = "time"
    """Microseconds, UTC."""
    TEXT = "text"
    ADDRESS = "address"
    """An IP address as text; can be asked for by network."""
    INTEGER = "whole number"
    BYTES = "bytes"
    """A whole number that may be written as ``10KiB``."""
    MILLISECONDS = "milliseconds"
    """A number that may be written as ``1.5s``; what people see of whole microseconds in a column."""
    MICROSECONDS = "microseconds"
    """A whole number; not for people."""
    HALF = "half of an address"
    """64 bits without sign; not for people."""


@attrs.frozen
class Field:
    """One column."""

    name: str
    type: Type
    help: str
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    """All there are, where that is known."""
    key: str = ""
    """Its key in the data plane's JSON, where that is not the name."""
    column: str = ""
    """The column that it is made of, where that is not the name."""
    logged: bool = True
    """Whether the data plane says it; the rest is added by the controller, which knows who sent the segment."""

    @property
    def numeric(self) -> bool:
        """Whether sums and quantiles of it mean something."""
        return self.type in {Type.INTEGER, Type.BYTES, Type.MILLISECONDS}

    @property
    def textual(self) -> bool:
        """Whether it is text, and can be asked about by parts of it."""
        return self.type in {Type.TEXT, Type.ADDRESS}


_ALL = (
    Field("time", Type.TIME, "When the request began.", key="_time"),
    Field("vs", Type.TEXT, "The virtual service's name then.", ("virtual_service", "virtualservice")),
    Field("vs_uuid", Type.TEXT, "The virtual service's UUID.", key="_vs"),
    Field("se", Type.TEXT, "The service engine's name then.", ("service_engine",), logged=False),
    Field("se_uuid", Type.TEXT, "The service engine's UUID.", logged=False),
    Field(
        "class",
        Type.TEXT,
        "Which log it was in: significant (errors, slow or cut) or full (the rest).",
        ("log", "log_class"),
        ("significant", "full"),
        logged=False,
    ),
    Field("pool", Type.TEXT, "The pool's name."),
    Field("server", Type.TEXT, "The server that answered, as address:port.", ("upstream", "backend")),
    Field("client", Type.ADDRESS, "The client's address.", ("client_ip", "ip", "remote_addr")),
    Field("client_port", Type.INTEGER, "The client's port."),
    Field("listener", Type.TEXT, "The address:port that took the connection."),
    Field("method", Type.TEXT, "GET, POST, and so on."),
    Field("host", Type.TEXT, "The Host that the client asked for.", ("authority", "vhost")),
    Field("path", Type.TEXT, "The path as the client sent it, with its query.", ("uri", "url")),
    Field("protocol", Type.TEXT, "HTTP/1.1, HTTP/2, and so on."),
    Field(
        "status",
        Type.INTEGER,
        "The answer's status, 0 for none; 5xx stands for 500 to 599.",
        ("code", "response_code"),
    ),
    Field("flags", Type.TEXT, "Envoy's response flags, such as UF; - for none.", ("response_flags",)),
    Field("reason", Type.TEXT, "Why it was answered so, in Envoy's words.", ("details",)),
    Field("bytes_in", Type.BYTES, "Bytes of the request's body.", ("request_bytes",)),
    Field("bytes_out", Type.BYTES, "Bytes of the answer's body.", ("response_bytes", "bytes", "size")),
    Field(
        "duration_ms",
        Type.MILLISECONDS,
        "From the request's first byte to the answer's last.",
        ("duration", "latency"),
        column="duration_us",
    ),
    Field(
        "first_byte_ms",
        Type.MILLISECONDS,
        "From the request's first byte to the answer's first.",
        ("first_byte", "ttfb"),
        column="first_byte_us",
    ),
    Field("connect_ms", Type.MILLISECONDS, "To connect to the server.", ("connect",), column="connect_us"),
    Field("request_id", Type.TEXT, "The request's id, as in X-Request-Id.", ("id",)),
    Field("tls_version", Type.TEXT, "The client's TLS version.", ("tls",)),
    Field("tls_cipher", Type.TEXT, "The client's TLS cipher.", ("cipher",)),
    Field("user_agent", Type.TEXT, "The client's User-Agent.", ("agent", "ua")),
)

FIELDS: Mapping[str, Field] = {field.name: field for field in _ALL}
"""What people see, by name, in the order of answers."""
BY_WORD: Mapping[str, Field] = {word: field for field in _ALL for word in (field.name, *field.aliases)}
"""By name and by alias."""
CLIENT_HIGH = Field("client_high", Type.HALF, "Upper 64 bits of the client's address.", logged=False)
CLIENT_LOW = Field("client_low", Type.HALF, "Lower 64 bits of the client's address.", logged=False)
_STORED = tuple(
    Field(field.column, Type.MICROSECONDS, field.help) if field.column else field
    for field in (*_ALL, CLIENT_HIGH, CLIENT_LOW)
)
COLUMNS: Mapping[str, Field] = {field.name: field for field in _STORED}
"""What the store writes.  All may be null, but for ``time``, ``vs_uuid``, ``se_uuid`` and ``class``."""

MAPPED = 0xFFFF << 32
"""An IPv4 address counts as ``::ffff:a.b.c.d`` (RFC 4291, 2.5.5.2), so that both kinds fit the same two columns."""
LOW_BITS = 64
LOW_MASK = 2**LOW_BITS - 1


def address_halves(text: str) -> tuple[int, int] | None:
    """Upper and lower 64 bits of an address; None when it is none.  0.4 us: for what is distinct in a batch."""
    try:
        if ":" in text:
            whole = int.from_bytes(socket.inet_pton(socket.AF_INET6, text))
            return whole >> LOW_BITS, whole & LOW_MASK
        return 0, MAPPED | int.from_bytes(socket.inet_pton(socket.AF_INET, text))
    except (OSError, ValueError, UnicodeError):
        return None


def network_range(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[int, int]:
    """First and last address of a network as 128-bit numbers."""
    shift = MAPPED if network.version == 4 else 0
    return shift + int(network.network_address), shift + int(network.broadcast_address)


def nearest_field(word: str) -> str:
    """The name that ``word`` was meant to be, or nothing."""
    found = difflib.get_close_matches(word.lower(), BY_WORD, n=1, cutoff=0.6)
    return BY_WORD[found[0]].name if found else ""
