"""Opens the ledger.  One that is damaged is put aside, and an empty one takes its place: the store's files say what was in it.

What an empty one does not know is found by ``avinet.logs.store.mending`` and by the intake's ``sweep``; SEs tell again what
they dropped.  What is lost with it are the pulls under way, and what was counted here as lost.
"""

import contextlib
import re
import shutil
import sqlite3
from pathlib import Path

from twisted.logger import Logger

from avinet.errors import AvinetError
from avinet.logs.entries import LedgerDamage
from avinet.logs.ledger import Ledger
from avinet.sqlite_file import StoreDamagedError
from avinet.trust.files import sync_folder, write_private

ID = "store.id"
"""The file with the id of the store, beside the ledger."""
_ID = re.compile("[0-9a-f]{32}")
MAX_ASIDE = 3
"""Damaged ledgers that are kept for whoever wants to look into them, the newest; each may be as large as the ledger is."""
_DAMAGED = frozenset(
    {
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_NOTADB,
    }
)
"""At its opening.  SQLITE_ERROR is a script of ours that does not fit what is there, SQLITE_READONLY a file whose head says that
a later SQLite has to write it."""
_SHORT = frozenset({sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})

_log = Logger()


def open_ledger(path: Path) -> Ledger:
    """The ledger at ``path``, whose ``damage`` says whether there was another one.  Errors are those of ``Ledger``.

    Which store it is the ledger of is kept beside it, too: one that is made anew while the store's files are there is
    still that store's.  Were it another, what others copied of it would count beside it.
    """
    ledger = _open(path)
    try:
        _keep_id(ledger, path.with_name(ID))
    except BaseException:
        ledger.close()
        raise
    return ledger


def _keep_id(ledger: Ledger, path: Path) -> None:
    try:
        kept = path.read_text().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        kept = ""
    if kept == ledger.store_id:
        return
    if _ID.fullmatch(kept):
        ledger.be(kept)
        return
    try:
        write_private(path, f"{ledger.store_id}\n".encode())
    except AvinetError as why:
        _log.error("the id of the log store is not kept beside its ledger: {why}", why=str(why))


def _open(path: Path) -> Ledger:
    try:
        return _opened(path)
    except AvinetError as why:
        if not _is_damage(why):
            raise
        said = why.detail if isinstance(why, StoreDamagedError) else str(why.__cause__)
        try:
            aside = _set_aside(path)
        except OSError:
            # A disk that nothing can be written to is another matter.
            raise why from None
    _log.error(
        "the ledger of logs is damaged ({why}), and made anew; it is kept in {aside}", why=said, aside=aside
    )
    ledger = _opened(path)
    ledger.damage = LedgerDamage(said, aside.name)
    return ledger


def _opened(path: Path) -> Ledger:
    ledger = Ledger(path)
    try:
        ledger.check()
    except BaseException:
        ledger.close()
        raise
    return ledger


def _is_damage(why: AvinetError) -> bool:
    code = getattr(why.__cause__, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return isinstance(why, StoreDamagedError) or code & 0xFF in _DAMAGED or code in _SHORT


def _set_aside(path: Path) -> Path:
    """Put it into a folder of its own; which one that is."""
    name = f"{path.stem}.damaged"
    kept = sorted(path.parent.glob(f"{name}.*"), key=_number)
    aside = path.with_name(f"{name}.{_number(kept[-1]) + 1 if kept else 1}")
    aside.mkdir(mode=0o700)
    for suffix in ("-wal", "-shm", "-journal", ""):
        # The log first: alone it is nothing, and beside a new ledger it would be taken for its own.
        with contextlib.suppress(FileNotFoundError):
            path.with_name(f"{path.name}{suffix}").replace(aside / f"{path.name}{suffix}")
    sync_folder(path.parent)
    for old in kept[: 1 - MAX_ASIDE]:
        shutil.rmtree(old, ignore_errors=True)
    return aside


def _number(aside: Path) -> int:
    number = aside.suffix.removeprefix(".")
    return int(number) if number.isdecimal() else 0
