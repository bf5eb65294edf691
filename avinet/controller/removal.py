"""How a controller leaves: out of the state engine, then out of the list, and with that out of everything.

In this order, since it ends as soon as it hears the list: of two members of a state engine neither can take out the
other once that is gone.  Cut in between, the same request finishes it.
"""

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
        """Revoke a controller."""
        await self.holder.require()
        await self.holder.members.refresh()
        if name == self.holder.members.name:
            raise RootHolderLeavesError(name=name)
        if self.holder.members.current.by_name(name) is None:
            raise ControllerNotFoundError(name=name)
        gone = ControllerName(name)
        await self.growth.dismiss(gone)

        async def make(before: Membership) -> Draft | None:
            left = tuple(known for known in before.controllers if known.name != name)
            return None if len(left) == len(before.controllers) else Draft(left)

        after = await self.holder.change_after_dismissal(make)
        self.emit(
            "CONTROLLER_REMOVED",
            Level.WARNING,
            name,
            f"Controller {name} was removed by membership list {after.number}.",
            membership=after.number,
        )
        warn_of_size(self.emit, after)
        warning = size_warning(after)
        return Removed(gone, after.number, (warning,) if warning else ())
