"""The keeper: what other controllers have copied here, a set for each of their stores.

A set is a log store of its own, so that what is in it can be asked at once when its controller is gone, and so that it grows
old as any other.  All sets share workers and threads.  A set is opened when its controller first speaks, or at the start if it
is there; one that has nothing any more goes, once no controller that lives has its store.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred, DeferredList, DeferredLock, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.log_copy_set import CopySet
from avinet.controller.log_intake import Threads
from avinet.controller.log_keeper_link import KeeperLink
from avinet.controller.log_sets import SETS, STORE
from avinet.controller.log_store import LogStoreService
from avinet.controller.log_writes import AnyPart, Writes
from avinet.controller.peers import Peers
from avinet.errors import AvinetError, Kind, error
from avinet.logs.copies import Uncopied
from avinet.logs.runs import Names
from avinet.model.ids import ControllerName
from avinet.wire.copy_messages import CopyClaim, CopyMessage, CopyQuestion, Forget

MAX_SETS = 32
"""Each is an open ledger and some timers; a cluster has three stores, and those of controllers that were replaced."""
MAX_OF_ONE = 8
"""Of one controller: none takes the others' places."""
MAX_CLAIMED = 4
"""The same, for one more to be made because another member says that it is that controller's."""
LOOK_S = 60.0
"""Between looks for sets that have nothing any more: as often as a store is kept up."""

Make = Callable[[str, ControllerName | None], Awaitable[CopySet | None]]
"""Opens a set, or makes it for the controller that is named; None where it does not say whose it is, and nobody is named."""
Answer = Callable[[ControllerName, CopyClaim | CopyQuestion], Awaitable[CopyMessage]]


@error
class CopySetRefusedError(AvinetError):
    """Controller {controller} may not have its request logs copied here: {why}."""

    kind: ClassVar[Kind] = Kind.DENIED
    controller: ControllerName
    why: str


@attrs.frozen
class SetFolders:
    """Where sets are."""

    make: Make
    found: Callable[[], Sequence[str]]
    """The stores of which there are folders; blocks."""
    remove: Callable[[str], None]
    """A folder and all in it; blocks."""


