"""An SFTP server for one confined folder: requests in, answers out.  Blocking, since files are: called in a thread.

There is no answer that tells more than the peer may know, no link that is made or followed, and no request that costs
more than its bound.  Writes go to the file itself, as OpenSSH's own server does it, so that an upload can be resumed.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable

import attrs

from avinet.errors import AvinetError, RemoteProtocolError
from avinet.ssh import sftp_wire as wire
from avinet.ssh.confined import (
    FILE_MODE,
    ConfinedFolder,
    FolderFullError,
    Listing,
    PathRefusedError,
    names_of,
)
from avinet.ssh.fields import Reader, malformed, string, uint32
from avinet.units import show_bytes

MAX_HANDLES = 64
"""Open at once in a session; OpenSSH's client has one or two."""
ENTRIES_A_REPLY = 100
"""Of a folder; some 150 bytes each."""
MAX_TOLD = 20
"""Transfers that are named in what is reported of a session."""
_EXTENSIONS = {
    b"posix-rename@openssh.com": b"1",
    b"fsync@openssh.com": b"1",
    b"statvfs@openssh.com": b"2",
    b"limits@openssh.com": b"1",
}
_BLOCK = 4096
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.EROFS})


@attrs.define
class _File:
    """A handle to an open file."""

    path: str
    descriptor: int
    writes: bool
    appends: bool
    got: int = 0
    put: int = 0


