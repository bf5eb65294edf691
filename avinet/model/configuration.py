"""The whole configuration as one immutable value."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import attrs

from avinet.model.config import ConfigObject, kind_of
from avinet.model.ids import NO_VERSION, ConfigVersion, ObjectId

Kind = TypeVar("Kind", bound=ConfigObject)


@attrs.frozen
class Stored:
    """One object and when it last changed, in microseconds of UNIX time (the API's ``_last_modified``)."""

    thing: ConfigObject
    modified_us: int


@attrs.frozen
class Configuration:
    """Every object as of one version."""

    version: ConfigVersion = NO_VERSION
    objects: Mapping[ObjectId, Stored] = attrs.field(factory=dict, repr=False)
    _by_name: Mapping[tuple[str, str], ObjectId] = attrs.field(init=False, repr=False)

    @_by_name.default
    def _index(self) -> dict[tuple[str, str], ObjectId]:
        return {(kind_of(s.thing), s.thing.name): uuid for uuid, s in self.objects.items()}

    def find(self, kind: str, name_or_uuid: str) -> Stored | None:
        """The object of this kind with this UUID or name."""
        by_uuid = self.objects.get(ObjectId(name_or_uuid))
        if by_uuid is not None and kind_of(by_uuid.thing) == kind:
            return by_uuid
        uuid = self._by_name.get((kind, name_or_uuid))
        return None if uuid is None else self.objects[uuid]

    def all_of(self, kind: type[Kind]) -> list[Kind]:
        """Every object of one kind, by name."""
        found = [s.thing for s in self.objects.values() if isinstance(s.thing, kind)]
        return sorted(found, key=lambda thing: thing.name)

    def with_changes(
        self, version: ConfigVersion, puts: Iterable[Stored], deletes: Iterable[ObjectId]
    ) -> "Configuration":
        """The next version."""
        objects = dict(self.objects)
        for uuid in deletes:
            objects.pop(uuid, None)
        objects.update((stored.thing.uuid, stored) for stored in puts)
        return Configuration(version, objects)
