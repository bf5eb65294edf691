"""Copy sets: what this controller keeps of other controllers' log stores, so that nothing that was acknowledged has one place.

A set is all that was copied here from one store, which its id tells.  It is a log store of its own, taken in and kept like
this controller's; it counts in answers while no controller that lives has the store itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from avinet.controller.log_store import LogStoreService
from avinet.logs.copies import Uncopied
from avinet.model.ids import ControllerName

STORE = "log-store"
"""What a controller publishes to its peers: the id of its own log store."""
SETS = "log-copies"
"""The same: its sets, ids of stores to the names of the controllers that had them."""


class CopySets(Protocol):
    """The sets of this controller."""

    def ids(self) -> Mapping[str, ControllerName]:
        """The stores of which there are sets here, and whose they were."""

    def search(self, ids: Iterable[str]) -> Sequence[LogStoreService]:
        """The sets of these stores, as far as they are here: ``store`` and ``ledger`` for reading, ``fresh`` to have all of it."""

    def uncopied(self, id_: str) -> Uncopied:
        """What the store had that is in no set; nothing for a store of which there is no set here."""


class NoCopySets:
    """Of a controller that keeps none."""

    def ids(self) -> Mapping[str, ControllerName]:
        """None."""
        return {}

    def search(self, ids: Iterable[str]) -> Sequence[LogStoreService]:
        """None."""
        return ()

    def uncopied(self, id_: str) -> Uncopied:
        """Nothing."""
        return Uncopied()
