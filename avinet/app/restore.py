"""From a backup into an empty state folder, and what makes a controller that was restored obeyed again.

Everything is made in a folder within the state folder, and then moved to its place: ``cluster.json`` last, without which
no controller starts from keys that are there.  Cut off anywhere, the same command begins again.

Two numbers must exceed all that service engines may have seen since the backup: the incarnation (``avinet.controller.
incarnation``) and the membership list's.  Both become the time, since what counts by ones does not pass that.
"""

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from avinet.app.backup import PRIVATE, SETTINGS, Backup
from avinet.controller.config_store import ConfigStore
from avinet.controller.incarnation import ClockBehindError, begin
from avinet.controller.members import KEY
from avinet.controller.state_engine_files import engine_files
from avinet.errors import AvinetError, Kind, error
from avinet.model.fence import Fence
from avinet.model.membership import Membership
from avinet.store.copying import Content, write_file
from avinet.store.interface import FENCE_KEY, NO_LEASE, Entry, Store
from avinet.store.sqlite import open_sqlite_store
from avinet.store.threads import InPlace
from avinet.trust.ca import RootCa
from avinet.trust.files import destroy, private_dir, read_private, sync_folder, write_private, write_public
from avinet.trust.locks import LOCK_FILE, StateLock
from avinet.trust.membership import changed, sign_membership, verify_membership
from avinet.trust.node import ControllerPaths, read_cluster

CLOCK_SLACK_S = 300.0
"""Two machines may differ by so much without anybody's fault."""
UNFINISHED = ".restoring"
"""In a state folder: what is being restored; where it is, nothing else is anybody's."""
_Result = TypeVar("_Result")


@error
class NothingToRestoreError(AvinetError):
    """There is no store in {state}. Put the backup there first; then tell it that it is one."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    state: Path


@error
class StateNotEmptyError(AvinetError):
    """{state} is not empty: {name} is in it. A backup is restored into an empty folder; move the old one away first, and keep it until the restored controller serves."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    state: Path
    name: str


@error
class RootKeyNeededError(AvinetError):
    """The backup is of {name}, one of {count} controllers, and has no root key that can be used, so no list without the others can be signed. Restore a backup of the controller that has the root key; or name the key's file: --root-key FILE (0600, without a passphrase)."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    name: str
    count: int


@attrs.frozen
class Restoration:
    """What came of it."""

    fence: Fence
    membership: int
    raised: bool
    """Whether the list was signed anew, with a number above all that anybody has."""
    dropped: tuple[str, ...]
    """The other controllers, which are in the list no more."""
    keys: int
    settings: Path | None


def restore(backup: Backup, state: Path, *, accepted: bool, root_key: Path | None = None) -> Restoration:
    """Make ``state``, which is empty or absent, the state folder of the backup's controller."""
    now = time.time()
    made_at = backup.about.made_at
    if now < made_at - CLOCK_SLACK_S:
        raise ClockBehindError(made=_utc(made_at), now=_utc(now))
    private_dir(state)
    lock = StateLock.take(state, "avinet controller")
    try:
        _check_empty(state)
        new = private_dir(state / UNFINISHED)
        try:
            done = _make(backup, new, now, accepted=accepted, root_key=root_key)
            _give_to_owner(state)
            _move(new, state)
        except BaseException:
            if not (state / "cluster.json").exists():
                _clear(state)
            raise
    finally:
        lock.release()
    settings = state / SETTINGS if "settings" in backup.files else None
    return attrs.evolve(done, settings=settings)


def _check_empty(state: Path) -> None:
    if (state / UNFINISHED).exists() and not (state / "cluster.json").exists():
        _clear(state)
    for found in sorted(state.iterdir()):
        if found.name != LOCK_FILE:
            raise StateNotEmptyError(state=state, name=found.name)


def _clear(state: Path) -> None:
    """Of what an earlier try left; the mark last."""
    for found in sorted(state.iterdir(), key=lambda path: path.name == UNFINISHED):
        if found.name == LOCK_FILE:
            continue
        with contextlib.suppress(OSError):
            shutil.rmtree(found) if found.is_dir() else found.unlink()


