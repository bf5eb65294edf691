"""What must hold within a pool, and between it and the virtual services that send to it."""

from avinet.model.checks_certificate import check_bundle
from avinet.model.config import (
    ApplicationProfile,
    FailAction,
    FailActionType,
    HashBy,
    LbAlgorithm,
    PersistenceType,
    Pool,
    VirtualService,
)
from avinet.model.patterns import canonical_address, is_host_name, is_media_type, is_token, is_whole_url
from avinet.model.problems import Found, quoted

MAX_SERVERS = 2_000
"""Of one pool; Envoy takes more, but a health check each costs."""
MAX_MONITORS = 10
"""Of one pool: each asks every server."""
MAX_CA_TEXTS = 50
REDIRECT_CODES = (301, 302, 307, 308)
WITHOUT_BODY = frozenset({204, 205, 304})
"""Statuses whose answer ends with its header (RFC 9110)."""

UNSPECIFIED = frozenset({"0.0.0.0", "::"})  # noqa: S104 - nobody binds them here
"""To connect there is to connect to oneself, by accident."""

_DEFAULT = FailAction()


def check_pool(pool: Pool) -> Found:
    """Problems of one."""
    yield from _servers(pool)
    yield from _choice(pool)
    yield from _persistence(pool)
    yield from _fail_action(pool.fail_action)
    yield from _tls(pool)


def _servers(pool: Pool) -> Found:
    if len(pool.servers) > MAX_SERVERS:
        yield "servers", f"a pool has at most {MAX_SERVERS} servers, not {len(pool.servers)}"
    seen: dict[tuple[str, int], int] = {}
    for index, server in enumerate(pool.servers):
        first = seen.setdefault((canonical_address(server.ip.addr), server.port), index)
        if first != index:
            yield f"servers[{index}]", f"{server.ip.addr} port {server.port} is servers[{first}] already"
        if canonical_address(server.ip.addr) in UNSPECIFIED:
            yield f"servers[{index}].ip", f"{quoted(server.ip.addr)} is no server's address"
        if server.hostname and not is_host_name(server.hostname):
            yield f"servers[{index}].hostname", f"{quoted(server.hostname)} is not a host name"
    if len(pool.health_monitor_refs) > MAX_MONITORS:
        yield "health_monitor_refs", f"a pool has at most {MAX_MONITORS} monitors"
    for index, ref in enumerate(pool.health_monitor_refs):
        if ref in pool.health_monitor_refs[:index]:
            yield f"health_monitor_refs[{index}]", "it is there twice"


def _choice(pool: Pool) -> Found:
    by_header = pool.lb_algorithm is LbAlgorithm.CONSISTENT_HASH and pool.lb_algorithm_hash is HashBy.HEADER
    header, path = pool.lb_algorithm_consistent_hash_hdr, "lb_algorithm_consistent_hash_hdr"
    if by_header and not is_token(header):
        yield path, f"it must name the header to hash by, such as 'X-Account', not {quoted(header)}"
    elif header and not by_header:
        needed = (
            f"lb_algorithm {LbAlgorithm.CONSISTENT_HASH.value} and lb_algorithm_hash {HashBy.HEADER.value}"
        )
        yield path, f"it is used only with {needed}"


def _persistence(pool: Pool) -> Found:
    persistence = pool.persistence
    if persistence is None:
        return
    by_cookie = persistence.persistence_type is PersistenceType.HTTP_COOKIE
    if persistence.cookie_name:
        if not by_cookie:
            yield (
                "persistence.cookie_name",
                f"{persistence.persistence_type.value} sets no cookie; leave it out",
            )
        elif not is_token(persistence.cookie_name):
            allowed = "letters, digits and !#$%&'*+-.^_`|~, 128 at most"
            yield "persistence.cookie_name", f"a cookie's name is made of {allowed}"
    if persistence.timeout_s and not by_cookie:
        yield "persistence.timeout_s", f"{persistence.persistence_type.value} sets no cookie; leave it out"


def _fail_action(action: FailAction) -> Found:
    kind = action.type
    for name, owner in (
        ("body", FailActionType.LOCAL_RESPONSE),
        ("content_type", FailActionType.LOCAL_RESPONSE),
        ("redirect_url", FailActionType.REDIRECT),
    ):
        if kind is not owner and getattr(action, name) != getattr(_DEFAULT, name):
            yield f"fail_action.{name}", f"{kind.value} has none; it belongs to {owner.value}"
    path = "fail_action.status_code"
    if kind is FailActionType.CLOSE_CONNECTION and action.status_code != _DEFAULT.status_code:
        yield path, f"{kind.value} answers 503; another status takes {FailActionType.LOCAL_RESPONSE.value}"
    if kind is FailActionType.LOCAL_RESPONSE:
        if action.body and action.status_code in WITHOUT_BODY:
            yield "fail_action.body", f"an answer of {action.status_code} has no body"
        if not is_media_type(action.content_type):
            why = f"it must be a media type such as 'text/html', not {quoted(action.content_type)}"
            yield "fail_action.content_type", why
    if kind is FailActionType.REDIRECT:
        if action.status_code not in REDIRECT_CODES:
            yield path, f"a redirect takes {', '.join(map(str, REDIRECT_CODES))}, not {action.status_code}"
        if not is_whole_url(action.redirect_url):
            why = "it must be a whole URL in printable ASCII, such as 'https://status.example.com/'"
            yield "fail_action.redirect_url", why


def _tls(pool: Pool) -> Found:
    if len(pool.ca_certs) > MAX_CA_TEXTS:
        yield "ca_certs", f"there are at most {MAX_CA_TEXTS}; one may have many certificates"
    for index, pem in enumerate(pool.ca_certs[:MAX_CA_TEXTS]):
        yield from check_bundle(pem, f"ca_certs[{index}]")
    if pool.server_name and not is_host_name(pool.server_name):
        yield "server_name", f"{quoted(pool.server_name)} is not a host name"
    if pool.ssl_profile_ref is None:
        for name in ("ca_certs", "server_name", "ssl_key_and_certificate_ref"):
            # Not a warning: whoever names a CA believes that nothing goes in the clear.
            if getattr(pool, name):
                yield name, "it needs TLS to the servers: set ssl_profile_ref, or leave it out"


def unsuited(pool: Pool, service: VirtualService) -> Found:
    """Fields of the pool that this virtual service cannot do: (path in the pool, what it needs)."""
    if service.application_profile_ref is not ApplicationProfile.TCP:
        return
    if pool.persistence is not None and pool.persistence.persistence_type is PersistenceType.HTTP_COOKIE:
        allowed = PersistenceType.CLIENT_IP.value
        yield "persistence.persistence_type", f"a cookie needs HTTP; TCP has {allowed}"
    if pool.lb_algorithm is LbAlgorithm.CONSISTENT_HASH and pool.lb_algorithm_hash is not HashBy.SOURCE_IP:
        yield "lb_algorithm_hash", f"it needs HTTP; TCP has {HashBy.SOURCE_IP.value}"
    if pool.fail_action.type is not FailActionType.CLOSE_CONNECTION:
        yield "fail_action.type", f"it needs HTTP; TCP has {FailActionType.CLOSE_CONNECTION.value}"
