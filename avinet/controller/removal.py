"""How a controller leaves: out of the list first, and with that out of everything; then out of the state engine."""

from typing import ClassVar

import attrs

from avinet.controller.engines import Emit
from avinet.controller.growth import StateEngineGrowth
from avinet.controller.newcomers import size_warning, warn_of_size
from avinet.controller.root_holder import Draft, RootHolder, RootHolderLeavesError
from avinet.errors import AvinetError, Kind, error
from avinet.model.events import Level
from avinet.model.ids import ControllerName
from avinet.model.membership import Membership


@error
class ControllerNotFoundError(AvinetError):
    """There is no controller {name} in the cluster; see: avinet cluster status."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    name: str


@attrs.frozen
class Removed:
    """What came of it."""

    name: ControllerName
    membership: int
    warnings: tuple[str, ...] = ()


@attrs.frozen(eq=False)
class Removal:
    """Carried out by whoever has the root key."""

    holder: RootHolder
    growth: StateEngineGrowth
    emit: Emit

    async def remove(self, name: str) -> Removed:
        """Revoke a controller; done once more, it finishes what was cut."""
        await self.holder.require()
        if name == self.holder.members.name:
            raise RootHolderLeavesError(name=name)
        was_there = self.holder.members.current.by_name(name) is not None

        async def make(before: Membership) -> Draft | None:
            left = tuple(known for known in before.controllers if known.name != name)
            return None if len(left) == len(before.controllers) else Draft(left)

        after = await self.holder.change(make)
        if was_there:
            self.emit(
                "CONTROLLER_REMOVED",
                Level.WARNING,
                name,
                f"Controller {name} was removed by membership list {after.number}.",
                membership=after.number,
            )
            warn_of_size(self.emit, after)
        unfinished = await self.tidy()
        if not was_there and name not in unfinished:
            raise ControllerNotFoundError(name=name)
        warnings = [size_warning(after), *unfinished.values()]
        return Removed(ControllerName(name), after.number, tuple(filter(None, warnings)))

    async def tidy(self) -> dict[str, str]:
        """Take out of the state engine who is not in the list; whom it concerned, and what failed, if anything."""
        found: dict[str, str] = {}
        listed = {controller.name for controller in self.holder.members.current.controllers}
        try:
            for name in await self.growth.members():
                if name not in listed:
                    found[name] = ""
                    await self.growth.dismiss(name)
        except AvinetError as why:
            text = f"The state engine could not be told that {', '.join(found) or 'somebody'} left: {why}"
            self.emit("STATE_MEMBER_LEFT_BEHIND", Level.ERROR, "cluster", text, reason=why.reason)
            found = dict.fromkeys(found or {"": ""}, text)
        return found
