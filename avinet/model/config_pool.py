"""Pools: servers, how one is chosen and kept, when one is left out, and what a client gets when none is up."""

import enum
from typing import Annotated

import msgspec

from avinet.model.config_certificate import SslProfileRef
from avinet.model.fields import (
    BundleText,
    CertificateRef,
    ConfigObject,
    IpAddr,
    LongSeconds,
    MonitorRef,
    PageText,
    Port,
    Seconds,
)


class LbAlgorithm(enum.StrEnum):
    """How a server is chosen."""

    ROUND_ROBIN = "LB_ALGORITHM_ROUND_ROBIN"
    LEAST_CONNECTIONS = "LB_ALGORITHM_LEAST_CONNECTIONS"
    """The fewest requests under way; among more than 64 servers, of five picked at random."""
    CONSISTENT_HASH = "LB_ALGORITHM_CONSISTENT_HASH"
    """By ``lb_algorithm_hash``: a server that comes or goes moves its own share only."""


class HashBy(enum.StrEnum):
    """What the consistent hash is made of."""

    SOURCE_IP = "LB_ALGORITHM_CONSISTENT_HASH_SOURCE_IP_ADDRESS"
    URI = "LB_ALGORITHM_CONSISTENT_HASH_URI"
    """Path and query; HTTP only."""
    HEADER = "LB_ALGORITHM_CONSISTENT_HASH_CUSTOM_HEADER"
    """The header ``lb_algorithm_consistent_hash_hdr``; HTTP only."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One member of a pool; ``ratio`` is its weight."""

    ip: IpAddr
    """Where it is; a name is resolved by the service engine, again and again."""
    port: Port
    """What it listens on."""
    enabled: bool = True
    """A server that is disabled gets nothing new; what is under way has the pool's ``graceful_disable_timeout_s``."""
    ratio: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    """Its weight beside the others."""
    priority: Annotated[int, msgspec.Meta(ge=0, le=15)] = 0
    """Servers of the lowest number are used; the next ones once too few of those are up."""
    hostname: str = ""
    """What its TLS certificate is for, and what it is called in reports."""


DEFAULT_SERVER_PORT = 80


class PersistenceType(enum.StrEnum):
    """What keeps a client on its server."""

    HTTP_COOKIE = "PERSISTENCE_TYPE_HTTP_COOKIE"
    CLIENT_IP = "PERSISTENCE_TYPE_CLIENT_IP_ADDRESS"


class Persistence(msgspec.Struct, frozen=True, kw_only=True):
    """A client stays with its server while that is up (a cookie also while it is being disabled)."""

    persistence_type: PersistenceType = PersistenceType.HTTP_COOKIE
    """What a client is known by."""
    cookie_name: str = ""
    """Made from the pool's UUID when empty."""
    timeout_s: LongSeconds = 0.0
    """How long the cookie lasts; 0 until the browser is closed."""


class OutlierDetection(msgspec.Struct, frozen=True, kw_only=True):
    """Servers that fail real requests are left out for a while, beside what the monitors find."""

    consecutive_5xx: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 5
    """Answers of 500 and more in a row; 0 for never."""
    consecutive_connect_failures: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 5
    """Connections that failed or were cut before an answer; 0 for never."""
    interval_s: Seconds = 10.0
    """Between looks at who comes back."""
    ejection_time_s: Seconds = 30.0
    """Times how often the server was ejected."""
    max_ejection_percent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50
    """Of the servers of the pool, at once."""


class FailActionType(enum.StrEnum):
    """What a client gets while no server of the pool is up."""

    CLOSE_CONNECTION = "FAIL_ACTION_CLOSE_CONN"
    """TCP: the connection is closed; HTTP: an empty 503."""
    LOCAL_RESPONSE = "FAIL_ACTION_HTTP_LOCAL_RSP"
    REDIRECT = "FAIL_ACTION_HTTP_REDIRECT"


class FailAction(msgspec.Struct, frozen=True, kw_only=True):
    """The answer and its parts; those of another type stay at their defaults."""

    type: FailActionType = FailActionType.CLOSE_CONNECTION
    """Which answer."""
    status_code: Annotated[int, msgspec.Meta(ge=200, le=599)] = 503
    """Of a local response; a redirect takes 301, 302, 307 or 308, and 302 when none is given."""
    body: PageText = ""
    """Of a local response."""
    content_type: str = "text/plain"
    """Of a local response."""
    redirect_url: str = ""
    """``http://`` or ``https://``, whole."""


class Pool(ConfigObject, frozen=True, kw_only=True):
    """Servers that can answer for one another."""

    enabled: bool = True
    """A pool that is disabled behaves as one whose servers are all down."""

    default_server_port: Port = DEFAULT_SERVER_PORT
    """For servers that are given without one; each is stored with its own."""
    lb_algorithm: LbAlgorithm = LbAlgorithm.ROUND_ROBIN
    """How a server is chosen."""
    servers: tuple[Server, ...] = ()
    """2,000 at most."""
    health_monitor_refs: tuple[MonitorRef, ...] = ()
    """A server is up when all of them find it so; without any it is always."""
    lb_algorithm_hash: HashBy = HashBy.SOURCE_IP
    """With ``LB_ALGORITHM_CONSISTENT_HASH``."""
    lb_algorithm_consistent_hash_hdr: str = ""
    """With ``LB_ALGORITHM_CONSISTENT_HASH_CUSTOM_HEADER``."""
    persistence: Persistence | None = None
    """When set, a client that was here before goes where it was."""
    fail_action: FailAction = FailAction()
    """When no server is up."""
    outlier_detection: OutlierDetection | None = None
    """When set, what real requests meet counts, too."""
    graceful_disable_timeout_s: LongSeconds = 60.0
    """How long a disabled server may finish what is under way; 0 cuts it at once."""
    connect_timeout_s: Seconds = 5.0
    """For a connection to a server, TLS included."""
    idle_timeout_s: LongSeconds = 55.0
    """An idle connection to a server is closed: below the 60 s after which common servers do.  A TCP virtual service
    takes any value but this default, and else an hour."""
    request_timeout_s: LongSeconds = 0.0
    """From the whole request to the whole answer; 0 for no limit (an answer that stands still is cut anyway)."""
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 2
    """On other servers, of a request that reached none, or that is safe to repeat."""
    max_concurrent_connections_per_server: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    """0 for no limit of the pool's own.  Each worker thread may have one beyond it."""
    ssl_profile_ref: SslProfileRef | None = None
    """TLS to the servers, when set."""
    ca_certs: tuple[BundleText, ...] = ()
    """PEM: what the servers' certificates must chain to; without any they are not verified."""
    server_name: str = ""
    """SNI, and the name that a verified certificate must bear; the server's ``hostname`` when empty."""
    ssl_key_and_certificate_ref: CertificateRef | None = None
    """What we show to servers that ask."""
