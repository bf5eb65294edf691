"""What must hold within a virtual service."""

from collections.abc import Hashable, Sequence

import attrs

from avinet.model.config import ApplicationProfile, IpAddrType, PathMatch, Route, VirtualService
from avinet.model.patterns import canonical_address, is_host_pattern, is_path
from avinet.model.problems import Found, quoted
from avinet.model.regexes import check_regex

MAX_SERVICES = 64
"""Addresses or ports of one virtual service."""
MAX_ROUTES = 250
"""Of one virtual service; they are looked through in order for each request."""
MAX_HOSTS = 100
"""Of one route."""
MAX_CERTIFICATES = 100
"""Of one virtual service."""


def check_service(service: VirtualService) -> Found:
    """Problems of one."""
    for name, items in (("vip", service.vip), ("services", service.services)):
        if not 1 <= len(items) <= MAX_SERVICES:
            yield name, f"it must have 1 to {MAX_SERVICES} items, not {len(items)}"
    for name, values in (
        ("vip", [canonical_address(vip.ip_address.addr) for vip in service.vip]),
        ("services", [item.port for item in service.services]),
        ("ssl_key_and_certificate_refs", service.ssl_key_and_certificate_refs),
        (
            "analytics_policy.significant_client_errors",
            service.analytics_policy.significant_client_errors,
        ),
    ):
        yield from _twice(name, values)
    for index, vip in enumerate(service.vip):
        if vip.ip_address.type is IpAddrType.DNS:
            yield f"vip[{index}].ip_address", "it must be an IP address, not a host name"
    yield from _tls(service)
    if service.application_profile_ref is ApplicationProfile.TCP:
        needed = f"it needs HTTP (application_profile_ref {ApplicationProfile.HTTP.value})"
        if service.routes:
            yield "routes", needed
        if service.http_to_https:
            yield "http_to_https", needed
    yield from _routes(service.routes)


def _twice(name: str, values: Sequence[Hashable]) -> Found:
    seen: set[Hashable] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield f"{name}[{index}]", "it is there twice"
        seen.add(value)


def _tls(service: VirtualService) -> Found:
    path = "ssl_key_and_certificate_refs"
    with_tls = [index for index, one in enumerate(service.services) if one.enable_ssl]
    if len(service.ssl_key_and_certificate_refs) > MAX_CERTIFICATES:
        yield path, f"a virtual service has at most {MAX_CERTIFICATES} certificates"
    if with_tls and not service.ssl_key_and_certificate_refs:
        yield path, f"services[{with_tls[0]}] has enable_ssl, so at least one is needed"
    if service.http_to_https and not with_tls and service.application_profile_ref is ApplicationProfile.HTTP:
        yield "http_to_https", "there is no port with TLS to redirect to; one of services needs enable_ssl"


def _routes(routes: Sequence[Route]) -> Found:
    if len(routes) > MAX_ROUTES:
        yield "routes", f"a virtual service has at most {MAX_ROUTES} routes, not {len(routes)}"
        return
    found = [
        (f"routes[{index}].{path}", why) for index, route in enumerate(routes) for path, why in _route(route)
    ]
    if found:
        # They may have more hosts, and longer ones, than can be compared in a moment.
        yield from found
        return
    for index, earlier in unreachable(routes):
        same = routes[earlier]
        if (same.path, same.path_match) == (routes[index].path, routes[index].path_match):
            yield f"routes[{index}]", f"it is never reached: routes[{earlier}] takes the same"


def _route(route: Route) -> Found:
    if len(route.hosts) > MAX_HOSTS:
        yield "hosts", f"a route has at most {MAX_HOSTS} hosts, not {len(route.hosts)}"
    for number, host in enumerate(route.hosts):
        if not is_host_pattern(host):
            allowed = "a host name, an address, or '*.' and a name; no port"
            yield f"hosts[{number}]", f"it must be {allowed}, not {quoted(host)}"
    yield from _twice("hosts", [host.lower() for host in route.hosts])
    if route.path_match is PathMatch.REGEX:
        if why := check_regex(route.path):
            yield "path", f"the data plane cannot take this expression: {why}"
    elif not is_path(route.path):
        yield "path", "it must begin with '/', in printable ASCII (others as %XX), without '?' and '#'"


@attrs.frozen
class _Hosts:
    """A route's, for comparison with those of hundreds of others: 100 with 100, each with each, took half a minute."""

    all: frozenset[str]
    wild: tuple[str, ...]
    """What follows the ``*`` of its patterns."""

    @classmethod
    def of(cls, route: Route) -> "_Hosts":
        hosts = frozenset(host.lower() for host in route.hosts)
        return cls(hosts, tuple(host[1:] for host in hosts if host.startswith("*.")))

    def cover(self, others: "_Hosts") -> bool:
        """Whether whatever a pattern of ``others`` takes is taken by one of these."""
        if not self.all:
            return True
        return bool(others.all) and all(host.endswith(self.wild) for host in others.all - self.all)


def unreachable(routes: Sequence[Route]) -> list[tuple[int, int]]:
    """(route, an earlier one that takes whatever it would take)."""
    found: list[tuple[int, int]] = []
    hosts = [_Hosts.of(route) for route in routes]
    for index, route in enumerate(routes):
        for earlier, one in enumerate(routes[:index]):
            if _path_covers(one, route) and hosts[earlier].cover(hosts[index]):
                found.append((index, earlier))
                break
    return found


def _path_covers(one: Route, other: Route) -> bool:
    if (one.path, one.path_match) == (other.path, other.path_match):
        return True
    if one.path_match is not PathMatch.BEGINS_WITH:
        return False
    # All paths, whatever an expression says.
    if one.path == "/":
        return True
    below = one.path if one.path.endswith("/") else one.path + "/"
    return other.path_match is not PathMatch.REGEX and (
        other.path.startswith(below) or (other.path == one.path)
    )
