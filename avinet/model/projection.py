"""What an SE is sent of the configuration: the virtual services placed on it and all that they refer to."""

from collections.abc import Iterable, Mapping

import attrs
import msgspec

from avinet.model.config import ConfigObject, Pool, VirtualService, kind_of
from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId
from avinet.model.resources import Resource


def resource_name(thing: ConfigObject) -> str:
    """``<kind>/<uuid>``."""
    return f"{kind_of(thing)}/{thing.uuid}"


def resource_of(thing: ConfigObject) -> Resource:
    """An object as an SE gets it."""
    return Resource(resource_name(thing), msgspec.msgpack.encode(thing))


@attrs.define
class Projector:
    """Projects one configuration; each object is encoded once, however many SEs have it."""

    configuration: Configuration
    _made: dict[ObjectId, Resource] = attrs.field(factory=dict, init=False, repr=False)

    def resources_for(self, services: Iterable[ObjectId]) -> Mapping[str, Resource]:
        """Resource name to resource, for an SE with these virtual services."""
        found: dict[str, Resource] = {}
        for uuid in services:
            service = self.configuration.objects[uuid].thing
            if not isinstance(service, VirtualService):
                continue
            pool = self.configuration.objects[service.pool_ref].thing
            monitors = pool.health_monitor_refs if isinstance(pool, Pool) else ()
            for part in (service.uuid, service.pool_ref, *monitors):
                resource = self._resource(part)
                found[resource.name] = resource
        return found

    def _resource(self, uuid: ObjectId) -> Resource:
        made = self._made.get(uuid)
        if made is None:
            made = self._made[uuid] = resource_of(self.configuration.objects[uuid].thing)
        return made
