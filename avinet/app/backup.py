"""A backup: everything that a controller needs in an empty machine, as one sealed file.

Its chunks are records: ``About`` first, then ``Kept`` files, then the store's (``avinet.store.content_records``), and ``End``.
What is not in it: logs, events, the audit, images (they are built), and the state engine's own files, since what it holds is in
the store's records and another engine may take them.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar

import attrs
import msgspec

from avinet.app.software import software_version
from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ClusterId, ControllerName
from avinet.store.content_records import ContentBrokenError, Count, Keys, Rests, StoreRecord, content_of
from avinet.store.copying import Content
from avinet.trust.files import read_private
from avinet.trust.node import ControllerPaths, read_cluster
from avinet.trust.sealed import Derive, SealDamagedError, Sealer, SealVersionError, derive, unsealed
from avinet.units import MIB

FORMAT = 1
"""Of the records.  A reader refuses another."""
PRIVATE = ("root_key", "node_key", "host_key", "id_se", "id_controller", "api_key", "admin", "admin_password")
PUBLIC = ("cluster", "root_pem", "node_pem", "membership", "api_pem")
SETTINGS = "controller.toml"
"""The settings file's name in a restored state folder, whatever it was called."""
MAX_SETTINGS_BYTES = MIB
"""A record holds it whole."""


class About(msgspec.Struct, frozen=True, kw_only=True, tag="about"):
    """Whose backup it is.  ``made_at`` is UNIX seconds."""

    format: int
    cluster: ClusterId
    controller: ControllerName
    software: str
    made_at: float


class Kept(msgspec.Struct, frozen=True, tag="file"):
    """One file: which of ``ControllerPaths``, or ``settings``."""

    name: str
    data: bytes


class End(msgspec.Struct, frozen=True, tag="end"):
    """SHA-256 of all records before."""

    sha256: bytes


Record = About | Kept | Rests | Keys | Count | End


@error
class BackupUnreadableError(AvinetError):
    """Cannot read {path}: {why}."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    path: Path
    why: str


@error
class BackupDiffersError(AvinetError):
    """{path} does not read back as it was written: the disk may be failing. It is no backup."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    path: Path


@attrs.frozen
class Backup:
    """One, read and found whole."""

    about: About
    files: dict[str, bytes] = attrs.field(repr=False)
    content: Content = attrs.field(repr=False)
    sha256: bytes = attrs.field(repr=False)
    size: int
    """Bytes of the file."""


@attrs.define(eq=False)
class BackupWriter:
    """``begin`` writes everything but the store; ``put`` takes each of its records; ``end`` gives the hash of all."""

    _sealer: Sealer
    _hash: "hashlib._Hash"

    @classmethod
    def begin(
        cls,
        file: BinaryIO,
        paths: ControllerPaths,
        settings: bytes | None,
        passphrase: bytes,
        derive: Derive = derive,
    ) -> "BackupWriter":
        """``FileUnreadableError`` and the like for a state folder that is not whole."""
        cluster, name = read_cluster(paths.state)
        kept = [Kept(name, data) for name, data in _files(paths)]
        if settings is not None:
            kept.append(Kept("settings", settings))
        writer = cls(Sealer.begin(file, passphrase, derive), hashlib.sha256())
        software = software_version()
        writer.put(
            About(format=FORMAT, cluster=cluster, controller=name, software=software, made_at=time.time())
        )
        for one in kept:
            writer.put(one)
        return writer

    def put(self, record: Record) -> None:
        """One record."""
        data = msgspec.msgpack.encode(record)
        self._hash.update(data)
        self._sealer.put(data)

    def end(self) -> bytes:
        """The last one."""
        sha256 = self._hash.digest()
        self._sealer.end(msgspec.msgpack.encode(End(sha256)))
        return sha256


def _files(paths: ControllerPaths) -> Iterator[tuple[str, bytes]]:
    for name in PUBLIC:
        path: Path = getattr(paths, name)
        if path.exists():
            yield name, path.read_bytes()
    for name in PRIVATE:
        path = getattr(paths, name)
        if path.exists():
            yield name, read_private(path)


def read_backup(
    path: Path, passphrase: bytes, derive: Derive = derive, progress: Callable[[int, int], None] | None = None
) -> Backup:
    """All of it, checked to its end.  ``progress`` is told bytes read, and bytes in all."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _read(file, path.name, size, passphrase, derive, progress)
    except OSError as why:
        raise BackupUnreadableError(path=path, why=why.strerror or str(why)) from why


def _read(  # noqa: PLR0913, PLR0917 - what reads is one function of them
    file: BinaryIO,
    name: str,
    size: int,
    passphrase: bytes,
    derive: Derive,
    progress: Callable[[int, int], None] | None,
) -> Backup:
    found = hashlib.sha256()
    about: About | None = None
    files: dict[str, bytes] = {}
    stored: list[StoreRecord] = []
    end: End | None = None
    for data in unsealed(file, name, passphrase, derive):
        if progress is not None:
            progress(file.tell(), size)
        record = _record(data, name, known=about is not None)
        if end is not None or (about is None) != isinstance(record, About):
            raise SealDamagedError(name=name, why="its records are out of order")
        match record:
            case About():
                about = record
            case Kept():
                files[record.name] = record.data
            case End():
                end = record
                if end.sha256 != found.digest():
                    raise SealDamagedError(name=name, why="its records do not add up")
            case _:
                stored.append(record)
        found.update(data)
    if about is None or end is None:
        raise SealDamagedError(name=name, why="it has no end")
    try:
        content = content_of(stored)
    except ContentBrokenError as why:
        raise SealDamagedError(name=name, why=why.why) from why
    return Backup(about, files, content, end.sha256, size)


def _record(data: bytes, name: str, *, known: bool) -> Record:
    try:
        if not known:  # what comes after is read only once it is known to be of this format
            said = msgspec.msgpack.decode(data, type=_Format)
            if said.format != FORMAT:
                raise SealVersionError(name=name, found=f"records of format {said.format}")
        record: Record = msgspec.msgpack.decode(data, type=Record)
    except msgspec.DecodeError as why:
        raise SealDamagedError(name=name, why=f"a record cannot be read ({why})") from why
    if isinstance(record, Kept) and record.name not in {*PRIVATE, *PUBLIC, "settings"}:
        raise SealDamagedError(name=name, why=f"it has a file that nobody knows, {record.name[:64]!r}")
    return record


class _Format(msgspec.Struct, frozen=True):
    format: int
