"""The membership list in force: kept in the store, copied to the local file, told to whoever lives by it.

In the store it is one key, changed by compare alone.  A new list goes there first, then into the file, and only then
are listeners told: whatever of it was cut short, a controller knows at its next start what the cluster knows, and
nobody outside has heard of a list that the cluster may forget.  The newest number wins, wherever it comes from: the
store, the file, or another controller's port 8443, which is how one that was away learns that it was removed.

A list without this controller is kept as any other, so that the next start knows; listeners are told of it first.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import attrs
from cryptography import x509
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from avinet.controller.engines import Emit
from avinet.controller.listeners import Listeners
from avinet.errors import AvinetError
from avinet.model.events import Level
from avinet.model.ids import ControllerName
from avinet.model.membership import Membership
from avinet.store.interface import Change, Compare, Entry, Operation, Put, Store
from avinet.trust.files import write_public
from avinet.trust.local_list import SignedList
from avinet.trust.membership import newer, verify_membership

KEY = "membership"
Listener = Callable[[Membership, Membership], None]
"""Told the list before and the one now."""


@attrs.frozen
class LocalCopy:
    """Where the list is on disk, and whose signature it must bear."""

    path: Path
    root: x509.Certificate
    in_thread: Callable[..., "Deferred[None]"] = deferToThread

    def write(self, document: str) -> Deferred[None]:
        """Durably, in a thread."""
        return self.in_thread(write_public, self.path, document.encode())


@attrs.define(eq=False)
class Members:
    """The list as this controller, ``name``, holds it: what was on disk until ``open``, then the store's, too.

    A ``Mirror``: where others change the store, it is kept up by the one watch.
    """

    name: ControllerName
    held: SignedList
    copy: LocalCopy
    emit: Emit
    store: Store = attrs.field(init=False)
    _revision: int = attrs.field(default=0, init=False)
    """Of the store's key; 0 while it has none."""
    _listeners: Listeners[Listener] = attrs.field(
        factory=lambda: Listeners("the membership list"), init=False, repr=False
    )
    _taking: DeferredLock = attrs.field(factory=DeferredLock, init=False, repr=False)
    _log: ClassVar[Logger] = Logger()

    @property
    def current(self) -> Membership:
        """The list."""
        return self.held.membership

    @property
    def document(self) -> str:
        """The list as it is handed out."""
        return self.held.document

    @property
    def is_member(self) -> bool:
        """Whether this controller is in it."""
        return self.current.by_name(self.name) is not None

    def listen(self, listener: Listener) -> None:
        """Tell of each newer list, after it is durable."""
        self._listeners.add(listener)

    # The store

    async def open(self, store: Store) -> None:
        """Make store and file agree: the newest of both is the list."""
        self.store = store
        entry = await self.store.get(KEY)
        if entry is not None:
            found = self._from(entry)
            if found.number == self.current.number and found != self.current:
                # Signed while the controller was stopped, by `avinet init`, after a crash that only the store
                # outlived.  Nobody has heard of the file's; whoever signs next passes both.
                await self.copy.write(entry.value.decode())
                self.held = SignedList(found, entry.value.decode())
            await self._took(entry)
            if found.number >= self.current.number:
                return
        # A release before this one had no list in the store; or the store is older than the file.
        if not await self.publish(self.document):
            await self.refresh()

    async def refresh(self) -> None:
        """Take what the store has now."""
        entry = await self.store.get(KEY)
        if entry is None:
            self._revision = 0
        else:
            await self._took(entry)

    async def publish(
        self, document: str, compares: Sequence[Compare] = (), operations: Sequence[Operation] = ()
    ) -> bool:
        """Make ``document`` the cluster's list, and do ``operations`` with it; False when a compare did not hold.

        A failure of the store leaves open whether it was done: ``refresh`` tells.
        """
        outcome = await self.store.transact(
            (Compare(KEY, self._revision), *compares), (Put(KEY, document.encode()), *operations)
        )
        if outcome.succeeded:
            self._revision = max(self._revision, outcome.revision)
            await self.take(document)
        return outcome.succeeded

    async def take(self, document: str) -> bool:
        """Believe a list that the root signed, wherever it comes from; True when it is newer than the one held."""
        await self._taking.acquire()
        try:
            found = newer(self.current, document, self.copy.root)
            before = self.current
            if found is before:
                return False
            await self.copy.write(document)
            self.held = SignedList(found, document)
        finally:
            self._taking.release()
        self._listeners.tell(lambda listener: listener(before, found))
        return True

    async def _took(self, entry: Entry) -> None:
        self._revision = max(self._revision, entry.revision)
        document = entry.value.decode("ascii", "replace")
        try:
            if self._from(entry).number >= self.current.number:
                await self.take(document)
        except AvinetError as why:
            self.emit(
                "MEMBERSHIP_REFUSED",
                Level.ERROR,
                "controller",
                f"The membership list in the store was refused: {why}",
                reason=why.reason,
            )
            raise

    def _from(self, entry: Entry) -> Membership:
        return verify_membership(entry.value.decode("ascii", "replace"), self.copy.root, self.current.cluster)

    # ``Mirror``: what others change

    @property
    def prefixes(self) -> tuple[str, ...]:
        """One key."""
        return (KEY,)

    def revisions(self) -> Mapping[str, int]:
        """Of what the store had."""
        return {KEY: self._revision} if self._revision else {}

    def took(self, changes: Sequence[Change]) -> None:
        """Soon: the file is written by a thread."""
        for change in changes:
            if change.key == KEY and change.entry is not None and change.revision > self._revision:
                taking = Deferred.fromCoroutine(self._took(change.entry))
                taking.addErrback(lambda f: self._log.error("{why}", why=f.getErrorMessage()))
