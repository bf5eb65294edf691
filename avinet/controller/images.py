"""SE images built by the controller: a key made, known to the store, packed with software and trust.

The store knows an image's key before the image exists for anyone else, so an image that got out always works;
one whose building failed after that is a row that nobody uses.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import attrs
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from avinet.controller.image_keys import IMAGE_TTL_S, ImageKeys, ImageRecord
from avinet.model.ids import ClusterId, ImageId, SeId
from avinet.trust.files import private_dir, write_private
from avinet.trust.image import ImageContents, draft_image
from avinet.trust.keys import generate, public_line
from avinet.units import DAY_S

CLOUD_IMAGE_MAX_AGE_S = DAY_S
"""A driver's image is built anew after a day, so that new machines start with recent software and list."""

_log = Logger()


@attrs.frozen
class ImageSources:
    """What images are made of."""

    root_pem: bytes
    sign: Callable[[bytes], Awaitable[str]]
    """The root's signature of a manifest, wherever the root's key is."""
    cluster: ClusterId
    membership: Callable[[], str]
    """The current signed list."""
    software: str
    """The version."""
    files: Callable[[], Awaitable[Mapping[str, tuple[bytes, int]]]]
    """Wheel, requirements, units, install script: name to (bytes, mode)."""


@attrs.define(eq=False)
class Images:
    """Builds images.  ``folder`` is where the drivers' image lies."""

    keys: ImageKeys
    sources: ImageSources
    folder: Path
    ttl_s: float = IMAGE_TTL_S
    _for_clouds: ImageRecord | None = attrs.field(default=None, init=False)
    _building: DeferredLock = attrs.field(factory=DeferredLock, init=False, repr=False)
    _list_in_it: str = attrs.field(default="", init=False, repr=False)

    async def build(
        self, group: str = "", *, se: SeId | None = None, token: str | None = None
    ) -> tuple[ImageRecord, bytes]:
        """A new image as a tar; with ``token`` it is for one SE (or one group's token) and needs no meta-info."""
        key, now = generate(), self.keys.clock.seconds()
        record = ImageRecord(
            id=ImageId(str(uuid.uuid4())),
            key=public_line(key.public_key()),
            group=group,
            se=se,
            software=self.sources.software,
            created_at=now,
            expires_at=now + self.ttl_s,
        )
        files = await self.sources.files()
        contents = ImageContents(
            image=record.id,
            cluster=self.sources.cluster,
            software=record.software,
            group=group,
            created_at=now,
            expires_at=record.expires_at,
            membership_document=self.sources.membership(),
            image_key=key,
            token=token,
            files=files,
        )
        draft = draft_image(self.sources.root_pem, contents)
        tar = draft.tar(await self.sources.sign(draft.manifest))
        await self.keys.add(record)
        _log.info("built image {image} for group {group}", image=record.id, group=group)
        return record, tar

    async def cloud_file(self) -> Path:
        """The image that drivers start machines from; built when there is none, or it is old, ended or outdated."""
        # A hundred machines asked for at once share one building, and one key.
        await self._building.acquire()
        try:
            return await self._cloud_file()
        finally:
            self._building.release()

    async def _cloud_file(self) -> Path:
        path = self.folder / "cloud.tar"
        if not self._is_current() or not path.exists():
            document = self.sources.membership()
            record, tar = await self.build()
            write_private(private_dir(self.folder) / path.name, tar)
            self._for_clouds, self._list_in_it = record, document
        return path

    def _is_current(self) -> bool:
        if self._for_clouds is None or self._list_in_it != self.sources.membership():
            return False
        now = self.keys.clock.seconds()
        record = self.keys.get(self._for_clouds.id)
        return record.state(now) == "active" and now - record.created_at < CLOUD_IMAGE_MAX_AGE_S
