"""What a pool asks of the listeners that send traffic to it: pieces of their configuration.

Envoy keeps much of what belongs to a pool with the listener: how a request is hashed, repeated and timed out with
the route, the session cookie with the connection manager, the answer for want of a server with the local replies.
Whoever renders a virtual service puts these pieces in; ``cluster`` is the name of the pool's cluster.

Everything here is for one pool, or for all pools of one virtual service; a virtual service with several pools has
each pool's own.
"""

from collections.abc import Iterable
from typing import Any

from avinet.model.config import (
    FailAction,
    FailActionType,
    HashBy,
    LbAlgorithm,
    PersistenceType,
    Pool,
)

TCP_IDLE_S = 3600.0
"""Of a TCP connection without traffic, where the pool has the default, which is made for HTTP; Envoy's own default.
A database session may well be silent for minutes."""
REDIRECT_CODES = frozenset({301, 302, 307, 308})
_DEFAULT_IDLE_S = 55.0
"""``Pool.idle_timeout_s`` when nobody chose one."""
_FOUND = 302

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_PREVIOUS_HOSTS = f"{_EXTENSIONS}.retry.host.previous_hosts.v3.PreviousHostsPredicate"
_SESSION_FILTER = "envoy.filters.http.stateful_session"
_SESSION = f"{_EXTENSIONS}.filters.http.stateful_session.v3.StatefulSession"
_SESSION_PER_ROUTE = f"{_EXTENSIONS}.filters.http.stateful_session.v3.StatefulSessionPerRoute"
_COOKIE = f"{_EXTENSIONS}.http.stateful_session.cookie.v3.CookieBasedSessionState"
_CEL = f"{_EXTENSIONS}.access_loggers.filters.cel.v3.ExpressionFilter"

_SAFE_METHODS = "GET|HEAD|OPTIONS"
_NEVER_REACHED = "connect-failure,refused-stream"


def by_client_address(pool: Pool) -> bool:
    """Whether the client's address alone decides which server it gets.

    Persistence by address goes before the pool's algorithm: Envoy keeps no table of clients, so the address is
    hashed, and then nothing else can have a say.
    """
    persistence = pool.persistence
    if persistence is not None and persistence.persistence_type is PersistenceType.CLIENT_IP:
        return True
    return pool.lb_algorithm is LbAlgorithm.CONSISTENT_HASH and pool.lb_algorithm_hash is HashBy.SOURCE_IP


def is_hashed(pool: Pool) -> bool:
    """Whether the pool's cluster needs a consistent hash."""
    return pool.lb_algorithm is LbAlgorithm.CONSISTENT_HASH or by_client_address(pool)


def _hash_policy(pool: Pool) -> list[dict[str, Any]]:
    address = {"connection_properties": {"source_ip": True}}
    if not is_hashed(pool):
        return []
    if by_client_address(pool):
        return [address]
    header = ":path" if pool.lb_algorithm_hash is HashBy.URI else pool.lb_algorithm_consistent_hash_hdr
    # A request without the header goes by its client's address: else each would get another server.
    return [{"header": {"header_name": header}, "terminal": True}, address]


def _retry_policy(pool: Pool, retry_on: str) -> dict[str, Any]:
    return {
        "retry_on": retry_on,
        "num_retries": pool.retries,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": _PREVIOUS_HOSTS},
            }
        ],
        # How often another server is looked for before the same one is taken again.
        "host_selection_retry_max_attempts": 3,
    }


def _action(pool: Pool, cluster: str, retry_on: str) -> dict[str, Any]:
    action: dict[str, Any] = {"cluster": cluster, "timeout": f"{pool.request_timeout_s:g}s"}
    if pool.retries:
        action["retry_policy"] = _retry_policy(pool, retry_on)
    policy = _hash_policy(pool)
    if policy:
        action["hash_policy"] = policy
    return action


def cookie_name(pool: Pool) -> str:
    """Of the cookie that keeps a client on its server."""
    persistence = pool.persistence
    given = persistence.cookie_name if persistence is not None else ""
    return given or f"avinet-{pool.uuid}"


