"""The SE image: a tar with everything a machine needs to become a service engine of one cluster.

Its first member, ``manifest.jws``, is signed by the root and lists every other member with size, mode and SHA-256,
so a damaged or altered image is recognised before anything of it is used.  The root certificate is in the image
too: whoever takes an image from somebody trusts that somebody's cluster, and no other, from then on.

Reading trusts nothing: regular files only, flat names from the known set, each once, sizes bounded and as listed.
"""

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import attrs
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ClusterId, ImageId
from avinet.trust.ca import RootCa
from avinet.trust.files import private_dir, write_private, write_public
from avinet.trust.jose import MAX_DOCUMENT_BYTES, BadDocumentError, sign_compact, verify_compact
from avinet.trust.keys import openssh_private, parse_private
from avinet.trust.membership import root_key_of, verify_membership
from avinet.units import MIB

MANIFEST = "manifest.jws"
MANIFEST_TYPE = "avinet-image+jws"
ROOT = "root.pem"
MEMBERSHIP = "membership.jws"
IMAGE_KEY = "image.key"
TOKEN = "token"  # noqa: S105 - the member's name
SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
PROGRAM_MODE = 0o755
MAX_MEMBER_BYTES = 64 * MIB
"""The wheel is under 1 MiB today."""
MAX_MEMBERS = 32
MAX_IMAGE_BYTES = 128 * MIB
"""All of it is held in memory while it is verified."""


@error
class ImageCorruptError(AvinetError):
    """The image {path} is damaged: {why}. Fetch or build it again: avinet image build."""

    kind: ClassVar[Kind] = Kind.INVALID
    path: Path
    why: str


@error
class ImageUntrustedError(AvinetError):
    """The image {path} is not what its cluster's root signed: {why}. Do not use it; build one: avinet image build."""

    kind: ClassVar[Kind] = Kind.DENIED
    path: Path
    why: str


@error
class ImageUnreadableError(AvinetError):
    """Cannot read the image {path}: {why}."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    path: Path
    why: str


class Member(msgspec.Struct, frozen=True):
    """One file of an image."""

    name: str
    size: int
    mode: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the root signs.  Times are UNIX seconds."""

    image: ImageId
    cluster: ClusterId
    software: str
    group: str = ""
    created_at: float
    expires_at: float
    members: tuple[Member, ...]


@attrs.frozen(kw_only=True)
class ImageContents:
    """What goes into an image.  ``files`` is name to (bytes, mode): wheel, requirements, units, install script."""

    image: ImageId
    cluster: ClusterId
    software: str
    group: str
    created_at: float
    expires_at: float
    membership_document: str
    image_key: Ed25519PrivateKey = attrs.field(repr=False)
    token: str | None = attrs.field(default=None, repr=False)
    files: Mapping[str, tuple[bytes, int]] = attrs.field(factory=dict, repr=False)


@attrs.frozen(kw_only=True)
class Image:
    """An image that was opened and verified."""

    manifest: Manifest
    root_pem: bytes
    membership_document: str
    image_key: Ed25519PrivateKey = attrs.field(repr=False)
    token: str | None = attrs.field(repr=False)
    files: Mapping[str, bytes] = attrs.field(repr=False)

    @property
    def image_id(self) -> ImageId:
        """Its id, by which the controller knows its key."""
        return self.manifest.image

    @property
    def cluster(self) -> ClusterId:
        """Whose image it is."""
        return self.manifest.cluster

    @property
    def group(self) -> str:
        """The group it was built for; empty for any that a token names."""
        return self.manifest.group


@attrs.frozen
class ImageDraft:
    """An image that wants its manifest signed."""

    manifest: bytes
    """What the root signs (``sign_manifest``)."""
    _files: Mapping[str, tuple[bytes, int]] = attrs.field(repr=False)
    _created_at: float

    def tar(self, signed: str) -> bytes:
        """The image, with its manifest first."""
        out = io.BytesIO()
        files = {MANIFEST: (signed.encode(), PUBLIC_MODE), **dict(sorted(self._files.items()))}
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, (data, mode) in files.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = len(data), mode, int(self._created_at)
                tar.addfile(info, io.BytesIO(data))
        return out.getvalue()


def draft_image(root_pem: bytes, contents: ImageContents) -> ImageDraft:
    """Everything of an image but the root's signature."""
    files: dict[str, tuple[bytes, int]] = {
        ROOT: (root_pem, PUBLIC_MODE),
        MEMBERSHIP: (contents.membership_document.encode(), PUBLIC_MODE),
        IMAGE_KEY: (openssh_private(contents.image_key), SECRET_MODE),
        **contents.files,
    }
    if contents.token is not None:
        files[TOKEN] = (contents.token.encode(), SECRET_MODE)
    manifest = Manifest(
        image=contents.image,
        cluster=contents.cluster,
        software=contents.software,
        group=contents.group,
        created_at=contents.created_at,
        expires_at=contents.expires_at,
        members=tuple(
            Member(name, len(data), mode, hashlib.sha256(data).hexdigest())
            for name, (data, mode) in sorted(files.items())
        ),
    )
    return ImageDraft(msgspec.json.encode(manifest), files, contents.created_at)


def sign_manifest(root: RootCa, manifest: bytes) -> str:
    """The root's word for what an image holds."""
    return sign_compact(manifest, root.key, MANIFEST_TYPE)


def image_bytes(root: RootCa, contents: ImageContents) -> bytes:
    """The tar, with its manifest first."""
    draft = draft_image(root.pem, contents)
    return draft.tar(sign_manifest(root, draft.manifest))


def write_image(out: Path, root: RootCa, contents: ImageContents) -> None:
    """Write an image, 0600 since it holds a key."""
    write_private(out, image_bytes(root, contents))


