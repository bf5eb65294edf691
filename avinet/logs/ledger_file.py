"""The file of a ledger: opened, checked, read, written in transactions, by any thread."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from threading import Lock

import msgspec

from avinet.logs import ledger_check
from avinet.logs.entries import LedgerDamage
from avinet.sqlite_file import StoreDamagedError, open_file, rolled_back, translated


class LedgerFile:
    """An open one.  Errors are those of ``avinet.sqlite_file``; after one nothing was changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self.damage: LedgerDamage | None = None
        """Why there was none that could be read at the start."""
        self._connection = open_file(path, files("avinet.logs") / "migrations" / "ledger")
        self._connection.execute("PRAGMA foreign_keys = ON")
        try:
            with self.reading() as connection:
                self.store_id = ledger_check.store_id(connection, path)
                """Made with the ledger, so that one that is made anew has another."""
        except BaseException:
            self._connection.close()
            raise

    def be(self, store_id: str) -> None:
        """It is the ledger of this store, though it was made anew."""
        with self.writing() as connection:
            connection.execute("UPDATE identity SET store = ?", (store_id,))
        self.store_id = store_id

    def check(self) -> None:
        """Read all that others rely on; ``StoreDamagedError`` where it is not what was written."""
        with self.reading() as connection:
            try:
                ledger_check.check(connection)
            except (msgspec.MsgspecError, ValueError, sqlite3.OperationalError) as why:
                if hasattr(why, "sqlite_errorcode"):
                    raise
                # Without one it is Python's: a text that is no UTF-8.
                raise StoreDamagedError(where=str(self._path), detail=str(why)) from why

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Its connection, for this thread alone meanwhile."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as why:
                raise translated(why, self._path) from why

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The same, in one transaction, durable when it ends without an error."""
        with self.reading() as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                rolled_back(connection)
                raise
