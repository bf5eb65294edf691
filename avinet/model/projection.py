"""What an SE is sent of the configuration: the virtual services placed on it and all that they refer to.

That is pools (those of routes, too), their monitors, and the certificates of both with their keys: an SE has the keys
of what it serves and no others.  An SE of an older version is sent nothing of a kind that it does not know.
"""

from collections.abc import Collection, Iterable, Mapping

import attrs
import msgspec

from avinet.model import log_settings, vip_interface
from avinet.model.config import ConfigObject, ServiceEngineGroup, kind_of
from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId
from avinet.model.references import references_of
from avinet.model.resources import Resource


def resource_name(thing: ConfigObject) -> str:
    """``<kind>/<uuid>``."""
    return f"{kind_of(thing)}/{thing.uuid}"


def kind_in(name: str) -> str:
    """Of what kind a resource of that name is."""
    return name.partition("/")[0]


def resource_of(thing: ConfigObject) -> Resource:
    """An object as an SE gets it."""
    return Resource(resource_name(thing), msgspec.msgpack.encode(thing))


def told_of_group(group: ServiceEngineGroup) -> tuple[Resource, ...]:
    """What an SE gets of a group: where to put addresses, and what to keep of logs.

    Placement is the controller's business.
    """
    told = (vip_interface.resource_of_group(group), log_settings.resource_of_group(group))
    return tuple(resource for resource in told if resource is not None)


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

    def resources_for(
        self, services: Iterable[ObjectId], unknown: Collection[str] = ()
    ) -> Mapping[str, Resource]:
        """Resource name to resource, for an SE with these virtual services; without what is of an ``unknown`` kind."""
        found: dict[str, Resource] = {}
        for uuid in services:
            whole = self._whole.get(uuid)
            if whole is None:
                whole = self._whole[uuid] = self._collect(uuid)
            for resource in whole:
                if not unknown or kind_in(resource.name) not in unknown:
                    found[resource.name] = resource
        return found

    def _collect(self, service: ObjectId) -> tuple[Resource, ...]:
        found: dict[ObjectId, tuple[Resource, ...]] = {}
        wanted = [service]
        while wanted:
            uuid = wanted.pop()
            thing = self.configuration.objects[uuid].thing
            if uuid in found:
                continue
            if isinstance(thing, ServiceEngineGroup):
                found[uuid] = told_of_group(thing)
                continue
            found[uuid] = (self._resource(uuid, thing),)
            wanted.extend(ref for _, ref in references_of(thing))
        return tuple(resource for several in found.values() for resource in several)

    def _resource(self, uuid: ObjectId, thing: ConfigObject) -> Resource:
        made = self._made.get(uuid)
        if made is None:
            made = self._made[uuid] = resource_of(thing)
        return made
