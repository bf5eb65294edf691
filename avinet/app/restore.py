"""What makes a controller that was restored from a backup obeyed again: a new incarnation.

Service engines refuse orders older than the newest they have seen, so that a controller from the past cannot push
the past by accident.  An operator who restores a backup means it; this says so, in the store, before the start.
"""

import time
from pathlib import Path
from typing import ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from avinet.controller.config_store import ConfigStore
from avinet.controller.state_engine_files import engine_files
from avinet.errors import AvinetError, Kind, error
from avinet.store.interface import Store
from avinet.store.sqlite import open_sqlite_store
from avinet.store.threads import InPlace
from avinet.trust.files import destroy, write_private
from avinet.trust.locks import StateLock
from avinet.trust.node import ControllerPaths, read_cluster


@error
class NothingToRestoreError(AvinetError):
    """There is no store in {state}. Put the backup there first; then tell it that it is one."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    state: Path


MARK = "restored"
"""In a state folder whose store is in the state engine, which does not run now: the next start raises the incarnation."""


def mark_restored(state: Path) -> int | None:
    """Raise the incarnation of the stopped controller in ``state``; the new number, None when its next start does it.

    ``StateFolderBusyError`` when it runs.
    """
    read_cluster(state)
    paths = ControllerPaths(state)
    in_engine = not paths.store.exists() and engine_files(state).progress() is not None
    if not paths.store.exists() and not in_engine:
        raise NothingToRestoreError(state=state)
    lock = StateLock.take(state, "avinet controller")
    try:
        if in_engine:
            write_private(state / MARK, b"")
            return None
        return _now(Deferred.fromCoroutine(_mark(paths.store)))
    finally:
        lock.release()


async def begin_if_marked(state: Path, store: Store) -> None:
    """What ``mark_restored`` left to this start."""
    mark = state / MARK
    if mark.exists():
        await ConfigStore(store).begin_incarnation(time.time())
        destroy(mark)


async def _mark(path: Path) -> int:
    store = await open_sqlite_store(path, Clock(), runner=InPlace())
    try:
        return await ConfigStore(store).begin_incarnation(time.time())
    finally:
        await store.close()


def _now(work: Deferred[int]) -> int:
    """The result of work that waits for nothing."""
    results: list[object] = []
    work.addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    assert isinstance(result, int)  # noqa: S101 - for the checker
    return result
