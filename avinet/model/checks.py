"""What must hold within one object beyond its types, and among all objects of a configuration."""

import ipaddress
import re
import unicodedata
from collections.abc import Iterator, Mapping

from avinet.model.checks_certificate import check_certificate
from avinet.model.checks_monitor import check_monitor
from avinet.model.checks_pool import check_pool, unsuited
from avinet.model.checks_service import check_service
from avinet.model.config import (
    ApplicationProfile,
    ConfigObject,
    EnrolmentPolicy,
    HealthMonitor,
    Pool,
    ServiceEngineGroup,
    SSLKeyAndCertificate,
    VirtualService,
)
from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId
from avinet.model.patterns import canonical_address
from avinet.model.problems import Found, quoted
from avinet.model.references import pools_of

MAX_NAME = 128

_INTERFACE = re.compile(r"(?!\.{1,2}$|-)[A-Za-z0-9._-]{1,15}")
"""Of those that Linux takes; no aliases (``eth0:1``), which are no interfaces."""
_EVERYWHERE = frozenset({"127.0.0.1", "::1"})
"""Addresses that every host has, so that none adds them."""


def check_object(thing: ConfigObject) -> Found:
    """Problems within one object."""
    if not 1 <= len(thing.name) <= MAX_NAME or "/" in thing.name:
        yield "name", f"it must be 1 to {MAX_NAME} characters without '/'"
    elif not thing.name.isprintable() or thing.name != unicodedata.normalize("NFC", thing.name.strip()):
        yield "name", f"{thing.name!a} has what cannot be seen: {_unseen(thing.name)}"
    match thing:
        case VirtualService():
            yield from check_service(thing)
        case Pool():
            yield from check_pool(thing)
        case HealthMonitor():
            yield from check_monitor(thing)
        case SSLKeyAndCertificate():
            yield from check_certificate(thing)
        case ServiceEngineGroup():
            yield from _group(thing)


def _unseen(name: str) -> str:
    """What tells a name from another that looks the same, or makes a terminal show something else."""
    odd = next((letter for letter in name if not letter.isprintable()), "")
    if odd:
        return f"the character U+{ord(odd):04X}"
    if name != name.strip():
        return "spaces around it"
    return "letters and their accents apart (it must be in Unicode's form NFC)"


def _group(group: ServiceEngineGroup) -> Found:
    if group.min_scaleout_per_vs > group.max_scaleout_per_vs:
        yield "min_scaleout_per_vs", "it is larger than max_scaleout_per_vs"
    if group.vip_interface and not _INTERFACE.fullmatch(group.vip_interface):
        yield (
            "vip_interface",
            f"{quoted(group.vip_interface)} is no interface's name: 1 to 15 letters, digits, '.', '_' or '-'",
        )
    for name in ("enrolment_networks", "allowed_networks"):
        for index, network in enumerate(getattr(group, name)):
            if "%" in network:  # ipaddress takes any text behind it
                why = f"{quoted(network)} has a zone, which means something on one host only"
                yield f"{name}[{index}]", why
                continue
            try:
                ipaddress.ip_network(network)
            except ValueError:
                why = f"{quoted(network)} is not a network such as '10.0.0.0/8', with no bits set behind its length"
                yield f"{name}[{index}]", why
    if group.enrolment_policy is EnrolmentPolicy.IMAGE:
        if not group.enrolment_networks:
            yield "enrolment_networks", "enrolment by image alone needs the networks it may come from"
        if not group.enrolment_count:
            yield "enrolment_count", "enrolment by image alone needs the number of SEs that may"


Blamed = Iterator[tuple[ObjectId, str, str]]
"""(object, path, why)."""


def check_together(changed: Mapping[ObjectId, int], after: Configuration) -> Blamed:
    """Problems among the objects of ``after``: (object, path, why), told of the changed one where one is."""
    services = after.all_of(VirtualService)
    yield from _addresses(changed, services)
    for service in services:
        if service.application_profile_ref is ApplicationProfile.TCP:
            yield from _pools(changed, after, service)
        if service.enabled and (service.uuid in changed or service.se_group_ref in changed):
            yield from _on_interface(changed, after, service)
    for pool in after.all_of(Pool):
        if pool.uuid in changed or any(ref in changed for ref in pool.health_monitor_refs):
            yield from _ports(changed, after, pool)


def _ports(changed: Mapping[ObjectId, int], after: Configuration, pool: Pool) -> Blamed:
    """A data plane asks all of a server's checks on one port: that is a property of the server."""
    found = (after.objects[ref].thing for ref in pool.health_monitor_refs if ref in after.objects)
    monitors = [thing for thing in found if isinstance(thing, HealthMonitor)]
    for server in pool.servers:
        ports = {monitor.monitor_port or server.port for monitor in monitors}
        if len(ports) <= 1:
            continue
        shown = ", ".join(str(port) for port in sorted(ports))
        if pool.uuid in changed:
            why = f"they ask {server.ip.addr} on different ports ({shown}), which must be one"
            yield pool.uuid, "health_monitor_refs", why
        else:
            blamed = next(monitor for monitor in monitors if monitor.uuid in changed)
            why = (
                f"the monitors of pool {pool.name!r} would ask {server.ip.addr} on different ports ({shown})"
            )
            yield blamed.uuid, "monitor_port", why
        return


def _addresses(changed: Mapping[ObjectId, int], services: list[VirtualService]) -> Blamed:
    taken: dict[tuple[str, int], tuple[VirtualService, int]] = {}
    told: set[tuple[ObjectId, ObjectId]] = set()
    for service in services:
        if not service.enabled:
            continue
        for vip in service.vip:
            address = canonical_address(vip.ip_address.addr)
            for index, port in enumerate(service.services):
                place = (address, port.port)
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


def _on_interface(changed: Mapping[ObjectId, int], after: Configuration, service: VirtualService) -> Blamed:
    """What a group's SEs add to an interface must be an address that one can have there."""
    stored = after.objects.get(service.se_group_ref)
    group = stored.thing if stored is not None else None
    if not isinstance(group, ServiceEngineGroup) or not group.vip_interface:
        return
    for index, vip in enumerate(service.vip):
        address = ipaddress.ip_address(vip.ip_address.addr)
        if str(address) in _EVERYWHERE or not (address.is_unspecified or address.is_loopback):
            continue
        cannot = f"{address} cannot be added to an interface"
        if service.uuid in changed:
            why = f"{cannot}, as group {group.name!r} wants it ({group.vip_interface})"
            yield service.uuid, f"vip[{index}].ip_address", why
        else:
            yield group.uuid, "vip_interface", f"{cannot}; virtual service {service.name!r} has it"


def _pools(changed: Mapping[ObjectId, int], after: Configuration, service: VirtualService) -> Blamed:
    """A pool that is in use must suit its user, whichever of the two is new."""
    for path, ref in pools_of(service):
        if service.uuid not in changed and ref not in changed:
            continue
        pool = after.objects[ref].thing if ref in after.objects else None
        if not isinstance(pool, Pool):
            continue  # it is being deleted, which is told elsewhere
        for field, why in unsuited(pool, service):
            if service.uuid in changed:
                yield service.uuid, path, f"pool {pool.name!r} does not suit TCP: {field}: {why}"
            else:
                yield pool.uuid, field, f"virtual service {service.name!r} uses this pool: {why}"
