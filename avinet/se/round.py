"""One round: what an uplink tries between two waits, the controller's addresses in order, and what came of each."""

from collections.abc import Callable, Iterable

import attrs
from twisted.internet.defer import CancelledError, Deferred

from avinet.se.uplink_machine import Loss

MAX_ADDRESSES = 16
"""Dialed in one round; a name may resolve to any number."""


@attrs.define(eq=False)
class Round:
    """The addresses may be resolved twice in it: once more when a newer membership list came."""

    addresses: list[str] = attrs.field(factory=list)
    """Still to be dialed."""
    list_asked: bool = False
    """Whether the membership list was asked for."""
    busy: Loss | None = None
    """What one that has no room for us said last."""
    _failures: list[str] = attrs.field(factory=list)

    async def resolve(self, names: Iterable[str], resolve: Callable[[str], Deferred[list[str]]]) -> list[str]:
        """Every name in order, until there are enough addresses."""
        found: list[str] = []
        self._failures = []
        for name in names:
            try:
                found.extend(await resolve(name))
            except CancelledError:
                raise
            except Exception as failure:  # noqa: BLE001 - a name that cannot be resolved leaves the others
                self.failed(name, str(failure))
        return list(dict.fromkeys(found))[:MAX_ADDRESSES]

    def failed(self, what: str, why: str) -> None:
        """Nothing came of a name or an address."""
        self._failures.append(f"{what}: {why}")

    def loss(self) -> Loss:
        """What to say of a round that reached nobody."""
        why = "; ".join(self._failures) or "it has no address"
        if self.busy is None:
            return Loss(why)
        return Loss(why, self.busy.retry_after_s, proven=self.busy.proven)
