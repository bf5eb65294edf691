"""From the embedded store into the state engine, once.

The move is crash-safe at every step: ``store.db`` becomes ``store.db.moving``; that is the store, and whatever is in
etcd is cleared and copied again, until ``engine.json`` says ``serving``; from then on etcd is, and the file only has to
be renamed once more.  It is kept, as ``store.db.migrated-<UTC>``.  A backup is restored as a ``store.db``, so bringing one
into the state engine is this same move, and needs no tool of etcd's nor its version.
"""

import time
from pathlib import Path
from typing import ClassVar

import msgspec
from twisted.logger import Logger

from avinet.controller.state_engine import InThread
from avinet.controller.state_engine_files import EngineFiles, Progress
from avinet.errors import AvinetError, Kind, error
from avinet.store.copying import Content, check_same, fill, read_file
from avinet.store.interface import Store
from avinet.trust.files import sync_folder

_log = Logger()


@error
class TwoStoresError(AvinetError):
    """{store} is a store, and this controller's state is in {engine} already, with other contents. Which of them counts only you can say: move {store} away to go on with the state engine; or, to go back to what is in {store} (a backup, say), move {engine} away and run avinet restored."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    store: Path
    engine: Path


async def move_in(
    files: EngineFiles, progress: Progress, store: Store, old: Path, in_thread: InThread
) -> Progress:
    """Bring what is in ``old`` into ``store``, unless that was done; afterwards the state engine is in use."""
    if progress.phase == "serving":
        await in_thread(_set_aside, files, old)
        return progress
    moving: Path | None = await in_thread(_take, files, progress, old)
    if moving is not None:
        content: Content = await in_thread(read_file, moving)
        await fill(store, content)
        await check_same(store, content, str(files.folder))
        _log.info("copied {count} keys into the state engine", count=len(content.entries))
    progress = msgspec.structs.replace(progress, phase="serving")
    files.reached(progress)
    await in_thread(_set_aside, files, old)
    return progress


def _moving(old: Path) -> Path:
    return old.with_name(f"{old.name}.moving")


def _take(files: EngineFiles, progress: Progress, old: Path) -> Path | None:
    """The file to copy from; None when this controller had no store before."""
    moving = _moving(old)
    if old.exists():
        if progress.joining or moving.exists():
            raise TwoStoresError(store=old, engine=files.folder)
        read_file(old)  # brings in what its log holds, and shows whether it is whole
        old.rename(moving)
        sync_folder(old.parent)
    return moving if moving.exists() else None


def _set_aside(files: EngineFiles, old: Path) -> None:
    moving = _moving(old)
    if moving.exists():
        kept = old.with_name(time.strftime(f"{old.name}.migrated-%Y%m%dT%H%M%SZ", time.gmtime()))
        moving.rename(kept)
        sync_folder(old.parent)
        _log.info("the store from before is kept as {kept}", kept=str(kept))
    if old.exists():
        raise TwoStoresError(store=old, engine=files.folder)
