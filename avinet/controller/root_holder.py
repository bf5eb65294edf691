"""Whoever has the root key signs the membership list; the store says who that is.

The key never travels: the first controller has it, or the one to whose state folder an operator brought it.  Should two
have it, either may sign: a list is changed by compare, so that both never sign the same number into the store.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import ClassVar

import attrs
from twisted.internet.defer import Deferred, TimeoutError  # noqa: A004 - Twisted's own name
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from avinet.controller.members import Members
from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ControllerName
from avinet.model.membership import Controller, Membership
from avinet.rest.route import Request, Response
from avinet.store.interface import Compare, Delete, Operation, Put, StoreUnavailableError
from avinet.trust.ca import RootCa
from avinet.trust.membership import changed, sign_membership

HOLDER = "root-holder"
"""The store's key: the name of the controller that has the root key, or had it when it was started last."""
LOOK_S = 1.0
"""A status is worth no longer a wait; a store with a quorum answers within milliseconds."""
ELECTION_S = 30.0
"""Two elections of etcd at the longest round trip that it is run with take 20 s; mostly it is one of 2 s."""
RETRY_S = 0.5
MAX_ATTEMPTS = 5
"""Against another who changes the list at the same time; people do that, not programs."""


@error
class RootElsewhereError(AvinetError):
    """This is for controller {holder}, which has the root key and is not reached from here. Ask it directly ({addresses}), or bring it back; see docs/cluster.md."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    holder: str
    addresses: str


@error
class RootNowhereError(AvinetError):
    """No controller has the root key at hand, and this needs it. Bring it to one (trust/root.key in its state folder), restart that one, and take it away again afterwards."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE


@error
class RootHolderLeavesError(AvinetError):
    """Controller {name} has the root key, and without that nobody joins or leaves any more. Bring trust/root.key to another controller, restart both without it here, and ask again."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    name: str


@error
class MembershipBusyError(AvinetError):
    """The membership list kept changing meanwhile. Try again."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE


@attrs.frozen
class Draft:
    """What the next list is to hold, and what goes into the store with it."""

    controllers: Iterable[Controller]
    compares: Sequence[Compare] = ()
    operations: Sequence[Operation] = ()


HandOn = Callable[[ControllerName, Request], Awaitable[Response]]
"""Ask another controller what this one was asked (``Forwarding.ask``)."""
Make = Callable[[Membership], Awaitable[Draft | None]]
"""Given the list of now; None when nothing is to be changed.  Called again when the store knew better."""


@attrs.define(eq=False)
class RootHolder:
    """The root as this controller has it, with its key or without."""

    members: Members
    root: RootCa
    clock: IReactorTime
    _last: ControllerName | None = attrs.field(default=None, init=False)

    async def open(self) -> None:
        """Tell the others, once the store is there."""
        store, me = self.members.store, self.members.name.encode()
        await self.name()
        for _ in range(MAX_ATTEMPTS):
            entry = await store.get(HOLDER)
            mine = entry is not None and entry.value == me
            if mine == self.root.has_key:
                return
            revision = 0 if entry is None else entry.revision
            said: Operation = Put(HOLDER, me) if self.root.has_key else Delete(HOLDER)
            if (await store.transact([Compare(HOLDER, revision)], [said])).succeeded:
                return

    async def name(self) -> ControllerName | None:
        """Who has it."""
        if self.root.has_key:
            return self.members.name
        entry = await self.members.store.get(HOLDER)
        self._last = None if entry is None else ControllerName(entry.value.decode())
        return self._last

    async def name_by_now(self) -> ControllerName | None:
        """The same, or what was known last where the store does not answer at once."""
        asking: Deferred[ControllerName | None] = Deferred.fromCoroutine(self.name())
        try:
            return await asking.addTimeout(LOOK_S, self.clock)
        except (AvinetError, TimeoutError):
            return self._last

    async def require(self) -> None:
        """``RootElsewhereError`` or ``RootNowhereError`` unless it is here."""
        if self.root.has_key:
            return
        name = await self.name()
        holder = None if name is None else self.members.current.by_name(name)
        if holder is None or name == self.members.name:
            if len(self.members.current.controllers) == 1:
                _ = self.root.key  # says where it should be, or that it is wrapped
            raise RootNowhereError
        raise RootElsewhereError(holder=holder.name, addresses=", ".join(holder.addresses))

    async def change_after_dismissal(self, make: Make) -> Membership:
        """``change`` for what follows a dismissal from the state engine, which may have to elect a leader anew first."""
        until = self.clock.seconds() + ELECTION_S
        while True:
            try:
                await self.members.refresh()  # an attempt before may have been done, and only its answer lost
                return await self.change(make)
            except StoreUnavailableError:
                if self.clock.seconds() >= until:
                    raise
                await deferLater(self.clock, RETRY_S, lambda: None)

    async def change(self, make: Make) -> Membership:
        """Sign the next list and bring it into force; what is in force afterwards."""
        await self.require()
        for _ in range(MAX_ATTEMPTS):
            draft = await make(self.members.current)
            if draft is None:
                return self.members.current
            after = changed(self.members.current, draft.controllers)
            document = sign_membership(self.root.key, after)
            if await self.members.publish(document, draft.compares, draft.operations):
                return after
            await self.members.refresh()
        raise MembershipBusyError

    async def tell(self, controller: Controller) -> Membership:
        """Have the list say this of a member; ``controller`` is in it already."""

        async def make(before: Membership) -> Draft | None:
            known = before.by_name(controller.name)
            if known is None or known == controller:
                return None
            return Draft(with_controller(before, controller))

        if self.members.current.by_name(controller.name) == controller:
            return self.members.current  # which needs no key
        return await self.change(make)


def with_controller(
    before: Membership, controller: Controller, instead_of: str = ""
) -> tuple[Controller, ...]:
    """The members with this one, in the place of what it was or of another."""
    gone = {controller.name, instead_of}
    return (*(known for known in before.controllers if known.name not in gone), controller)