@attrs.define(eq=False)
class SftpServer:
    """One session on ``folder``.  One call at a time; ``close`` when it is over."""

    folder: ConfinedFolder
    now: Callable[[], float] = time.time
    """UNIX seconds, for listings."""
    moved_bytes: int = attrs.field(default=0, init=False)
    transfers: int = attrs.field(default=0, init=False)
    told: list[str] = attrs.field(factory=list, init=False)
    """What was moved, in words: the first ``MAX_TOLD``."""
    _handles: dict[bytes, _File | Listing] = attrs.field(factory=dict, init=False, repr=False)
    _next_handle: int = attrs.field(default=0, init=False)
    _greeted: bool = attrs.field(default=False, init=False)

    def handle(self, kind: int, body: bytes) -> bytes:
        """The answer to one packet; ``RemoteProtocolError`` for what no client sends."""
        reader = Reader(body, "an SFTP request")
        if not self._greeted:
            return self._greet(kind, reader)
        request = reader.uint32()
        try:
            return self._answer(kind, request, reader)
        except (AvinetError, OSError) as why:
            return wire.status(request, *_told(why))

    def _greet(self, kind: int, reader: Reader) -> bytes:
        if kind != wire.INIT:
            raise malformed("SFTP begins with INIT")
        if reader.uint32() < wire.VERSION:
            raise malformed(f"an SFTP client older than version {wire.VERSION}")
        self._greeted = True
        self.folder.survey()
        extensions = (string(name) + string(value) for name, value in _EXTENSIONS.items())
        return bytes((wire.VERSION_REPLY,)) + uint32(wire.VERSION) + b"".join(extensions)

    def _answer(self, kind: int, request: int, reader: Reader) -> bytes:
        method = _METHODS.get(kind)
        if method is None:
            return wire.status(request, wire.OP_UNSUPPORTED, "this is not supported")
        return method(self, request, reader)

    # Handles

    def _new_handle(self, made: _File | Listing, request: int) -> bytes:
        self._next_handle += 1  # never used again, so that a late request cannot mean another file
        name = self._next_handle.to_bytes(wire.MAX_HANDLE_BYTES, "big")
        self._handles[name] = made
        return wire.reply(wire.HANDLE, request, string(name))

    def _require_room(self) -> None:
        if len(self._handles) >= MAX_HANDLES:
            raise FolderFullError(why=f"{MAX_HANDLES} files are open in this session already")

    def _file(self, reader: Reader) -> _File:
        found = self._handles.get(reader.string())
        if not isinstance(found, _File):
            raise malformed("a handle that is no open file")
        return found

    def _close(self, request: int, reader: Reader) -> bytes:
        found = self._handles.pop(reader.string(), None)
        if found is None:
            raise malformed("a handle that is not open")
        self._end(found)
        return wire.status(request, wire.OK)

    def _end(self, file: _File | Listing) -> None:
        if isinstance(file, Listing):
            file.close()
            return
        self.folder.close(file.descriptor)
        if file.put or file.writes:
            self._tell(f"put {file.path} ({show_bytes(file.put)})")
        elif file.got:
            self._tell(f"got {file.path} ({show_bytes(file.got)})")

    def _tell(self, what: str) -> None:
        self.transfers += 1
        if len(self.told) < MAX_TOLD:
            self.told.append(what)

    def close(self) -> None:
        """Close what is open still."""
        handles, self._handles = self._handles, {}
        for found in handles.values():
            with contextlib.suppress(OSError):
                self._end(found)

    # Files

    def _open(self, request: int, reader: Reader) -> bytes:
        path, wanted, attributes = reader.string(), reader.uint32(), wire.read_attributes(reader)
        self._require_room()
        reads, writes = bool(wanted & wire.FLAG_READ), bool(wanted & (wire.FLAG_WRITE | wire.FLAG_APPEND))
        if not reads and not writes:
            raise malformed("a file opened for neither reading nor writing")
        flags = os.O_RDWR if reads and writes else os.O_WRONLY if writes else os.O_RDONLY
        if writes:
            flags |= os.O_CREAT if wanted & wire.FLAG_CREATE else 0
            flags |= os.O_TRUNC if wanted & wire.FLAG_TRUNCATE else 0
            flags |= os.O_EXCL if wanted & wire.FLAG_EXCLUSIVE and wanted & wire.FLAG_CREATE else 0
        mode = FILE_MODE if attributes.mode is None else attributes.mode
        descriptor = self.folder.open(path, flags, mode)
        appends = bool(wanted & wire.FLAG_APPEND)
        shown = b"/".join(names_of(path)).decode(errors="replace")[:200]
        return self._new_handle(_File(shown, descriptor, writes, appends), request)

    def _read(self, request: int, reader: Reader) -> bytes:
        file, offset, size = self._file(reader), wire.uint64(reader), reader.uint32()
        if offset > _MAX_OFFSET:
            return wire.status(request, wire.EOF, "beyond the end")
        data = os.pread(file.descriptor, min(size, wire.MAX_DATA_BYTES), offset)
        if not data and size:
            return wire.status(request, wire.EOF, "the end")
        file.got += len(data)
        self.moved_bytes += len(data)
        return wire.reply(wire.DATA, request, string(data))

    def _write(self, request: int, reader: Reader) -> bytes:
        file, offset, data = self._file(reader), wire.uint64(reader), reader.string()
        if not file.writes:
            return wire.status(request, wire.PERMISSION_DENIED, "it is not open for writing")
        if file.appends:
            self.folder.append(file.descriptor, data)
        elif offset > _MAX_OFFSET - len(data):
            return wire.status(request, wire.FAILURE, "the file would be too large")
        else:
            self.folder.write(file.descriptor, data, offset)
        file.put += len(data)
        self.moved_bytes += len(data)
        return wire.status(request, wire.OK)

    def _stat(self, request: int, reader: Reader) -> bytes:
        return wire.reply(wire.ATTRS, request, wire.attributes_of(self.folder.stat(reader.string())))

    def _fstat(self, request: int, reader: Reader) -> bytes:
        return wire.reply(wire.ATTRS, request, wire.attributes_of(os.fstat(self._file(reader).descriptor)))

    def _setstat(self, request: int, reader: Reader) -> bytes:
        path, wanted = reader.string(), wire.read_attributes(reader)
        if wanted.size is None:
            with self.folder.settable(path) as entry:
                return self._set(request, entry, wanted)
        file = self.folder.open(path, os.O_RDWR)
        try:
            return self._set(request, file, wanted)
        finally:
            self.folder.close(file)

    def _fsetstat(self, request: int, reader: Reader) -> bytes:
        file = self._file(reader)
        return self._set(request, file.descriptor, wire.read_attributes(reader), writes=file.writes)

    def _set(self, request: int, file: int, wanted: wire.Attributes, *, writes: bool = True) -> bytes:
        if wanted.has_owner:
            return wire.status(request, wire.PERMISSION_DENIED, "files stay the service engine's own")
        if wanted.size is not None:
            if not writes or wanted.size > _MAX_OFFSET:
                return wire.status(request, wire.FAILURE, "its size cannot be set so")
            self.folder.truncate(file, wanted.size)
        if wanted.mode is not None:
            is_folder = stat.S_ISDIR(os.fstat(file).st_mode)
            # A folder that its owner cannot enter would be stuck here.
            os.fchmod(file, wanted.mode & 0o777 | (0o700 if is_folder else 0))
        if wanted.times is not None:
            os.utime(file, wanted.times)
        return wire.status(request, wire.OK)

    def _remove(self, request: int, reader: Reader) -> bytes:
        path = reader.string()
        self.folder.remove(path)
        self._tell(f"removed {path[:200].decode(errors='replace')}")
        return wire.status(request, wire.OK)

    def _rename(self, request: int, reader: Reader) -> bytes:
        self.folder.rename(reader.string(), reader.string(), replace=False)
        return wire.status(request, wire.OK)

    # Folders

    def _open_folder(self, request: int, reader: Reader) -> bytes:
        self._require_room()
        return self._new_handle(self.folder.scan(reader.string()), request)

    def _read_folder(self, request: int, reader: Reader) -> bytes:
        listing = self._handles.get(reader.string())
        if not isinstance(listing, Listing):
            raise malformed("a handle that is no open folder")
        some = listing.some(ENTRIES_A_REPLY)
        if not some:
            return wire.status(request, wire.EOF, "the end")
        now = self.now()
        told = [(name, wire.long_name(name, found, now), wire.attributes_of(found)) for name, found in some]
        return wire.names(request, told)

    def _make_folder(self, request: int, reader: Reader) -> bytes:
        self.folder.make_folder(reader.string())
        return wire.status(request, wire.OK)

    def _remove_folder(self, request: int, reader: Reader) -> bytes:
        self.folder.remove_folder(reader.string())
        return wire.status(request, wire.OK)

    def _real_path(self, request: int, reader: Reader) -> bytes:
        path = b"/" + b"/".join(names_of(reader.string()))
        return wire.names(request, [(path, path, uint32(0))])

    # OpenSSH's extensions

    def _extended(self, request: int, reader: Reader) -> bytes:
        name = reader.string()
        if name == b"posix-rename@openssh.com":
            self.folder.rename(reader.string(), reader.string(), replace=True)
            return wire.status(request, wire.OK)
        if name == b"fsync@openssh.com":
            os.fsync(self._file(reader).descriptor)
            return wire.status(request, wire.OK)
        if name == b"limits@openssh.com":
            limits = (wire.MAX_PACKET_BYTES, wire.MAX_DATA_BYTES, wire.MAX_DATA_BYTES, MAX_HANDLES)
            return wire.reply(wire.EXTENDED_REPLY, request, *(n.to_bytes(8, "big") for n in limits))
        if name == b"statvfs@openssh.com":
            total, left = self.folder.space()
            blocks, free, files = total // _BLOCK, left // _BLOCK, self.folder.max_entries
            told = (_BLOCK, _BLOCK, blocks, free, free, files, files, files, 0, 0, 255)
            return wire.reply(wire.EXTENDED_REPLY, request, *(n.to_bytes(8, "big") for n in told))
        return wire.status(request, wire.OP_UNSUPPORTED, "this is not supported")


