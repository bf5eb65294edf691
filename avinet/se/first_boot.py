"""From an image and meta-info on disk to an SE that is enrolled, whatever was interrupted before.

``begin`` locks the state folder, and unpacks image and meta-info into it unless the SE is enrolled already: a
machine is started with the same options each time, and once enrolled it needs neither.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ClusterId, ImageId
from avinet.se.enroller import Enroller, NoImageError, destroy_means, read_enrolled
from avinet.se.membership import MembershipFile
from avinet.se.paths import SePaths, StateDamagedError, lock_state
from avinet.se.registration_client import RegistrationHttp
from avinet.trust.files import private_dir, write_private
from avinet.trust.image import Image, open_image, unpack_trust
from avinet.trust.locks import StateLock
from avinet.wire.registration import EnrolmentAnswer, MetaInfo

MAX_META_INFO_BYTES = 64 * 1024
"""User data is limited to 16 KiB on EC2 and 64 KiB elsewhere."""


@error
class MetaInfoError(AvinetError):
    """The meta-info at {path} cannot be used: {detail}. Take it anew from: avinet se token create."""

    kind: ClassVar[Kind] = Kind.INVALID
    path: Path
    detail: str


@error
class MetaInfoForeignError(AvinetError):
    """The meta-info at {path} is for cluster {meta_cluster}, the image for cluster {image_cluster}. Take both from the same controller."""

    kind: ClassVar[Kind] = Kind.INVALID
    path: Path
    meta_cluster: ClusterId
    image_cluster: ClusterId


class _Unpacked(msgspec.Struct, frozen=True):
    """Which image is unpacked; written last, so that what it names is whole."""

    image: ImageId
    cluster: ClusterId


def read_meta_info(path: Path) -> MetaInfo:
    """What the operator or a cloud driver left for this machine."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_META_INFO_BYTES + 1)
        if len(data) > MAX_META_INFO_BYTES:
            raise MetaInfoError(path=path, detail=f"it is larger than {MAX_META_INFO_BYTES} bytes")
        return msgspec.json.decode(data, type=MetaInfo)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as failure:
        raise MetaInfoError(path=path, detail=str(failure)) from failure


@attrs.define(eq=False)
class FirstBoot:
    """A locked state folder with everything in place to enrol, or enrolled."""

    paths: SePaths
    lock: StateLock = attrs.field(repr=False)
    image: ImageId
    members: MembershipFile

    @classmethod
    def begin(cls, state: Path, image: Path | None, meta_info: Path | None) -> Self:
        """Lock and unpack.  Errors say which of the two inputs is wrong and why."""
        paths = SePaths(state)
        lock = lock_state(paths)
        try:
            if read_enrolled(paths) is not None:
                destroy_means(paths)
                unpacked = _read_unpacked(paths)
            else:
                unpacked = _unpack(paths, image, meta_info)
            return cls(paths, lock, unpacked.image, MembershipFile.load(paths))
        except BaseException:
            lock.release()
            raise

    @property
    def enrolled(self) -> EnrolmentAnswer | None:
        """The facts, once there are any."""
        return read_enrolled(self.paths)

    def enrol(
        self, build_http: Callable[[MembershipFile], RegistrationHttp], clock: IReactorTime
    ) -> Deferred[EnrolmentAnswer]:
        """Enrol unless enrolled; see ``Enroller.enrol``."""
        return Enroller(self.paths, self.image, build_http(self.members), self.members, clock).enrol()


def _marker(paths: SePaths) -> Path:
    return paths.enrolment / "image.json"


def _read_unpacked(paths: SePaths) -> _Unpacked:
    try:
        return msgspec.json.decode(_marker(paths).read_bytes(), type=_Unpacked)
    except (OSError, msgspec.DecodeError) as failure:
        raise StateDamagedError(path=_marker(paths), detail=str(failure)) from failure


def _unpack(paths: SePaths, image_path: Path | None, meta_path: Path | None) -> _Unpacked:
    """Image first, then meta-info, each whole before it is believed."""
    image = None if image_path is None else open_image(image_path)
    unpacked = _unpack_image(paths, image)
    meta = None if meta_path is None else read_meta_info(meta_path)
    if meta is not None:
        if meta.cluster != unpacked.cluster:
            raise MetaInfoForeignError(
                path=meta_path or paths.meta_info, meta_cluster=meta.cluster, image_cluster=unpacked.cluster
            )
        if not meta.token and image is not None and image.token:
            meta = msgspec.structs.replace(meta, token=image.token)
    elif image is not None and image.token:
        meta = MetaInfo(cluster=image.cluster, controllers=(), token=image.token)
    elif not paths.meta_info.exists():
        meta = MetaInfo(cluster=unpacked.cluster, controllers=())
    if meta is not None:
        write_private(paths.meta_info, msgspec.json.encode(meta))
    return unpacked


def _unpack_image(paths: SePaths, image: Image | None) -> _Unpacked:
    private_dir(paths.enrolment)
    before = _read_unpacked(paths) if _marker(paths).exists() else None
    if image is None:
        if before is None:
            raise NoImageError(path=str(paths.image_key))
        return before
    now = _Unpacked(image.image_id, image.cluster)
    if before != now:
        _marker(paths).unlink(
            missing_ok=True
        )  # from here to its new writing, what is unpacked is of no image
        unpack_trust(image, paths.state)
        write_private(_marker(paths), msgspec.json.encode(now))
    return now
