"""The configuration objects, in the field names of the Avi API's subset that avinet supports.

These are the stored forms: defaults filled in, references resolved to UUIDs.  What an operator writes (a bare
IP, a name for a reference, fields left out) is turned into them by ``avinet.model.intake``; the URLs and
``_last_modified`` an API client sees are added at that edge.
"""

import enum
from typing import Annotated, Any

import msgspec

from avinet.model.config_monitor import HealthMonitor as HealthMonitor  # noqa: PLC0414 - all kinds are found here
from avinet.model.config_monitor import HealthMonitorType as HealthMonitorType  # noqa: PLC0414
from avinet.model.config_monitor import HttpMonitor as HttpMonitor  # noqa: PLC0414
from avinet.model.fields import (
    BundleText,
    CertificateRef,
    ChainText,
    GroupRef,
    KeyText,
    LongSeconds,
    MonitorRef,
    PageText,
    PoolRef,
    Port,
    Seconds,
)
from avinet.model.fields import ConfigObject as ConfigObject  # noqa: PLC0414
from avinet.model.fields import IpAddr as IpAddr  # noqa: PLC0414
from avinet.model.fields import IpAddrType as IpAddrType  # noqa: PLC0414


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


class SslProfile(enum.StrEnum):
    """Versions and ciphers of TLS.  The Avi API has objects of these names; here they are fixed."""

    STANDARD = "System-Standard"
    """TLS 1.2 (ECDHE with AEAD ciphers) and 1.3."""
    MODERN = "System-Modern"
    """TLS 1.3 alone."""


SslProfileRef = Annotated[SslProfile, msgspec.Meta(extra={"named": "sslprofile"})]
"""``named``: a name out of a closed set that API clients write as a reference, ``/api/sslprofile?name=System-Modern``."""


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


