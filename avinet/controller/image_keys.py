"""The SE image keys: each image's public key, what it was built for, and whether it is still good.

An image's private key lives in the image and nowhere else; what the controller keeps (``image/<id>``) is the
public half, so that a registration names the image it came from and the image can expire or be revoked.
"""

from collections.abc import Sequence
from typing import ClassVar

import attrs
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from twisted.internet.interfaces import IReactorTime

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ImageId, SeId
from avinet.store.interface import Change, Compare, Delete, Put, Store
from avinet.trust.keys import parse_line
from avinet.units import DAY_S

PREFIX = "image/"
IMAGE_TTL_S = 90 * DAY_S
"""An image older than a quarter misses so many updates that it should be built anew."""
MAX_IMAGES = 5_000
"""One a machine for fleets that build one image each SE, with room."""


@error
class ImageUnknownError(AvinetError):
    """No image {image} was built by this cluster. Check that the image belongs to it: avinet image list."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    image: str


@error
class ImageRevokedError(AvinetError):
    """Image {image} was revoked. Build a new one: avinet image build."""

    kind: ClassVar[Kind] = Kind.DENIED
    image: ImageId


@error
class ImageExpiredError(AvinetError):
    """Image {image} has expired. Build a new one: avinet image build."""

    kind: ClassVar[Kind] = Kind.DENIED
    image: ImageId


@error
class TooManyImagesError(AvinetError):
    """There are {limit} images already. Revoke some that are not used any more."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is stored about one image.  ``key`` is the public half as an OpenSSH line; times are UNIX seconds."""

    id: ImageId
    key: str
    group: str = ""
    """Whose SEs it is for; empty for any group's that a token names."""
    se: SeId | None = None
    """Set when it holds the token of one SE."""
    software: str = ""
    created_at: float = 0.0
    expires_at: float = 0.0
    revoked_at: float | None = None

    def state(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if now >= self.expires_at else "active"


@attrs.define(eq=False)
class ImageKeys:
    """All images of this cluster.  ``load`` before anything else."""

    store: Store
    clock: IReactorTime
    _records: dict[ImageId, tuple[ImageRecord, int]] = attrs.field(factory=dict, init=False, repr=False)
    _keys: dict[ImageId, Ed25519PublicKey] = attrs.field(factory=dict, init=False, repr=False)

    async def load(self) -> None:
        """Read all from the store."""
        for entry in (await self.store.list(PREFIX)).entries:
            self._take(msgspec.json.decode(entry.value, type=ImageRecord), entry.revision)

    # Following, see ``Mirror``

    @property
    def prefixes(self) -> tuple[str, ...]:
        """One."""
        return (PREFIX,)

    def revisions(self) -> dict[str, int]:
        """Of every image."""
        return {PREFIX + image: revision for image, (_, revision) in self._records.items()}

    def took(self, changes: Sequence[Change]) -> None:
        """What others wrote."""
        for change in changes:
            image = ImageId(change.key.removeprefix(PREFIX))
            if change.entry is None:
                self._forget(image)
            else:
                self._take(msgspec.json.decode(change.entry.value, type=ImageRecord), change.revision)

    def _forget(self, image: ImageId) -> None:
        self._records.pop(image, None)
        self._keys.pop(image, None)

    def _take(self, record: ImageRecord, revision: int) -> None:
        _, has = self._records.get(record.id, (None, 0))
        if revision <= has:
            return
        self._records[record.id] = (record, revision)
        self._keys[record.id] = parse_line(record.key)

    async def add(self, record: ImageRecord) -> None:
        """Know a new image, before it leaves the house."""
        if len(self._records) >= MAX_IMAGES:
            await self._drop_ended()
        if len(self._records) >= MAX_IMAGES:
            raise TooManyImagesError(limit=MAX_IMAGES)
        await self._write(record, 0)

    async def _drop_ended(self) -> None:
        """Forget nothing that may be asked about: only images that ended a full life ago."""
        limit = self.clock.seconds() - IMAGE_TTL_S
        for record, revision in list(self._records.values()):
            if record.expires_at < limit:
                key = PREFIX + record.id
                await self.store.transact([Compare(key, revision)], [Delete(key)])
                self._forget(record.id)

    async def _write(self, record: ImageRecord, revision: int) -> None:
        key = PREFIX + record.id
        outcome = await self.store.transact([Compare(key, revision)], [Put(key, msgspec.json.encode(record))])
        if outcome.followed:
            return
        if outcome.succeeded:
            self._take(record, outcome.revision)
            return
        entry = await self.store.get(key)
        if entry is None:
            raise ImageUnknownError(image=record.id)
        self._take(msgspec.json.decode(entry.value, type=ImageRecord), entry.revision)

    def all(self) -> list[ImageRecord]:
        """Every image, newest first."""
        return sorted((record for record, _ in self._records.values()), key=lambda r: -r.created_at)

    def get(self, image: str) -> ImageRecord:
        """One image, good or not."""
        held = self._records.get(ImageId(image))
        if held is None:
            raise ImageUnknownError(image=image)
        return held[0]

    def key(self, image: ImageId) -> Ed25519PublicKey:
        """The key that an image signs with, whether it may still or not: see ``require_good``."""
        key = self._keys.get(image)
        if key is None:
            raise ImageUnknownError(image=image)
        return key

    def require_good(self, image: ImageId) -> ImageRecord:
        """The image, if new SEs may come from it."""
        record = self.get(image)
        state = record.state(self.clock.seconds())
        if state == "revoked":
            raise ImageRevokedError(image=image)
        if state == "expired":
            raise ImageExpiredError(image=image)
        return record

    async def revoke(self, image: str) -> ImageRecord:
        """No SE enrols from it any more; those that did are not touched."""
        while (record := self.get(image)).revoked_at is None:
            revision = self._records[record.id][1]
            await self._write(msgspec.structs.replace(record, revoked_at=self.clock.seconds()), revision)
        return record