def _told(why: Exception) -> tuple[int, str]:
    """What a peer hears of a failure."""
    if isinstance(why, RemoteProtocolError):
        return wire.BAD_MESSAGE, why.detail
    if isinstance(why, PathRefusedError):
        return wire.PERMISSION_DENIED, str(why)
    if isinstance(why, FileNotFoundError):
        return wire.NO_SUCH_FILE, "no such file"
    if isinstance(why, OSError):
        denied = why.errno in _DENIED
        return wire.PERMISSION_DENIED if denied else wire.FAILURE, os.strerror(why.errno or 0)
    return wire.FAILURE, str(why)


_MAX_OFFSET = 2**62
"""Files of Linux end at 2^63 - 1."""
_METHODS: dict[int, Callable[[SftpServer, int, Reader], bytes]] = {
    wire.OPEN: SftpServer._open,  # noqa: SLF001 - the table of its own methods, and so below
    wire.CLOSE: SftpServer._close,  # noqa: SLF001
    wire.READ: SftpServer._read,  # noqa: SLF001
    wire.WRITE: SftpServer._write,  # noqa: SLF001
    wire.LSTAT: SftpServer._stat,  # noqa: SLF001
    wire.STAT: SftpServer._stat,  # noqa: SLF001
    wire.FSTAT: SftpServer._fstat,  # noqa: SLF001
    wire.SETSTAT: SftpServer._setstat,  # noqa: SLF001
    wire.FSETSTAT: SftpServer._fsetstat,  # noqa: SLF001
    wire.OPENDIR: SftpServer._open_folder,  # noqa: SLF001
    wire.READDIR: SftpServer._read_folder,  # noqa: SLF001
    wire.REMOVE: SftpServer._remove,  # noqa: SLF001
    wire.MKDIR: SftpServer._make_folder,  # noqa: SLF001
    wire.RMDIR: SftpServer._remove_folder,  # noqa: SLF001
    wire.REALPATH: SftpServer._real_path,  # noqa: SLF001
    wire.RENAME: SftpServer._rename,  # noqa: SLF001
    wire.EXTENDED: SftpServer._extended,  # noqa: SLF001
}
