"""The versions that were: who made each, what it changed, and the whole configuration as of it.

An older state is had by going back from one that is known: each change is stored with the objects as they were before
it (``avinet.controller.config_entries``).
"""

from typing import ClassVar

import attrs

from avinet.controller.config_entries import ConfigDamagedError, VersionRecord
from avinet.controller.config_store import ConfigStore
from avinet.errors import AvinetError, Kind, error
from avinet.model.configuration import Configuration
from avinet.model.ids import ConfigVersion


@error
class NoSuchVersionError(AvinetError):
    """There is no configuration version {version} yet; the newest is {newest}."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    version: int
    newest: int


@error
class VersionGoneError(AvinetError):
    """Configuration version {version} is gone; oldest is {oldest}. How many are kept is set in [config] history_versions and history_mib."""

    kind: ClassVar[Kind] = Kind.GONE
    version: int
    oldest: int


@attrs.frozen
class Past:
    """One version: the state that it made, and the one that it found."""

    record: VersionRecord
    before: Configuration
    after: Configuration


@attrs.frozen(eq=False)
class History:
    """Reads what the store keeps."""

    stored: ConfigStore

    async def records(self) -> list[VersionRecord]:
        """Newest first; those that can be undone, and so shown and gone back to."""
        found: list[VersionRecord] = []
        for record in reversed(await self.stored.records()):
            if record.version > self.stored.head.version:
                continue  # another controller's, that this one has not taken yet
            if not record.size:
                break
            found.append(record)
        return found

    async def since(self, version: int, limit: int) -> list[VersionRecord]:
        """At most ``limit`` versions that came after ``version``, newest first."""
        return [record for record in await self.records() if record.version > version][:limit]

    async def past(self, now: Configuration, version: int) -> Past:
        """One version, going back from ``now``.

        ``NoSuchVersionError`` when it has not been made, ``VersionGoneError`` when it is not kept any more.
        """
        if version > now.version:
            raise NoSuchVersionError(version=version, newest=now.version)
        records = await self.records()
        oldest = records[-1].version if records else now.version
        if version < oldest:
            raise VersionGoneError(version=version, oldest=oldest)
        objects = dict(now.objects)
        for record in records:
            if record.version > now.version:
                continue
            after = Configuration(record.version, dict(objects)) if record.version == version else None
            try:
                change = await self.stored.change_of(record)
            except ConfigDamagedError:
                # A checkpoint may have made it go meanwhile.
                kept = await self.records()
                if record.version in {one.version for one in kept}:
                    raise
                raise VersionGoneError(version=version, oldest=kept[-1].version) from None
            change.undo(objects)
            if after is not None:
                return Past(record, Configuration(ConfigVersion(version - 1), objects), after)
        # ``now`` is newer than every record: an upgrade from before there was history.
        raise VersionGoneError(version=version, oldest=oldest)
