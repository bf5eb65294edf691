"""An SE's desired state as what Envoy is to have: clusters and listeners.

Resources are named ``<kind>/<uuid>`` and their bodies are MessagePack of the stored configuration Structs.  Only
pools that an enabled virtual service uses become clusters.  What Envoy has no other use for (a disabled virtual
service, a monitor nobody refers to) is named in the metadata of an empty carrier cluster, so that the whole state
can be read back from Envoy.

Whatever cannot work is refused here, with the resource at fault, before Envoy sees anything.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs
import msgspec

from avinet.dataplane.envoy_cluster import METADATA_KEY, render_cluster
from avinet.dataplane.envoy_listener import endpoints_of, render_listeners
from avinet.dataplane.interface import RejectedError
from avinet.model.config import HealthMonitor, Pool, VirtualService
from avinet.model.resources import Resource

CARRIER = "avinet-carrier"
SERVICE_KIND = "virtualservice"
POOL_KIND = "pool"
MONITOR_KIND = "healthmonitor"

_KINDS = {SERVICE_KIND: VirtualService, POOL_KIND: Pool, MONITOR_KIND: HealthMonitor}
_Object = TypeVar("_Object")


@attrs.frozen
class Rendered:
    """Envoy's clusters and listeners for one state, and where each listener listens."""

    clusters: tuple[dict[str, Any], ...]
    listeners: tuple[dict[str, Any], ...]
    endpoints: dict[tuple[str, int], str]
    """(address, port) to the resource name of the virtual service that answers there."""


def resource_name(kind: str, uuid: str) -> str:
    """``pool/pool-1234``."""
    return f"{kind}/{uuid}"


def _decode(resource: Resource) -> VirtualService | Pool | HealthMonitor:
    kind = _KINDS.get(resource.name.partition("/")[0])
    if kind is None:
        raise RejectedError(resource=resource.name, detail="this service engine does not know its kind")
    try:
        decoded: VirtualService | Pool | HealthMonitor = msgspec.msgpack.decode(resource.body, type=kind)
    except msgspec.MsgspecError as failure:
        raise RejectedError(resource=resource.name, detail=f"it cannot be read: {failure}") from failure
    if resource.name != resource_name(resource.name.partition("/")[0], decoded.uuid):
        raise RejectedError(resource=resource.name, detail=f"its content says it is {decoded.uuid}")
    return decoded


def _referred(objects: Mapping[str, object], kind: type[_Object], name: str, by: str) -> _Object:
    found = objects.get(name)
    if not isinstance(found, kind):
        raise RejectedError(resource=by, detail=f"it refers to {name}, which was not sent")
    return found


def _carrier(digests: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": CARRIER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": CARRIER},
        "metadata": {"filter_metadata": {METADATA_KEY: {"carried": dict(sorted(digests.items()))}}},
    }


def render(state: Mapping[str, Resource]) -> Rendered:
    """``state`` for Envoy; ``RejectedError`` names the resource that cannot be had."""
    objects = {name: _decode(resource) for name, resource in sorted(state.items())}
    digests = {name: resource.digest for name, resource in state.items()}
    carried = dict(digests)
    clusters: dict[str, dict[str, Any]] = {}
    pools: dict[str, Pool] = {}
    listeners: list[dict[str, Any]] = []
    endpoints: dict[tuple[str, int], str] = {}
    for name, service in objects.items():
        if not isinstance(service, VirtualService) or not service.enabled:
            continue
        pool_name = resource_name(POOL_KIND, service.pool_ref)
        if pool_name not in clusters:
            pool = pools[pool_name] = _referred(objects, Pool, pool_name, name)
            monitors = {
                monitor: _referred(objects, HealthMonitor, monitor, pool_name)
                for monitor in (resource_name(MONITOR_KIND, ref) for ref in pool.health_monitor_refs)
            }
            clusters[pool_name] = render_cluster(pool, pool_name, monitors, digests)
            for used in (pool_name, *monitors):
                carried.pop(used, None)
        for endpoint in endpoints_of(service, name):
            other = endpoints.setdefault(endpoint, name)
            if other != name:
                raise RejectedError(
                    resource=name, detail=f"{endpoint[0]} port {endpoint[1]} is {other}'s already"
                )
        rendered = render_listeners(
            service, name, digests[name], pools[pool_name], clusters[pool_name]["name"]
        )
        listeners.extend(rendered)
        if rendered:
            carried.pop(name)
    return Rendered((*clusters.values(), _carrier(carried)), tuple(listeners), endpoints)
