"""An SE's desired state as what Envoy is to have: clusters, listeners and secrets.

Resources are named ``<kind>/<uuid>`` and their bodies are MessagePack of the stored configuration Structs.  Only what
an enabled virtual service uses is rendered.  An empty carrier cluster has in its metadata what Envoy has no other
use for (a disabled virtual service, a monitor nobody refers to, what the agent is to keep of logs), and for each virtual service the digest and the
listeners that it must have: so the whole state can be read back from Envoy.

Whatever cannot work is refused here, with the resource at fault, before Envoy sees anything.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import msgspec

from avinet.dataplane.envoy_cluster import METADATA_KEY, render_cluster
from avinet.dataplane.envoy_http import pool_refs
from avinet.dataplane.envoy_listener import endpoints_of, render_listeners
from avinet.dataplane.envoy_memory import Memory
from avinet.dataplane.envoy_secret import Secret, sds_config, secret_of
from avinet.dataplane.interface import LogFiles, RejectedError
from avinet.model.config import HealthMonitor, Pool, SSLKeyAndCertificate, VirtualService
from avinet.model.log_settings import KIND as LOG_LIMITS_KIND
from avinet.model.log_settings import LogLimits
from avinet.model.resources import Resource

CARRIER = "avinet-carrier"
SERVICE_KIND = "virtualservice"
POOL_KIND = "pool"
MONITOR_KIND = "healthmonitor"
CERTIFICATE_KIND = "sslkeyandcertificate"

_Thing = VirtualService | Pool | HealthMonitor | SSLKeyAndCertificate | LogLimits
_KINDS: dict[str, type[_Thing]] = {
    SERVICE_KIND: VirtualService,
    POOL_KIND: Pool,
    MONITOR_KIND: HealthMonitor,
    CERTIFICATE_KIND: SSLKeyAndCertificate,
    LOG_LIMITS_KIND: LogLimits,
}
_Object = TypeVar("_Object")


@attrs.frozen
class Rendered:
    """Envoy's clusters, listeners and secrets for one state, and where each listener listens."""

    clusters: tuple[dict[str, Any], ...]
    listeners: tuple[dict[str, Any], ...]
    secrets: tuple[Secret, ...]
    endpoints: dict[tuple[str, int], str]
    """(address, port) to the resource name of the virtual service that answers there."""


def resource_name(kind: str, uuid: str) -> str:
    """``pool/pool-1234``."""
    return f"{kind}/{uuid}"


def _decode(resource: Resource) -> _Thing:
    kind = _KINDS.get(resource.name.partition("/")[0])
    if kind is None:
        raise RejectedError(resource=resource.name, detail="this service engine does not know its kind")
    try:
        decoded: _Thing = msgspec.msgpack.decode(resource.body, type=kind)
    except msgspec.MsgspecError as failure:
        raise RejectedError(resource=resource.name, detail=f"it cannot be read: {failure}") from failure
    if resource.name != resource_name(resource.name.partition("/")[0], decoded.uuid):
        raise RejectedError(resource=resource.name, detail=f"its content says it is {decoded.uuid}")
    return decoded


