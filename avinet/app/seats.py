"""Which seat a controller has, and what is said about it: an own store needs no election, one that others have does."""

from collections.abc import Awaitable, Callable
from typing import Any

from avinet.app.cluster import ROLE
from avinet.controller.engines import Emit
from avinet.controller.peers import Peers
from avinet.controller.reports import ControllerEvents
from avinet.controller.seat import OwnSeat, Seat, SharedSeat
from avinet.model.events import Level
from avinet.store.interface import Store
from avinet.store.sqlite import SqliteStore


def seat_of(store: Store, peers: Peers, reactor: Any, emit: Emit) -> Seat:
    """The seat of this controller, whose name ``peers`` know."""
    if isinstance(store, SqliteStore):
        return OwnSeat(store, peers.me)
    seat = SharedSeat(store, peers, reactor)
    events = ControllerEvents(emit)
    seat.listen(lambda role: events.leader_changed(peers.me, role))
    seat.listen(lambda role: peers.publish(ROLE, "leader" if role.leads else "follower"))
    seat.following.listen(events.quorum)
    return seat


def while_leading(seat: Seat, emit: Emit) -> Emit:
    """For events that are about the cluster and not about what is seen from here: one log has them, not each."""
    if isinstance(seat, OwnSeat):
        return emit

    def emit_if_leading(code: str, level: Level, subject: str, text: str, **facts: Any) -> None:
        if seat.role.leads:
            emit(code, level, subject, text, **facts)

    return emit_if_leading


def soon(call: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    """A plain call as one that may be awaited."""

    async def calling() -> None:
        call()

    return calling
