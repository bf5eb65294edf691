"""The configuration objects, in the field names of the Avi API's subset that avinet supports.

These are the stored forms: defaults filled in, references resolved to UUIDs.  What an operator writes (a bare
IP, a name for a reference, fields left out) is turned into them by ``avinet.model.intake``; the URLs and
``_last_modified`` an API client sees are added at that edge.
"""

import enum
from typing import Annotated

import msgspec

from avinet.model.ids import ObjectId

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
Checks = Annotated[int, msgspec.Meta(ge=1, le=50)]
PoolRef = Annotated[ObjectId, msgspec.Meta(extra={"refers_to": "pool"})]
GroupRef = Annotated[ObjectId, msgspec.Meta(extra={"refers_to": "serviceenginegroup"})]
MonitorRef = Annotated[ObjectId, msgspec.Meta(extra={"refers_to": "healthmonitor"})]
"""References are UUIDs once stored; ``extra`` tells the intake what kind a name is to be looked up as."""


class IpAddrType(enum.StrEnum):
    """``DNS`` is a host name that the data plane resolves."""

    V4 = "V4"
    V6 = "V6"
    DNS = "DNS"


class IpAddr(msgspec.Struct, frozen=True, kw_only=True):
    """An address with its kind."""

    addr: str
    type: IpAddrType = IpAddrType.V4


class ConfigObject(msgspec.Struct, frozen=True, kw_only=True):
    """What every object has."""

    uuid: ObjectId
    name: str
    description: str = ""


class HealthMonitorType(enum.StrEnum):
    """How a server is asked whether it is well."""

    HTTP = "HEALTH_MONITOR_HTTP"
    TCP = "HEALTH_MONITOR_TCP"


class HttpMonitor(msgspec.Struct, frozen=True, kw_only=True):
    """The request an HTTP monitor sends and the codes it takes for healthy (``HTTP_2XX`` ... or ``"204"``)."""

    http_request: str = "GET / HTTP/1.1"
    """Method, path and version; the host header is the server's name or address."""
    http_response_code: tuple[str, ...] = ("HTTP_2XX", "HTTP_3XX")


class HealthMonitor(ConfigObject, frozen=True, kw_only=True):
    """Intervals and time-outs in seconds."""

    type: HealthMonitorType = HealthMonitorType.HTTP
    send_interval: Seconds = 10.0
    receive_timeout: Seconds = 4.0
    successful_checks: Checks = 2
    failed_checks: Checks = 2
    monitor_port: Port | None = None
    """Another port than the server's own."""
    http_monitor: HttpMonitor | None = None


class LbAlgorithm(enum.StrEnum):
    """How a server is chosen."""

    ROUND_ROBIN = "LB_ALGORITHM_ROUND_ROBIN"
    LEAST_CONNECTIONS = "LB_ALGORITHM_LEAST_CONNECTIONS"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One member of a pool; ``ratio`` is its weight."""

    ip: IpAddr
    port: Port
    enabled: bool = True
    ratio: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    hostname: str = ""


DEFAULT_SERVER_PORT = 80


class Pool(ConfigObject, frozen=True, kw_only=True):
    """Servers that can answer for one another."""

    default_server_port: Port = DEFAULT_SERVER_PORT
    """For servers that are given without one; each is stored with its own."""
    lb_algorithm: LbAlgorithm = LbAlgorithm.ROUND_ROBIN
    servers: tuple[Server, ...] = ()
    health_monitor_refs: tuple[MonitorRef, ...] = ()
    connect_timeout_s: Seconds = 5.0


class EnrolmentPolicy(enum.StrEnum):
    """What an SE must show to join a group, beside the image key's signature."""

    TOKEN = "token"  # noqa: S105 - the policy's name
    APPROVE = "approve"
    """A token, and an operator compares fingerprints."""
    IMAGE = "image"
    """Nothing more: only from ``enrolment_networks``, at most ``enrolment_count``, unplaced until an operator says."""


class ServiceEngineGroup(ConfigObject, frozen=True, kw_only=True):
    """SEs that serve the same virtual services."""

    min_scaleout_per_vs: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    max_scaleout_per_vs: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """A virtual service goes to this many SEs of the group, if there are so many."""
    enrolment_policy: EnrolmentPolicy = EnrolmentPolicy.TOKEN
    enrolment_networks: tuple[str, ...] = ()
    enrolment_count: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    allowed_networks: tuple[str, ...] = ()
    """Where its SEs may log in from (``from=`` in authorized_keys); anywhere when empty."""


class Vip(msgspec.Struct, frozen=True, kw_only=True):
    """An address that a virtual service answers on."""

    ip_address: IpAddr


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A port that a virtual service answers on."""

    port: Port


class VirtualService(ConfigObject, frozen=True, kw_only=True):
    """What clients connect to: HTTP on addresses and ports, answered by one pool."""

    enabled: bool = True
    vip: tuple[Vip, ...]
    services: tuple[Service, ...]
    pool_ref: PoolRef
    se_group_ref: GroupRef


KINDS: dict[str, type[ConfigObject]] = {
    "healthmonitor": HealthMonitor,
    "pool": Pool,
    "serviceenginegroup": ServiceEngineGroup,
    "virtualservice": VirtualService,
}
"""By the word that the API's paths use."""


def kind_of(thing: ConfigObject) -> str:
    """The API's word for an object's kind."""
    return type(thing).__name__.lower()


DEFAULT_GROUP = "Default-Group"
