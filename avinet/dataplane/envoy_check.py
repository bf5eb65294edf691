"""Whether a configuration can be had, asked before the running Envoy is touched, and which resource is at fault.

A second Envoy that only checks (``--mode validate``) looks at everything but addresses, which are asked of the kernel.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults

from avinet.dataplane.addresses import check_address
from avinet.dataplane.envoy_binary import EnvoyBinary, validate_with
from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_readback import ours
from avinet.dataplane.envoy_render import CARRIER, Rendered
from avinet.dataplane.envoy_secret import Secret, sds_config
from avinet.dataplane.envoy_settings import EnvoySettings
from avinet.dataplane.interface import RejectedError

MAX_PROBES = 100
"""Certificates that are looked at one by one when Envoy does not say which it refuses: some 50 ms each."""
MAX_AT_ONCE = 2
"""Processes that look at a large change beside each other, some 60 MiB each: the requests under way need the machine too."""
WORTH_A_PROCESS = 100
"""Listeners: they take Envoy as long as a change is allowed to be noticed, 0.1 s."""
_PLACE = re.compile(r"StaticResourcesValidationError\.(Clusters|Listeners)\[(\d+)\]")
"""How validation says which one it means."""
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


@attrs.frozen
class _Good:
    """What Envoy has nothing against, by name."""

    clusters: Mapping[str, Any] = attrs.field(factory=dict)
    listeners: Mapping[str, Any] = attrs.field(factory=dict)
    secrets: Mapping[str, str] = attrs.field(factory=dict)
    """Resource name to digest."""

    @classmethod
    def of(cls, wanted: Rendered) -> "_Good":
        """All that there is."""
        return cls(
            {cluster["name"]: cluster for cluster in wanted.clusters},
            {listener["name"]: listener for listener in wanted.listeners},
            {secret.resource: secret.digest for secret in wanted.secrets},
        )

    def rest(self, wanted: Rendered) -> Rendered:
        """What of ``wanted`` has to be looked at, with all that it refers to.

        Envoy looks at each listener by itself, for whether it is well made and its clusters and secrets are there; at
        each cluster likewise.  So what is as it was, with the same secrets, is as good as it was.
        """
        changed = {s.resource for s in wanted.secrets if self.secrets.get(s.resource) != s.digest}

        def is_new(item: dict[str, Any], known: Mapping[str, Any]) -> bool:
            return known.get(item["name"]) != item or not changed.isdisjoint(_certificates(item))

        listeners = [item for item in wanted.listeners if is_new(item, self.listeners)]
        clusters = {item["name"] for item in wanted.clusters if is_new(item, self.clusters)}
        return _part(wanted, listeners, clusters)


def _clusters(listener: Mapping[str, Any]) -> Iterable[str]:
    found: Iterable[str] = ours(listener).get("clusters", ())
    return found


def _part(wanted: Rendered, listeners: Sequence[dict[str, Any]], clusters: set[str]) -> Rendered:
    """These ``listeners`` and ``clusters`` of ``wanted``, and all that they refer to."""
    needed = clusters.union(*map(_clusters, listeners))
    found = tuple(item for item in wanted.clusters if item["name"] in needed)
    used = {name for item in (*found, *listeners) for name in _certificates(item)}
    secrets = tuple(secret for secret in wanted.secrets if secret.resource in used)
    return attrs.evolve(wanted, clusters=found, listeners=tuple(listeners), secrets=secrets)


def _parts(wanted: Rendered) -> list[Rendered]:
    """``wanted`` in parts that are looked at beside each other: all of it, and each with what it refers to."""
    count = min(MAX_AT_ONCE, len(wanted.listeners) // WORTH_A_PROCESS)
    if count < 2:
        return [wanted]
    size = -(-len(wanted.listeners) // count)
    chunks = [wanted.listeners[start : start + size] for start in range(0, len(wanted.listeners), size)]
    unused = {item["name"] for item in wanted.clusters}.difference(*map(_clusters, wanted.listeners))
    return [_part(wanted, chunk, unused if chunk is chunks[0] else set()) for chunk in chunks]


def _certificates(item: Mapping[str, Any]) -> Iterable[str]:
    found: Iterable[str] = ours(item).get("certificates", ())
    return found


def _check_addresses(endpoints: Mapping[tuple[str, int], str]) -> None:
    for (address, port), resource in endpoints.items():
        check_address(address, port, resource)


@attrs.define(eq=False)
class EnvoyCheck:
    """Checks of one Envoy's next configuration.  One at a time."""

    files: EnvoyFiles
    settings: EnvoySettings
    in_thread: Callable[..., Deferred[Any]]
    _good: _Good = attrs.field(factory=_Good, init=False)

    def found_good(self, wanted: Rendered) -> None:
        """``wanted`` is known to be had: it is in force, or was looked at."""
        self._good = _Good.of(wanted)

    async def check(self, wanted: Rendered, binary: EnvoyBinary) -> None:
        """``RejectedError`` when ``wanted`` cannot be had; nothing is touched.

        ``binary`` is the same each time.  It looks at what is not as it was when it was looked at last.
        """
        await self.in_thread(_check_addresses, wanted.endpoints)
        rest = self._good.rest(wanted)
        parts = _parts(rest) if rest.clusters or rest.listeners else []
        for part, why in zip(parts, await self._validate(binary, parts), strict=True):
            if why:
                raise await self._rejection(binary, part, why)
        self.found_good(wanted)

    async def _rejection(self, binary: EnvoyBinary, part: Rendered, why: str) -> RejectedError:
        resource = blamed(part, why)
        if not resource:
            resource, why = await self._bad_secret(binary, part.secrets) or ("", why)
        return RejectedError(resource=resource, detail=why)

    async def _validate(self, binary: EnvoyBinary, parts: Iterable[Rendered]) -> list[str]:
        """What Envoy has against each; they are looked at beside each other."""
        paths: list[Path] = []
        try:
            for part in parts:
                paths.append(
                    self.files.write_validation(part.clusters, part.listeners, part.secrets, len(paths))
                )
            limit_s = self.settings.apply_timeout_s
            looks = [self.in_thread(validate_with, binary.path, path, limit_s) for path in paths]
            found: list[str] = await gatherResults(looks, consumeErrors=True)
        finally:
            for path in paths:
                if path != self.files.validation:
                    path.unlink(missing_ok=True)
        return found

    async def _bad_secret(self, binary: EnvoyBinary, secrets: Iterable[Secret]) -> tuple[str, str] | None:
        """The certificate that Envoy refuses, and why: of a secret it does not tell which one it means."""
        for secret in list(secrets)[:MAX_PROBES]:
            probe = Rendered((), (_listener_with(secret),), (secret,), {})
            (why,) = await self._validate(binary, [probe])
            if why:
                return secret.resource, why
        return None


def _listener_with(secret: Secret) -> dict[str, Any]:
    common = {"tls_certificate_sds_secret_configs": [sds_config(secret.resource, Path("/"))]}
    socket = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": _TLS, "common_tls_context": common},
    }
    return {
        "name": "probe",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
        "filter_chains": [{"transport_socket": socket}],
    }


def blamed(wanted: Rendered, text: str) -> str:
    """The resource whose listener or cluster Envoy's ``text`` names; empty when it names none."""
    place = _PLACE.search(text)
    if place is not None and place[1] == "Listeners" and int(place[2]) < len(wanted.listeners):
        return str(ours(wanted.listeners[int(place[2])])["resource"])
    if place is not None and place[1] == "Clusters" and int(place[2]) < len(wanted.clusters):
        return str(ours(wanted.clusters[int(place[2])]).get("pool", ""))
    for listener in wanted.listeners:
        if listener["name"] in text:
            return str(ours(listener)["resource"])
    for cluster in wanted.clusters:
        if cluster["name"] in text and cluster["name"] != CARRIER:
            return str(ours(cluster)["pool"])
    return ""
