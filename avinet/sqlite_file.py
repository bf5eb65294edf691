"""SQLite files as avinet keeps them: private, durable, upgraded by numbered scripts, never by a newer avinet's rules.

``PRAGMA user_version`` is the number of the last script applied.  Before an upgrade the file is copied aside
(``store.db.v1.backup``); each script and its number are one transaction, so a crash leaves one or the other.

The lock is exclusive for as long as the file is open: a second process on the same state is refused at once, and
SQLite keeps the WAL's index in its own memory instead of a mapped file, whose pages a full disk turns to SIGBUS.

At the bottom of the layers, since stores and logs keep such files.
"""

import contextlib
import os
import sqlite3
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import ClassVar

from avinet.errors import AvinetError, Kind, error

WAL_BYTES = 64 * 1024 * 1024
"""What the log is cut back to after a checkpoint; between checkpoints it seldom passes 4 MiB (1,000 pages)."""
LOCK_TIMEOUT_S = 1.0
"""A predecessor that is just exiting is waited for; another controller is not."""


@error
class StoreFullError(AvinetError):
    """The store at {where} cannot grow: {detail}. Nothing was changed. Free disk space, then try again."""

    kind: ClassVar[Kind] = Kind.NO_SPACE
    where: str
    detail: str


@error
class StoreUnavailableError(AvinetError):
    """The store at {where} does not answer: {detail}. Nothing is known to have changed; try again later."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    where: str
    detail: str


@error
class SchemaNewerError(AvinetError):
    """{where} was written by a newer avinet (schema {found}, this one knows {known}). Run that version, or restore the backup made before the upgrade."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    where: str
    found: int
    known: int


@error
class StoreDamagedError(AvinetError):
    """{where} is damaged: {detail}. Nothing was changed; restore it from a backup."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    where: str
    detail: str


def open_file(path: Path, scripts: Traversable) -> sqlite3.Connection:
    """Open or make the file at ``path``, at the newest schema; raises an ``AvinetError`` and leaves it as it was.

    ``scripts`` is the folder of the numbered upgrades.  The connection is for one thread at a time.
    """
    connection: sqlite3.Connection | None = None
    try:
        _touch_private(path)
        connection = sqlite3.connect(
            path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        _check(connection, path)
        _upgrade(connection, path, _scripts(scripts))
    except (OSError, sqlite3.Error, AvinetError) as why:
        if connection is not None:
            connection.close()
        if isinstance(why, AvinetError):
            raise
        raise translated(why, path) from why
    return connection


def translated(why: Exception, path: Path) -> AvinetError:
    """SQLite's and the system's errors as ours."""
    code = getattr(why, "sqlite_errorcode", 0) & 0xFF
    detail = str(why)
    if code == sqlite3.SQLITE_FULL or _no_space(path):
        return StoreFullError(where=str(path), detail=detail)
    if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return StoreDamagedError(where=str(path), detail=detail)
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        detail = "another process has it open, perhaps a controller that runs on this state"
    return StoreUnavailableError(where=str(path), detail=detail)


def rolled_back(connection: sqlite3.Connection) -> None:
    """Leave no transaction open, whatever state the last error left."""
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _no_space(path: Path) -> bool:
    try:
        space = os.statvfs(path.parent)
    except OSError:
        return False
    return space.f_bavail * space.f_frsize < 64 * 1024  # less than one transaction's pages


def _touch_private(path: Path) -> None:
    """Make the file before SQLite does, 0600; the WAL inherits its mode."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreDamagedError(where=str(path), detail=verdict)


def _scripts(folder: Traversable) -> list[str]:
    found = [item for item in folder.iterdir() if item.name.endswith(".sql")]
    found.sort(key=lambda item: item.name)
    return [item.read_text() for item in found]


def _upgrade(connection: sqlite3.Connection, path: Path, scripts: list[str]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(scripts):
        raise SchemaNewerError(where=str(path), found=version, known=len(scripts))
    if 0 < version < len(scripts):
        _back_up(connection, path.with_name(f"{path.name}.v{version}.backup"))
    for number, script in enumerate(scripts[version:], version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.Error:
            rolled_back(connection)
            raise


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    temporary = target.with_name(f"{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    _touch_private(temporary)
    with contextlib.closing(sqlite3.connect(temporary)) as copy:
        connection.backup(copy)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(target)