def _make(backup: Backup, new: Path, now: float, *, accepted: bool, root_key: Path | None) -> Restoration:
    paths = ControllerPaths(new)
    for name, data in backup.files.items():
        path = new / SETTINGS if name == "settings" else getattr(paths, name)
        private_dir(path.parent)
        (write_private if name in {*PRIVATE, "settings"} else write_public)(path, data)
    if root_key is not None:
        write_private(paths.root_key, read_private(root_key))
    before = _newest_list(backup, paths)
    after = _own_list(before, RootCa.load(paths.root_pem.parent), backup, now)
    content = _aged(backup.content, max(0.0, now - backup.about.made_at))
    document = _document(after, paths) if after is not None else None
    entries = [entry for entry in content.entries if entry.key not in {FENCE_KEY, KEY}]
    if document is not None:
        write_public(paths.membership, document)
        entries.append(Entry(KEY, document, 0, 0))
    elif (kept := next((e for e in content.entries if e.key == KEY), None)) is not None:
        entries.append(kept)
    write_file(paths.store, Content(tuple(entries), content.rests, content.revision))
    fence = _now(Deferred.fromCoroutine(_begin(paths.store, now, accepted=accepted)))
    listed = before if after is None else after
    names = {controller.name for controller in listed.controllers}
    return Restoration(
        fence=fence,
        membership=listed.number,
        raised=after is not None,
        dropped=tuple(one.name for one in before.controllers if one.name not in names),
        keys=len(entries),
        settings=None,
    )


def _newest_list(backup: Backup, paths: ControllerPaths) -> Membership:
    """Of the file's and the store's."""
    root = RootCa.load(paths.root_pem.parent).certificate
    documents = [backup.files.get("membership", b"")]
    documents += [entry.value for entry in backup.content.entries if entry.key == KEY]
    lists = [
        verify_membership(document.decode("ascii", "replace"), root, backup.about.cluster)
        for document in documents
        if document
    ]
    return max(lists, key=lambda one: one.number)


def _own_list(before: Membership, root: RootCa, backup: Backup, now: float) -> Membership | None:
    """A list of this controller alone, whose number nobody has seen; None where it is alone and the key is away."""
    me = before.by_name(backup.about.controller)
    alone = me is not None and len(before.controllers) == 1
    if not root.has_key and alone:
        return None
    if not root.has_key or me is None:
        raise RootKeyNeededError(name=backup.about.controller, count=len(before.controllers))
    after = changed(before, (me,))
    return msgspec.structs.replace(after, number=max(after.number, int(now)))


def _document(after: Membership, paths: ControllerPaths) -> bytes:
    return sign_membership(RootCa.load(paths.root_pem.parent).key, after).encode()


def _aged(content: Content, elapsed_s: float) -> Content:
    """What has ended since the backup is over; the rest has as much less left."""
    rests = {lease: rest - elapsed_s for lease, rest in content.rests.items() if rest > elapsed_s}
    entries = tuple(e for e in content.entries if e.lease == NO_LEASE or e.lease in rests)
    return Content(entries, rests, content.revision)


def _give_to_owner(state: Path) -> None:
    """Of the folder, where root restores for the user that the controller runs as."""
    owner = state.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for path in state.rglob("*"):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _move(new: Path, state: Path) -> None:
    names = sorted((path.name for path in new.iterdir()), key=lambda name: name == "cluster.json")
    sync_folder(new)
    for name in names:
        (new / name).rename(state / name)
        sync_folder(state)
    new.rmdir()
    sync_folder(state)


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


# A state folder that was copied back as it was

MARK = "restored"
"""In a state folder whose store is in the state engine, which does not run now: the next start raises the incarnation.  In it is
whether the configuration is accepted."""
_ACCEPTED = b"accepted\n"


def mark_restored(state: Path, *, accepted: bool = False) -> int | None:
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
            write_private(state / MARK, _ACCEPTED if accepted else b"")
            return None
        return _now(Deferred.fromCoroutine(_begin(paths.store, time.time(), accepted=accepted))).incarnation
    finally:
        lock.release()


async def begin_if_marked(state: Path, store: Store) -> None:
    """What ``mark_restored`` left to this start."""
    mark = state / MARK
    if mark.exists():
        await begin(ConfigStore(store), time.time(), accepted=read_private(mark) == _ACCEPTED)
        destroy(mark)


async def _begin(path: Path, now: float, *, accepted: bool) -> Fence:
    store = await open_sqlite_store(path, Clock(), runner=InPlace())
    try:
        return await begin(ConfigStore(store), now, accepted=accepted)
    finally:
        await store.close()


def _now(work: "Deferred[_Result]") -> _Result:
    """The result of work that waits for nothing."""
    results: list[Any] = []
    work.addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    done: _Result = result
    return done
