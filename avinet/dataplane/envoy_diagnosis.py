"""Why servers fail their checks, found out beside Envoy: which looks to take, and what they said.

The questions are made from the clusters as Envoy has them, so that what is asked is what Envoy asks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from avinet.dataplane.envoy_health import Endpoint, endpoints_of
from avinet.dataplane.envoy_readback import ours
from avinet.dataplane.interface import Failure, ServerStatus
from avinet.dataplane.look import Finding, Http, Question, Tls, look

AGAIN_S = 60.0
"""How old what was seen may be before it is looked at again."""
MAX_LOOKS = 2
"""At once; each holds a thread for as long as ``look`` may take."""
_LOOKED_AT = frozenset({Failure.CHECK_FAILED})
"""A time-out speaks for itself, and would cost one."""
_OK = {"start": 200, "end": 201}
_log = Logger()

_Key = tuple[str, str]


def _socket_of(cluster: Mapping[str, Any], endpoint: Mapping[str, Any], check: Mapping[str, Any]) -> Any:
    """The transport socket that Envoy takes for a check of a server."""
    marks = endpoint.get("metadata", {}).get("filter_metadata", {}).get("envoy.transport_socket_match", {})
    wanted = check.get("transport_socket_match_criteria", marks)
    for match in cluster.get("transport_socket_matches", ()):
        if wanted and match["match"].items() <= wanted.items():
            return match["transport_socket"]
    return cluster.get("transport_socket")


def _tls_of(found: Any, hostname: str) -> Tls | None:
    context = found.get("typed_config", {}) if found else {}
    if "common_tls_context" not in context:
        return None
    common = context["common_tls_context"]
    validation = common.get("validation_context", {})
    versions = common.get("tls_params", {})
    own = context.get("auto_host_sni", False)
    return Tls(
        name=hostname if own else context.get("sni", ""),
        ca=validation.get("trusted_ca", {}).get("inline_string", ""),
        verify_name=bool(
            context.get("auto_sni_san_validation") or validation.get("match_typed_subject_alt_names")
        ),
        at_least_1_3=versions.get("tls_minimum_protocol_version") == "TLSv1_3",
    )


def _http_of(check: Mapping[str, Any], config: Mapping[str, Any], cluster: str) -> Http | None:
    http = check.get("http_health_check")
    if http is None:
        return None
    return Http(
        method=http.get("method", "GET"),
        path=http["path"],
        host=config.get("hostname") or http.get("host") or cluster,
        # Envoy leaves out what is 0 or unset.
        statuses=tuple((int(r["start"]), int(r["end"])) for r in http.get("expected_statuses", (_OK,))),
        body=bytes.fromhex("".join(payload["text"] for payload in http.get("receive", ()))),
    )


def questions_of(cluster: Mapping[str, Any], endpoint: Endpoint) -> list[Question]:
    """What Envoy asks of one server, a question for each monitor.

    None where a client certificate is shown: the agent does not have it, and would be told off for that.
    """
    if "tls_certificate_sds_secret_configs" in str(cluster.get("transport_socket")):
        return []
    questions: list[Question] = []
    for locality in cluster.get("load_assignment", {}).get("endpoints", ()):
        for item in locality.get("lb_endpoints", ()):
            place = item["endpoint"]["address"]["socket_address"]
            if (place["address"], place["port_value"]) != (endpoint.address, endpoint.port):
                continue
            config = item["endpoint"].get("health_check_config", {})
            questions.extend(
                Question(
                    address=endpoint.address,
                    port=config.get("port_value") or endpoint.port,
                    timeout_s=float(str(check["timeout"]).removesuffix("s")),
                    tls=_tls_of(_socket_of(cluster, item, check), endpoint.hostname),
                    http=_http_of(check, config, cluster["name"]),
                )
                for check in cluster.get("health_checks", ())
            )
    return questions


def first_failure(questions: Iterable[Question]) -> Finding:
    """What the first check that fails shows.  Blocking."""
    for question in questions:
        finding = look(question)
        if finding.failure is not Failure.NONE:
            return finding
    return Finding(
        Failure.CHECK_FAILED, "fails its health check, but a look from here just now found nothing wrong"
    )


@attrs.frozen
class _Seen:
    at: float
    questions: list[Question]
    finding: Finding


@attrs.define(eq=False)
class Diagnoses:
    """What was seen of the servers that fail their checks; those that do not are forgotten."""

    in_thread: Callable[..., Deferred[Any]]
    seconds: Callable[[], float]
    _seen: dict[_Key, _Seen] = attrs.field(factory=dict, init=False)
    _waiting: dict[_Key, list[Question]] = attrs.field(factory=dict, init=False)
    _looking: set[_Key] = attrs.field(factory=set, init=False)

    def explain(
        self, servers: Iterable[ServerStatus], clusters: Iterable[Mapping[str, Any]]
    ) -> tuple[ServerStatus, ...]:
        """``servers`` with what has been seen so far; begins to look at those of which nothing is known."""
        statuses = tuple(servers)
        failing = {(s.pool, s.server) for s in statuses if s.failure in _LOOKED_AT}
        asked = dict(self._questions(failing, clusters)) if failing else {}
        # What another question showed, before the pool or its monitors were changed, says nothing now.
        self._seen = {key: seen for key, seen in self._seen.items() if asked.get(key) == seen.questions}
        self._waiting = {
            key: questions
            for key, questions in asked.items()
            if key not in self._looking
            and (key not in self._seen or self._seen[key].at + AGAIN_S < self.seconds())
        }
        self._begin()
        return tuple(self._explained(status) for status in statuses)

    def _questions(
        self, wanted: set[_Key], clusters: Iterable[Mapping[str, Any]]
    ) -> Iterator[tuple[_Key, list[Question]]]:
        for cluster in clusters:
            pool = str(ours(cluster).get("pool", ""))
            for endpoint in endpoints_of(cluster):
                key = (pool, endpoint.label)
                questions = questions_of(cluster, endpoint) if key in wanted else []
                if questions:
                    yield key, questions

    def _explained(self, status: ServerStatus) -> ServerStatus:
        seen = self._seen.get((status.pool, status.server))
        if seen is None:
            return status
        return attrs.evolve(status, failure=seen.finding.failure, reason=seen.finding.reason)

    def _begin(self) -> None:
        while self._waiting and len(self._looking) < MAX_LOOKS:
            key = next(iter(self._waiting))
            questions = self._waiting.pop(key)
            self._looking.add(key)
            looked = Deferred.fromCoroutine(self._look(key, questions))
            looked.addErrback(lambda failure: _log.failure("looking at a server failed", failure))

    async def _look(self, key: _Key, questions: list[Question]) -> None:
        try:
            finding: Finding = await self.in_thread(first_failure, questions)
            self._seen[key] = _Seen(self.seconds(), questions, finding)
        finally:
            self._looking.discard(key)
            self._begin()

    def stop(self) -> None:
        """Begin no more looks."""
        self._waiting = {}
