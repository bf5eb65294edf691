"""What must hold within one object beyond its types, and among all objects of a configuration."""

import ipaddress
import re
from collections.abc import Iterator, Mapping

from avinet.model.config import (
    ConfigObject,
    EnrolmentPolicy,
    HealthMonitor,
    HealthMonitorType,
    IpAddrType,
    Pool,
    ServiceEngineGroup,
    VirtualService,
)
from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId

Found = Iterator[tuple[str, str]]
"""(path, why)."""

MAX_SERVERS = 2_000
"""Of one pool; Envoy takes more, but a health check each costs."""
MAX_SERVICES = 64
"""Addresses or ports of one virtual service."""
MAX_NAME = 128

_NAME = re.compile(r"[^\x00-\x1f\x7f/]+")
_CODE = re.compile(r"HTTP_[1-5]XX|[1-5][0-9]{2}")
_REQUEST = re.compile(r"(GET|HEAD|OPTIONS) (/[\x21-\x7e]*)( HTTP/1\.[01])?")


def check_object(thing: ConfigObject) -> Found:
    """Problems within one object."""
    if not 1 <= len(thing.name) <= MAX_NAME or not _NAME.fullmatch(thing.name):
        yield "name", f"it must be 1 to {MAX_NAME} characters without control characters or '/'"
    if isinstance(thing, VirtualService):
        yield from _service(thing)
    elif isinstance(thing, Pool):
        yield from _pool(thing)
    elif isinstance(thing, HealthMonitor):
        yield from _monitor(thing)
    elif isinstance(thing, ServiceEngineGroup):
        yield from _group(thing)


def _service(service: VirtualService) -> Found:
    for name, items in (("vip", service.vip), ("services", service.services)):
        if not 1 <= len(items) <= MAX_SERVICES:
            yield name, f"it must have 1 to {MAX_SERVICES} items, not {len(items)}"
    for name, values in (
        ("vip", [_canonical(vip.ip_address.addr) for vip in service.vip]),
        ("services", [item.port for item in service.services]),
    ):
        for index, value in enumerate(values):
            if value in values[:index]:
                yield f"{name}[{index}]", "it is there twice"
    for index, vip in enumerate(service.vip):
        if vip.ip_address.type is IpAddrType.DNS:
            yield f"vip[{index}].ip_address", "it must be an IP address, not a host name"


def _pool(pool: Pool) -> Found:
    if len(pool.servers) > MAX_SERVERS:
        yield "servers", f"a pool has at most {MAX_SERVERS} servers, not {len(pool.servers)}"
    seen: dict[tuple[str, int], int] = {}
    for index, server in enumerate(pool.servers):
        first = seen.setdefault((_canonical(server.ip.addr), server.port), index)
        if first != index:
            yield f"servers[{index}]", f"{server.ip.addr} port {server.port} is servers[{first}] already"
    for index, ref in enumerate(pool.health_monitor_refs):
        if ref in pool.health_monitor_refs[:index]:
            yield f"health_monitor_refs[{index}]", "it is there twice"


def _monitor(monitor: HealthMonitor) -> Found:
    if monitor.receive_timeout > monitor.send_interval:
        yield "receive_timeout", "it is longer than send_interval, so checks would overlap"
    http = monitor.http_monitor
    if http is None:
        return
    if monitor.type is not HealthMonitorType.HTTP:
        yield "http_monitor", f"a monitor of type {monitor.type.value} has none"
    if not _REQUEST.fullmatch(http.http_request):
        yield (
            "http_monitor.http_request",
            "it must be GET, HEAD or OPTIONS and a path, such as 'GET /health HTTP/1.1'",
        )
    if not http.http_response_code:
        yield "http_monitor.http_response_code", "it must have at least one code"
    for index, code in enumerate(http.http_response_code):
        if not _CODE.fullmatch(code):
            path = f"http_monitor.http_response_code[{index}]"
            yield path, f"it must be HTTP_2XX or alike, or a status such as '204', not {code!r}"


def _group(group: ServiceEngineGroup) -> Found:
    if group.min_scaleout_per_vs > group.max_scaleout_per_vs:
        yield "min_scaleout_per_vs", "it is larger than max_scaleout_per_vs"
    for name in ("enrolment_networks", "allowed_networks"):
        for index, network in enumerate(getattr(group, name)):
            if "%" in network:  # ipaddress takes any text behind it
                yield f"{name}[{index}]", f"{network!r} has a zone, which means something on one host only"
                continue
            try:
                ipaddress.ip_network(network)
            except ValueError as why:
                yield f"{name}[{index}]", str(why)
    if group.enrolment_policy is EnrolmentPolicy.IMAGE:
        if not group.enrolment_networks:
            yield "enrolment_networks", "enrolment by image alone needs the networks it may come from"
        if not group.enrolment_count:
            yield "enrolment_count", "enrolment by image alone needs the number of SEs that may"


def check_together(
    changed: Mapping[ObjectId, int], after: Configuration
) -> Iterator[tuple[ObjectId, str, str]]:
    """Problems among the objects of ``after``: (object, path, why), told of the changed one where one is."""
    taken: dict[tuple[str, int], tuple[VirtualService, int]] = {}
    told: set[tuple[ObjectId, ObjectId]] = set()
    for service in after.all_of(VirtualService):
        if not service.enabled:
            continue
        for vip in service.vip:
            for index, port in enumerate(service.services):
                place = (_canonical(vip.ip_address.addr), port.port)
                other, at = taken.setdefault(place, (service, index))
                if other is service or (other.uuid, service.uuid) in told:
                    continue
                told.add((other.uuid, service.uuid))
                blamed, first, where = (
                    (service, other, index) if service.uuid in changed else (other, service, at)
                )
                yield (
                    blamed.uuid,
                    f"services[{where}].port",
                    f"{place[0]} port {place[1]} belongs to virtual service {first.name!r} already",
                )


def _canonical(address: str) -> str:
    """One spelling of an address or host name."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address.lower().rstrip(".")