def _session(pool: Pool) -> dict[str, Any]:
    """``typed_per_filter_config`` of a route; empty without a cookie."""
    persistence = pool.persistence
    if persistence is None or persistence.persistence_type is not PersistenceType.HTTP_COOKIE:
        return {}
    cookie: dict[str, Any] = {"name": cookie_name(pool), "path": "/"}
    if persistence.timeout_s:
        cookie["ttl"] = f"{persistence.timeout_s:g}s"
    # Not strict: a client whose server is gone is given another one, and its cookie.
    session = {
        "session_state": {
            "name": "envoy.http.stateful_session.cookie",
            "typed_config": {"@type": _COOKIE, "cookie": cookie},
        }
    }
    return {_SESSION_FILTER: {"@type": _SESSION_PER_ROUTE, "stateful_session": session}}


def pool_routes(pool: Pool, cluster: str, match: dict[str, Any]) -> list[dict[str, Any]]:
    """Envoy's routes that send what ``match`` (a ``RouteMatch``) takes to the pool, to stand in this order.

    Two: what a server dropped after it had the request is sent again only where that is harmless.
    """
    safe = {"name": ":method", "string_match": {"safe_regex": {"regex": _SAFE_METHODS}}}
    found = [
        {
            "match": {**match, "headers": [*match.get("headers", ()), safe]},
            "route": _action(pool, cluster, f"{_NEVER_REACHED},reset"),
        },
        {"match": match, "route": _action(pool, cluster, _NEVER_REACHED)},
    ]
    session = _session(pool)
    return [{**route, "typed_per_filter_config": session} for route in found] if session else found


def pool_filters(pools: Iterable[Pool]) -> list[dict[str, Any]]:
    """HTTP filters that a connection manager needs before its router, for all pools that it sends to."""
    if not any(_session(pool) for pool in pools):
        return []
    # Without a session of its own it does nothing; the routes have theirs.
    return [{"name": _SESSION_FILTER, "typed_config": {"@type": _SESSION}}]


def _literal(text: str) -> str:
    """``text`` where Envoy expects a format."""
    return text.replace("%", "%%")


def _no_server(cluster: str) -> dict[str, Any]:
    """An access log filter: the request was for ``cluster`` and no server of it was up."""
    name = cluster.replace("\\", "\\\\").replace("'", "\\'")
    of_pool = {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {"@type": _CEL, "expression": f"xds.cluster_name == '{name}'"},
        }
    }
    return {"and_filter": {"filters": [{"response_flag_filter": {"flags": ["UH"]}}, of_pool]}}


def _answer(action: FailAction) -> dict[str, Any]:
    """The rewriting part of a local reply mapper."""
    answer: dict[str, Any] = {
        "status_code": 503,
        "body": {"inline_string": ""},
        "body_format_override": {
            "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"},
            "content_type": action.content_type,
        },
    }
    if action.type is FailActionType.LOCAL_RESPONSE:
        answer["status_code"] = action.status_code
        answer["body"] = {"inline_string": action.body}
    elif action.type is FailActionType.REDIRECT:
        answer["status_code"] = action.status_code if action.status_code in REDIRECT_CODES else _FOUND
        answer["headers_to_add"] = [
            {
                "header": {"key": "location", "value": _literal(action.redirect_url)},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ]
    return answer


def pool_replies(pools: Iterable[tuple[Pool, str]]) -> list[dict[str, Any]]:
    """Mappers for ``local_reply_config``: the pools' fail actions, for all (pool, cluster) of a virtual service."""
    return [{"filter": _no_server(cluster), **_answer(pool.fail_action)} for pool, cluster in pools]


def pool_tcp_proxy(pool: Pool, cluster: str) -> dict[str, Any]:
    """Fields of a ``tcp_proxy``: without a server up it closes the client's connection."""
    idle_s = TCP_IDLE_S if pool.idle_timeout_s == _DEFAULT_IDLE_S else pool.idle_timeout_s
    fields: dict[str, Any] = {
        "cluster": cluster,
        "idle_timeout": f"{idle_s:g}s",
        "max_connect_attempts": pool.retries + 1,
    }
    if is_hashed(pool):
        # All that there is to hash without HTTP.
        fields["hash_policy"] = [{"source_ip": {}}]
    return fields