def open_image(path: Path) -> Image:
    """Read and verify an image; nothing is written."""
    files, modes = _read(path)
    for name in (MANIFEST, ROOT, MEMBERSHIP, IMAGE_KEY):
        if name not in files:
            raise ImageCorruptError(path=path, why=f"it has no {name}")
    try:
        root = x509.load_pem_x509_certificate(files[ROOT])
    except ValueError as why:
        raise ImageCorruptError(path=path, why="its root certificate does not read") from why
    try:
        payload = verify_compact(files[MANIFEST].decode("ascii", "replace"), root_key_of(root), MANIFEST_TYPE)
        manifest = msgspec.json.decode(payload, type=Manifest)
        document = files[MEMBERSHIP].decode("ascii", "replace")
        verify_membership(document, root, manifest.cluster)
    except (AvinetError, msgspec.DecodeError) as why:
        raise ImageUntrustedError(path=path, why=str(why)) from why
    _check_members(path, manifest, files, modes)
    token = files.get(TOKEN)
    return Image(
        manifest=manifest,
        root_pem=files[ROOT],
        membership_document=document,
        image_key=parse_private(files[IMAGE_KEY], f"{path}:{IMAGE_KEY}"),
        token=None if token is None else token.decode("ascii", "replace"),
        files={name: data for name, data in files.items() if name not in {IMAGE_KEY, TOKEN}},
    )


def _check_members(
    path: Path, manifest: Manifest, files: Mapping[str, bytes], modes: Mapping[str, int]
) -> None:
    listed = {member.name: member for member in manifest.members}
    present = set(files) - {MANIFEST}
    if present != set(listed):
        odd = min(present ^ set(listed))
        raise ImageUntrustedError(path=path, why=f"{odd} is not both in it and in its manifest")
    for name, member in listed.items():
        data = files[name]
        if len(data) != member.size or hashlib.sha256(data).hexdigest() != member.sha256:
            raise ImageUntrustedError(path=path, why=f"{name} was altered")
        if modes[name] != member.mode:
            raise ImageUntrustedError(path=path, why=f"{name} has another mode than its manifest says")


def _read(path: Path) -> tuple[dict[str, bytes], dict[str, int]]:
    """Every member's bytes and mode."""
    files: dict[str, bytes] = {}
    modes: dict[str, int] = {}
    try:
        _check_file(path)
        with tarfile.open(path, mode="r:") as tar:
            while (info := tar.next()) is not None:
                if len(files) >= MAX_MEMBERS:
                    raise ImageCorruptError(path=path, why=f"it has more than {MAX_MEMBERS} members")
                name = _name_of(path, info, files)
                files[name], modes[name] = _data_of(path, tar, info), info.mode
            # tarfile takes a missing end for the end; a whole archive closes with two empty blocks.
            if path.stat().st_size < tar.offset + tarfile.BLOCKSIZE:
                raise ImageCorruptError(path=path, why="its end is missing")
    except OSError as why:
        raise ImageUnreadableError(path=path, why=os.strerror(why.errno or 0)) from why
    except (tarfile.TarError, ValueError, EOFError, RecursionError) as why:
        # tarfile lets the last three out for malformed extended headers, and for a long chain of them.
        raise ImageCorruptError(path=path, why=f"it is not a whole tar archive ({why})") from why
    return files, modes


def _check_file(path: Path) -> None:
    """Before it is opened, since opening a FIFO waits."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ImageUnreadableError(path=path, why="it is not a regular file")
    if found.st_size > MAX_IMAGE_BYTES:
        raise ImageCorruptError(path=path, why=f"it is over {MAX_IMAGE_BYTES} bytes")


def _name_of(path: Path, info: tarfile.TarInfo, seen: Mapping[str, bytes]) -> str:
    name = info.name
    # Sparse files count as regular for tarfile, but unfold to more than the archive holds.
    if info.type not in {tarfile.REGTYPE, tarfile.AREGTYPE} or info.issparse():
        raise ImageCorruptError(path=path, why=f"{name!r} is not a regular file")
    if not name or "/" in name or name.startswith(".") or not name.isprintable():
        raise ImageCorruptError(path=path, why=f"{name!r} is not a name that an image has")
    if name in seen:
        raise ImageCorruptError(path=path, why=f"{name} is in it twice")
    limit = MAX_DOCUMENT_BYTES if name == MANIFEST else MAX_MEMBER_BYTES
    if info.size > limit:
        raise ImageCorruptError(path=path, why=f"{name} is over {limit} bytes")
    return name


def _data_of(path: Path, tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    data = b"" if file is None else file.read()
    if len(data) != info.size:
        raise ImageCorruptError(path=path, why=f"{info.name} is cut short")
    return data


def unpack_trust(image: Image, state: Path) -> None:
    """Lay what an SE needs of its image into ``state/image``: root, membership list, manifest, image key last."""
    folder = private_dir(private_dir(state) / "image")
    write_public(folder / ROOT, image.root_pem)
    if not _holds_newer(folder, image):
        write_public(folder / MEMBERSHIP, image.membership_document.encode())
    write_public(folder / "manifest.json", msgspec.json.encode(image.manifest))
    write_private(folder / IMAGE_KEY, openssh_private(image.image_key))


def _holds_newer(folder: Path, image: Image) -> bool:
    """Whether a list of the same root and a higher number is there already: trust never goes back."""
    root = x509.load_pem_x509_certificate(image.root_pem)
    try:
        held = verify_membership((folder / MEMBERSHIP).read_text(), root, image.cluster)
    except (OSError, BadDocumentError, AvinetError, ValueError):
        return False
    return held.number > verify_membership(image.membership_document, root).number
