"""Who sees whom among the controllers, and whom a majority has lost.  Plain functions of what each said last.

A member that is not heard counts as one that says nothing: it may see everybody, and it may be gone.  So a
controller that is cut off from all others finds no majority for anything, and decides nothing.
"""

from collections.abc import Collection, Mapping

from avinet.model.ids import ControllerName


def majority(members: int) -> int:
    """How many of ``members`` are more than half of them."""
    return members // 2 + 1


def majority_lost(
    name: ControllerName,
    me: ControllerName,
    members: Collection[ControllerName],
    sees: Mapping[ControllerName, Collection[ControllerName]],
) -> bool:
    """Whether more than half of all members, ``me`` included, do not see ``name``.

    ``sees`` has what each member that ``me`` hears said last, and what ``me`` itself sees.  Of ``me`` nobody else can
    tell: it is lost to those that it does not hear.
    """
    if name == me:
        blind = len(members) - len({me, *sees[me]} & set(members))
    else:
        blind = sum(1 for one, seen in sees.items() if one in members and one != name and name not in seen)
    return blind >= majority(len(members))