class CertificateText(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate itself."""

    certificate: ChainText
    """PEM: the leaf, then its issuers in order; the root may be left out."""


class SSLKeyAndCertificate(ConfigObject, frozen=True, kw_only=True):
    """A private key and the certificates that go with it.  ``key`` is in no repr and in no answer of the API."""

    certificate: CertificateText
    """The leaf and its chain; a bare PEM text will do."""
    key: KeyText
    """PEM, not encrypted: the leaf's; RSA of 2,048 to 8,192 bits, or EC on P-256, P-384 or P-521."""

    def __repr__(self) -> str:
        return f"SSLKeyAndCertificate(uuid={self.uuid!r}, name={self.name!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What a traceback of rich shows, which asks this and not ``repr``."""
        return [("uuid", self.uuid), ("name", self.name)]


class EnrolmentPolicy(enum.StrEnum):
    """What an SE must show to join a group, beside the image key's signature."""

    TOKEN = "token"  # noqa: S105 - the policy's name
    APPROVE = "approve"
    """A token, and an operator compares fingerprints."""
    IMAGE = "image"
    """Nothing more: only from ``enrolment_networks``, at most ``enrolment_count``, unplaced until an operator says."""


class WhenShort(enum.StrEnum):
    """What happens to virtual services that find no SE with a place left (``max_vs_per_se``)."""

    OVERLOAD = "OVERLOAD"
    """They get SEs all the same; a warning says so."""
    LEAVE = "LEAVE"
    """They wait, the oldest are served first; an error says so."""


class CommandClass(enum.StrEnum):
    """Ways in which a controller may use an SE."""

    EXEC = "EXEC"
    INTERACTIVE = "INTERACTIVE"
    FILES = "FILES"
    """sftp and scp, confined to one folder."""


DOWN_DELAY_S = 60.0
LogRate = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
"""Records a second; 0 for no limit."""


class ServiceEngineGroup(ConfigObject, frozen=True, kw_only=True):
    """SEs that serve the same virtual services."""

    min_scaleout_per_vs: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """With fewer, an event says so."""
    max_scaleout_per_vs: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """A virtual service goes to this many SEs of the group, if there are so many."""
    enrolment_policy: EnrolmentPolicy = EnrolmentPolicy.TOKEN
    """What an SE must show."""
    enrolment_networks: tuple[str, ...] = ()
    """Where enrolments may come from, with the policy ``image``."""
    enrolment_count: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    """How many SEs may enrol, with the policy ``image``."""
    allowed_networks: tuple[str, ...] = ()
    """Where its SEs may log in from (``from=`` in authorized_keys); anywhere when empty."""
    max_vs_per_se: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 500
    """Virtual services that one SE has room for."""
    when_short: WhenShort = WhenShort.OVERLOAD
    """When every SE of the group is full."""
    down_delay_s: LongSeconds = DOWN_DELAY_S
    """How long an SE may be gone before its virtual services go to another: a reboot is shorter, and moving costs
    clients their connections."""
    drain_s: LongSeconds = 30.0
    """A planned move (disabled, deleted, rebalanced): the old SE serves on for so long after the new one does."""
    vip_interface: str = ""
    """Where its SEs add the addresses of their virtual services, and take them back: the name of an interface of their
    hosts, which needs CAP_NET_ADMIN there. When empty, addresses must be there already."""
    commands: tuple[CommandClass, ...] = tuple(CommandClass)
    """What its SEs accept through the reverse forward."""
    log_disksz: Annotated[int, msgspec.Meta(ge=100, le=10_000_000)] = 10_000
    """MiB on the disk of each SE for request logs that no controller has yet. Beyond it the oldest go first, and those
    that are significant last."""
    log_age_h: Annotated[int, msgspec.Meta(ge=0, le=8_760)] = 168
    """Hours for which an SE keeps them at most; 0 for no limit."""
    significant_log_throttle: LogRate = 0
    """Of each SE, over all virtual services, in records a second; what is beyond is counted as dropped. 0 for no limit."""
    full_log_throttle: LogRate = 0
    """As ``significant_log_throttle``, of the others."""


class Vip(msgspec.Struct, frozen=True, kw_only=True):
    """An address that a virtual service answers on."""

    ip_address: IpAddr
    """Of the service engines' hosts; no name.  ``0.0.0.0`` or ``::`` for all that no other virtual service has."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A port that a virtual service answers on."""

    port: Port
    """Of all addresses; each once."""
    enable_ssl: bool = False
    """TLS, with ``ssl_key_and_certificate_refs``; also for TCP."""
    enable_http2: bool = True
    """Offered by ALPN where there is TLS; without TLS a client may begin with it."""


class ApplicationProfile(enum.StrEnum):
    """What a virtual service understands.  The Avi API has objects of these names; here they are fixed."""

    HTTP = "System-HTTP"
    """HTTP, and HTTPS at ports with TLS."""
    TCP = "System-L4-Application"
    """TCP; TLS is ended at ports that have it."""


ApplicationProfileRef = Annotated[ApplicationProfile, msgspec.Meta(extra={"named": "applicationprofile"})]


class PathMatch(enum.StrEnum):
    """How a route compares paths."""

    BEGINS_WITH = "BEGINS_WITH"
    EQUALS = "EQUALS"
    REGEX = "REGEX_MATCH"
    """RE2, the whole path."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Requests for one of ``hosts`` whose path matches go to another pool."""

    hosts: tuple[str, ...] = ()
    """Without port; ``*.example.com`` takes any name below; all when empty."""
    path: str = "/"
    """What it is compared with; without query."""
    path_match: PathMatch = PathMatch.BEGINS_WITH
    """``BEGINS_WITH /api`` takes ``/api`` and ``/api/...``, not ``/apis``."""
    pool_ref: PoolRef
    """Where they go."""


class FullClientLogs(msgspec.Struct, frozen=True, kw_only=True):
    """Logs of requests that are not significant: kept on the service engine until somebody asks for them."""

    enabled: bool = True
    """When not, none are written."""
    throttle: LogRate = 0
    """Of this virtual service, on each service engine, in records a second; what is beyond is counted as dropped. 0 for
    no limit."""


class AnalyticsPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests are logged, and as what.

    Significant are answers of 500 and above, whatever went wrong on the way, and what is named here.  For TCP that is
    connections that failed or were cut.
    """

    full_client_logs: FullClientLogs = FullClientLogs()
    """The requests that are not significant."""
    significant_log_throttle: LogRate = 0
    """As ``full_client_logs.throttle``, of significant ones."""
    significant_client_errors: tuple[Annotated[int, msgspec.Meta(ge=400, le=499)], ...] = ()
    """Statuses of the 4xx that are significant, too."""
    slow_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = 1_000
    """A request that takes so long is significant, WebSockets apart; 0 for none."""


class VirtualService(ConfigObject, frozen=True, kw_only=True):
    """What clients connect to: addresses and ports, answered by a pool, or by several after host and path."""

    enabled: bool = True
    """One that is disabled is on no service engine."""
    application_profile_ref: ApplicationProfileRef = ApplicationProfile.HTTP
    """HTTP (and HTTPS), or TCP."""
    vip: tuple[Vip, ...]
    """1 to 64 addresses; each with each of ``services``."""
    services: tuple[Service, ...]
    """1 to 64 ports."""
    pool_ref: PoolRef
    """Who answers what no route takes."""
    routes: tuple[Route, ...] = ()
    """The first that matches decides; ``pool_ref`` has the rest. Where one of them looks at the path, it is normalised
    first (``/a/../b`` is ``/b``, ``%41`` is ``A``), for the servers and the logs, too; else they get what the client sent."""
    http_to_https: bool = False
    """Requests on ports without TLS are redirected to the first port with it."""
    ssl_key_and_certificate_refs: tuple[CertificateRef, ...] = ()
    """Chosen by the name that the client asks for; the first when none fits."""
    ssl_profile_ref: SslProfileRef = SslProfile.STANDARD
    """Versions and ciphers that clients may use."""
    se_group_ref: GroupRef
    """Whose service engines serve it."""
    analytics_policy: AnalyticsPolicy = AnalyticsPolicy()
    """Its request logs."""


KINDS: dict[str, type[ConfigObject]] = {
    "healthmonitor": HealthMonitor,
    "pool": Pool,
    "serviceenginegroup": ServiceEngineGroup,
    "sslkeyandcertificate": SSLKeyAndCertificate,
    "virtualservice": VirtualService,
}
"""By the word that the API's paths use."""


def kind_of(thing: ConfigObject) -> str:
    """The API's word for an object's kind."""
    return type(thing).__name__.lower()


DEFAULT_GROUP = "Default-Group"
