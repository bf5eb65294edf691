"""What an SE is sent of the configuration: the virtual services placed on it and all that they refer to.

That is pools (those of routes, too), their monitors, and the certificates of both with their keys: an SE has the keys
of what it serves and no others.
"""

from collections.abc import Collection, Iterable, Mapping

import attrs
import msgspec

from avinet.model.config import ConfigObject, ServiceEngineGroup, kind_of
from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId
from avinet.model.references import references_of
from avinet.model.resources import Resource
from avinet.model.vip_interface import resource_of_group


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
    _whole: dict[ObjectId, tuple[Resource, ...]] = attrs.field(factory=dict, init=False, repr=False)
    """A virtual service with all it needs."""

    def follow(self, configuration: Configuration, changed: Collection[ObjectId]) -> None:
        """Project another configuration, which differs from the last one in the ``changed`` objects alone."""
        self.configuration = configuration
        gone = {made.name for uuid in changed if (made := self._made.pop(uuid, None)) is not None}
        if gone:
            for service in [s for s, whole in self._whole.items() if any(r.name in gone for r in whole)]:
                del self._whole[service]

    def resources_for(self, services: Iterable[ObjectId]) -> Mapping[str, Resource]:
        """Resource name to resource, for an SE with these virtual services."""
        found: dict[str, Resource] = {}
        for uuid in services:
            whole = self._whole.get(uuid)
            if whole is None:
                whole = self._whole[uuid] = self._collect(uuid)
            for resource in whole:
                found[resource.name] = resource
        return found

    def _collect(self, service: ObjectId) -> tuple[Resource, ...]:
        found: dict[ObjectId, Resource] = {}
        wanted = [service]
        while wanted:
            uuid = wanted.pop()
            thing = self.configuration.objects[uuid].thing
            if uuid in found:
                continue
            if isinstance(thing, ServiceEngineGroup):
                # Placement is the controller's business; of a group an SE is told where to put addresses.
                told = resource_of_group(thing)
                if told is not None:
                    found[uuid] = told
                continue
            found[uuid] = self._resource(uuid, thing)
            wanted.extend(ref for _, ref in references_of(thing))
        return tuple(found.values())

    def _resource(self, uuid: ObjectId, thing: ConfigObject) -> Resource:
        made = self._made.get(uuid)
        if made is None:
            made = self._made[uuid] = resource_of(thing)
        return made
