"""The configuration objects, in the field names of the Avi API's subset that avinet supports: here virtual services and
groups of SEs; beside it pools, health monitors and certificates.

These are the stored forms: defaults filled in, references resolved to UUIDs.  What an operator writes (a bare
IP, a name for a reference, fields left out) is turned into them by ``avinet.model.intake``; the URLs and
``_last_modified`` an API client sees are added at that edge.
"""

import enum
from typing import Annotated

import msgspec

from avinet.model.config_certificate import (
    CertificateText,
    SSLKeyAndCertificate,
    SslProfile,
    SslProfileRef,
)
from avinet.model.config_monitor import HealthMonitor, HealthMonitorType, HttpMonitor
from avinet.model.config_pool import (
    DEFAULT_SERVER_PORT,
    FailAction,
    FailActionType,
    HashBy,
    LbAlgorithm,
    OutlierDetection,
    Persistence,
    PersistenceType,
    Pool,
    Server,
)
from avinet.model.fields import (
    CertificateRef,
    ConfigObject,
    GroupRef,
    IpAddr,
    IpAddrType,
    LongSeconds,
    PoolRef,
    Port,
)

__all__ = (  # every kind and its parts are found here, wherever they are written
    "DEFAULT_GROUP",
    "DEFAULT_SERVER_PORT",
    "DOWN_DELAY_S",
    "KINDS",
    "AnalyticsPolicy",
    "ApplicationProfile",
    "ApplicationProfileRef",
    "CertificateText",
    "CommandClass",
    "ConfigObject",
    "EnrolmentPolicy",
    "FailAction",
    "FailActionType",
    "FullClientLogs",
    "HashBy",
    "HealthMonitor",
    "HealthMonitorType",
    "HttpMonitor",
    "IpAddr",
    "IpAddrType",
    "LbAlgorithm",
    "LogRate",
    "OutlierDetection",
    "PathMatch",
    "Persistence",
    "PersistenceType",
    "Pool",
    "Route",
    "SSLKeyAndCertificate",
    "Server",
    "Service",
    "ServiceEngineGroup",
    "SslProfile",
    "Vip",
    "VirtualService",
    "WhenShort",
    "kind_of",
)


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
    """MiB on the disk of each SE for request logs that no controller has yet, segments and what is still NDJSON. Beyond it
    the oldest go first, and those that are significant last."""
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