@attrs.define
class _Rendering:
    """Of one state, as it grows."""

    objects: Mapping[str, _Thing]
    digests: Mapping[str, str]
    folder: Path | None
    logs: LogFiles | None
    memory: Memory
    carried: dict[str, str] = attrs.field(init=False)
    """Resources that nothing stands for, so far."""
    clusters: dict[str, tuple[Pool, dict[str, Any]]] = attrs.field(factory=dict, init=False)
    secrets: dict[str, Secret] = attrs.field(factory=dict, init=False)
    listeners: list[dict[str, Any]] = attrs.field(factory=list, init=False)
    services: dict[str, dict[str, Any]] = attrs.field(factory=dict, init=False)
    endpoints: dict[tuple[str, int], str] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.carried = dict(self.digests)

    def _made(self, what: str, name: str, of: tuple[str, ...], make: Callable[[], _Object]) -> _Object:
        """What is made of the resource ``name``, of the resources and certificates ``of``, and of where files are."""
        made_of = (self.digests[name], of, self.folder, self.logs)
        return self.memory.made(what, name, made_of, make)

    def _referred(self, kind: type[_Object], name: str, by: str) -> _Object:
        found = self.objects.get(name)
        if not isinstance(found, kind):
            raise RejectedError(resource=by, detail=f"it refers to {name}, which was not sent")
        return found

    def _secrets(self, refs: Iterable[str], by: str) -> dict[str, dict[str, Any]]:
        """``SdsSecretConfig`` by certificate resource."""
        found = {}
        for name in (resource_name(CERTIFICATE_KIND, ref) for ref in refs):
            thing = self._referred(SSLKeyAndCertificate, name, by)
            if self.folder is None:
                detail = "this host has no memory file system (tmpfs) to keep its key in"
                raise RejectedError(resource=name, detail=detail)
            if name not in self.secrets:
                make = partial(secret_of, thing, name, self.digests[name])
                self.secrets[name] = self._made("secret", name, (), make)
                self.carried.pop(name, None)
            found[name] = sds_config(name, self.folder)
        return found

    def _pool(self, ref: str, by: str) -> tuple[Pool, str]:
        name = resource_name(POOL_KIND, ref)
        if name not in self.clusters:
            pool = self._referred(Pool, name, by)
            monitors = {
                monitor: self._referred(HealthMonitor, monitor, name)
                for monitor in (resource_name(MONITOR_KIND, ref) for ref in pool.health_monitor_refs)
            }
            shown = [pool.ssl_key_and_certificate_ref] if pool.ssl_key_and_certificate_ref else []
            secrets = self._secrets(shown, name)
            of = (*secrets, *monitors, *(self.digests[monitor] for monitor in monitors))
            cluster = self._made("cluster", name, of, lambda: self._cluster(pool, name, monitors, secrets))
            self.clusters[name] = (pool, cluster)
            for used in (name, *monitors):
                self.carried.pop(used, None)
        pool, cluster = self.clusters[name]
        return pool, str(cluster["name"])

    def _cluster(
        self,
        pool: Pool,
        name: str,
        monitors: Mapping[str, HealthMonitor],
        secrets: Mapping[str, dict[str, Any]],
    ) -> dict[str, Any]:
        certificate = next(iter(secrets.values()), None)
        cluster = render_cluster(pool, name, monitors, self.digests, client_certificate=certificate)
        cluster["metadata"]["filter_metadata"][METADATA_KEY]["certificates"] = list(secrets)
        return cluster

    def add(self, name: str, service: VirtualService) -> None:
        """A virtual service and all that it uses."""
        for endpoint in self._made("endpoints", name, (), lambda: tuple(endpoints_of(service, name))):
            other = self.endpoints.setdefault(endpoint, name)
            if other != name:
                detail = f"{endpoint[0]} port {endpoint[1]} is {other}'s already"
                raise RejectedError(resource=name, detail=detail)
        pools = {ref: self._pool(ref, name) for ref in pool_refs(service)}
        uses_tls = any(port.enable_ssl for port in service.services)
        secrets = self._secrets(service.ssl_key_and_certificate_refs if uses_tls else (), name)
        of = (*secrets, *(self.digests[resource_name(POOL_KIND, ref)] for ref in pools))
        listeners = self._made(
            "listeners", name, of, lambda: render_listeners(service, name, pools, secrets, self.logs)
        )
        if not listeners:
            return
        self.listeners.extend(listeners)
        contents = {
            listener["name"]: listener["metadata"]["filter_metadata"][METADATA_KEY]["content"]
            for listener in listeners
        }
        self.services[name] = {"digest": self.digests[name], "listeners": contents}
        self.carried.pop(name)

    def finish(self) -> Rendered:
        """What came of it."""
        facts = {"carried": dict(sorted(self.carried.items())), "services": self.services}
        carrier = {
            "name": CARRIER,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": CARRIER},
            "metadata": {"filter_metadata": {METADATA_KEY: facts}},
        }
        return Rendered(
            (*(cluster for _, cluster in self.clusters.values()), carrier),
            tuple(self.listeners),
            tuple(self.secrets.values()),
            self.endpoints,
        )


def render(
    state: Mapping[str, Resource],
    folder: Path | None = None,
    logs: LogFiles | None = None,
    memory: Memory | None = None,
) -> Rendered:
    """``state`` for Envoy; ``RejectedError`` names the resource that cannot be had.

    ``folder`` is where the secrets' files will be; without one, whatever needs a certificate is refused.  Without
    ``logs`` no requests are logged.  Parts of it may be those of the last one with the same ``memory``: they are not to
    be changed.
    """
    memory = memory if memory is not None else Memory()
    memory.begin()
    objects = {
        name: memory.made("object", name, resource.digest, partial(_decode, resource))
        for name, resource in sorted(state.items())
    }
    rendering = _Rendering(objects, {name: r.digest for name, r in state.items()}, folder, logs, memory)
    for name, thing in objects.items():
        if isinstance(thing, VirtualService) and thing.enabled:
            rendering.add(name, thing)
    rendered = rendering.finish()
    memory.keep()
    return rendered