@attrs.define(eq=False)
class Keeper:
    """One controller's."""

    peers: Peers
    threads: Threads
    clock: IReactorTime
    folders: SetFolders
    sets: dict[str, CopySet] = attrs.field(factory=dict, init=False)
    answers: Answer | None = attrs.field(default=None, init=False, repr=False)
    """Of questions of other members (``avinet.controller.log_claims``)."""
    _links: dict[str, KeeperLink] = attrs.field(factory=dict, init=False, repr=False)
    """The newest of each store."""
    _live: set[KeeperLink] = attrs.field(factory=set, init=False, repr=False)
    _locks: dict[str, DeferredLock] = attrs.field(factory=dict, init=False, repr=False)
    """Whoever finds out whether what a set holds counts: its controller, or the other members."""
    _opening: DeferredLock = attrs.field(factory=DeferredLock, init=False, repr=False)
    _free: list[Writes] = attrs.field(factory=list, init=False, repr=False)
    _look: IDelayedCall | None = attrs.field(default=None, init=False)
    _stopped: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    async def start(self) -> None:
        """Open what is there."""
        for store in await self.threads.commits.run(self.folders.found):
            try:
                await self._open(store, None)
            except AvinetError as why:
                self._log.error(
                    "copies of logs in {store} cannot be opened: {why}", store=store, why=str(why)
                )
        self._tell()
        self._look = self.clock.callLater(LOOK_S, self._look_through)

    async def stop(self) -> None:
        """Take nothing more, and close all."""
        self._stopped = True
        if self._look is not None and self._look.active():
            self._look.cancel()
        links = tuple(self._live)
        for link in links:
            link.cut("this controller stops")
        await DeferredList([link.ended for link in links])
        for set_ in self.sets.values():
            await set_.close()
        self.sets.clear()

    def build(self, name: ControllerName) -> IProtocol:
        """The protocol of one channel to ``peer-copies``."""
        link = KeeperLink(name, self, self.clock)
        self._live.add(link)
        return link

    # CopySets

    def ids(self) -> Mapping[str, ControllerName]:
        """See ``CopySets``."""
        return {store: set_.controller for store, set_ in self.sets.items()}

    def search(self, ids: Iterable[str]) -> Sequence[LogStoreService]:
        """See ``CopySets``."""
        return [self.sets[store].service for store in ids if store in self.sets]

    def uncopied(self, id_: str) -> Uncopied:
        """See ``CopySets``."""
        set_ = self.sets.get(id_)
        return Uncopied() if set_ is None else set_.uncopied

    # What links ask

    def buffer(self) -> Writes:
        """See ``LinkKeeper``."""
        return self._free.pop() if self._free else Writes()

    def give_back(self, writes: Writes) -> None:
        """See ``LinkKeeper``."""
        writes.clear()
        if not self._free:
            self._free.append(writes)

    def opened(self, link: KeeperLink, store: str) -> Deferred[tuple[CopySet, bool, Names]]:
        """See ``LinkKeeper``."""
        if store == self.peers.said(self.peers.me).get(STORE):
            own = "the store is this controller's own; was its state folder copied from here?"
            return fail(CopySetRefusedError(controller=link.name, why=own))
        older = self._links.get(store)
        owner = self._owner(store) if older is None else older.name
        if owner not in {None, link.name}:
            return fail(CopySetRefusedError(controller=link.name, why=f"the store is that of {owner}"))
        self._links[store] = link
        waiting = succeed(None)
        if older is not None:
            waiting = Deferred()
            older.ended.addCallback(_pass_on, waiting)
            older.cut("a newer channel took its place")

        async def opened() -> tuple[CopySet, bool, Names]:
            await waiting
            # Not while others are asked whether what is held counts: the answer may be that it does.
            await self.lock(store).acquire()
            try:
                return await self._opened(link, store)
            finally:
                self.lock(store).release()

        return Deferred.fromCoroutine(opened())

    async def _opened(self, link: KeeperLink, store: str) -> tuple[CopySet, bool, Names]:
        set_ = await self._open(store, link.name)
        new, held = await self.threads.commits.run(lambda: _look_at(set_))
        if set_.controller != link.name:
            if not new:
                raise CopySetRefusedError(controller=link.name, why=f"the store is that of {set_.controller}")
            # What another member has said of it when nothing was here is no proof.
            await self.threads.commits.run(lambda: set_.rows.be(link.name))
            set_.controller = link.name
            self._tell()
        set_.holds = bool(held)
        return set_, new, held

    def _owner(self, store: str) -> ControllerName | None:
        """Who is known to have it; a member may have its own copied and nobody else's."""
        return next((name for name in self.peers.live if self.peers.said(name).get(STORE) == store), None)

    def lock(self, store: str) -> DeferredLock:
        """Of one store's set."""
        return self._locks.setdefault(store, DeferredLock())

    def write(self, set_: CopySet, writes: Writes) -> Deferred[None]:
        """See ``LinkKeeper``."""
        return self.threads.writes.run(lambda: writes.run(set_.logs))

    def hold(self, set_: CopySet, parts: Sequence[AnyPart]) -> Deferred[None]:
        """See ``LinkKeeper``."""
        set_.holds = True
        return self.threads.commits.run(lambda: set_.hold(parts))

    def settle(self, set_: CopySet, names: Names, drop: Names) -> Deferred[None]:
        """See ``LinkKeeper``."""

        def settled(found: tuple[int, bool]) -> None:
            raw_bytes, set_.holds = found
            if raw_bytes:
                set_.service.arrived(raw_bytes)

        return self.threads.commits.run(lambda: set_.settle(names, drop)).addCallback(settled)

    def forget(self, set_: CopySet, message: Forget) -> Deferred[None]:
        """See ``LinkKeeper``."""
        forget = set_.logs.ledger.forget
        return self._try(
            lambda: forget(message.se, message.incarnation, message.below), "names are not forgotten"
        )

    def note_uncopied(self, set_: CopySet, uncopied: Uncopied) -> Deferred[None]:
        """See ``LinkKeeper``."""
        set_.uncopied = uncopied
        return self._try(lambda: set_.rows.note_uncopied(uncopied), "what is copied nowhere is not noted")

    def discard(self, parts: Sequence[AnyPart]) -> Deferred[None]:
        """See ``LinkKeeper``."""
        return self._try(lambda: [part.discard() for part in parts], "parts of copies are not removed")

    def answer(self, name: ControllerName, message: CopyClaim | CopyQuestion) -> Deferred[CopyMessage]:
        """See ``LinkKeeper``."""
        if self.answers is None:
            raise AssertionError("it is not whole")
        return Deferred.fromCoroutine(_coroutine(self.answers(name, message)))

    def over(self, link: KeeperLink) -> None:
        """See ``LinkKeeper``."""
        self._live.discard(link)
        for store, newest in tuple(self._links.items()):
            if newest is link:
                del self._links[store]

    # Sets

    async def opened_for(self, store: str, controller: ControllerName) -> CopySet:
        """The set, made where there is none; another member says whose it is."""
        return await self._open(store, controller, MAX_CLAIMED)

    async def _open(self, store: str, controller: ControllerName | None, most: int = MAX_OF_ONE) -> CopySet:
        await self._opening.acquire()
        try:
            return await self._open_one(store, controller, most)
        finally:
            self._opening.release()

    async def _open_one(self, store: str, controller: ControllerName | None, most: int) -> CopySet:
        set_ = self.sets.get(store)
        if set_ is None:
            same = sum(one.controller == controller for one in self.sets.values())
            if same >= most or len(self.sets) >= MAX_SETS:
                raise CopySetRefusedError(
                    controller=controller or ControllerName(store),
                    why=f"{same} of its stores, and {len(self.sets)} in all, have copies here",
                )
            set_ = await self.folders.make(store, controller)
            if set_ is None:
                raise CopySetRefusedError(
                    controller=ControllerName(store), why="the copy does not say whose it is"
                )
            if self._stopped:
                await set_.close()
                raise CopySetRefusedError(controller=set_.controller, why="this controller stops")
            self.sets[store] = set_
            self._tell()
        return set_

    def _tell(self) -> None:
        self.peers.publish(SETS, dict(self.ids()) or None)

    def _look_through(self) -> None:
        """Remove sets of which nothing is left."""
        self._look = None
        stores = {str(self.peers.said(name).get(STORE, "")) for name in self.peers.live}

        async def look() -> None:
            for store, set_ in tuple(self.sets.items()):
                if store not in stores and store not in self._links and not set_.holds:
                    await self._remove_if_empty(store, set_)

        def again(result: Any) -> None:
            if isinstance(result, Failure):
                self._log.failure("copies of logs that have had their time are not removed", result)
            if not self._stopped:
                self._look = self.clock.callLater(LOOK_S, self._look_through)

        Deferred.fromCoroutine(look()).addBoth(again)

    async def _remove_if_empty(self, store: str, set_: CopySet) -> None:
        ledger, may_return = set_.logs.ledger, set_.controller in self.peers.members

        def is_wanted() -> bool:
            if ledger.files() or ledger.waiting_totals().segments:
                return True
            # Where copies are that it must not have made again.
            return may_return and set_.rows.yielded() > 0

        if await self.threads.commits.run(is_wanted):
            return
        await self.lock(store).acquire()
        try:
            if store in self._links:
                return
            del self.sets[store]
            await set_.close()
            await self.threads.commits.run(lambda: self.folders.remove(store))
            self._tell()
            self._log.info("a copy of the logs of {name} is gone: it was empty", name=set_.controller)
        finally:
            self.lock(store).release()

    def _try(self, call: Callable[[], object], what: str) -> Deferred[None]:
        return self.threads.commits.run(call).addCallbacks(
            lambda _: None, lambda f: self._log.error("{what}: {why}", what=what, why=f.getErrorMessage())
        )


def _look_at(set_: CopySet) -> tuple[bool, Names]:
    """Whether nothing of it was ever here, and what is held."""
    return set_.rows.is_new(), set_.rows.held()


def _pass_on(result: None, done: Deferred[None]) -> None:
    done.callback(None)
    return result


async def _coroutine(answering: Awaitable[CopyMessage]) -> CopyMessage:
    return await answering
