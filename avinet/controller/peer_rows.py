"""The links to another controller as the operator API shows them."""

import msgspec

from avinet.controller.peers import Lane, LaneView, PeerView


class LinkRow(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two connections to a controller."""

    lane: str
    """``state`` or ``bulk``."""
    up: bool
    dialed: bool
    """Whether the controller that answers dialed it."""
    since: float | None
    """UNIX seconds: up, or down, since then; null when it never was up."""
    rtt_ms: float | None
    """Smoothed."""
    address: str
    """Of the other side, as seen from here."""
    cipher: str
    why: str
    """Why it is not up."""


class PortRow(msgspec.Struct, frozen=True, kw_only=True):
    """One port of its state engine, on this machine's loopback."""

    port: int
    how: str
    """``forwarded`` through the state connection; ``direct`` where both controllers are on one machine; or why it is
    neither."""


def links_of(view: PeerView) -> tuple[LinkRow, ...]:
    """State first."""
    return tuple(_link(lane, one, view) for lane, one in ((Lane.STATE, view.state), (Lane.BULK, view.bulk)))


def ports_of(view: PeerView) -> tuple[PortRow, ...]:
    """None where it has no state engine."""
    return tuple(PortRow(port=one.port, how=one.how) for one in view.ports)


def _link(lane: Lane, one: LaneView, view: PeerView) -> LinkRow:
    return LinkRow(
        lane=lane.value,
        up=one.up,
        dialed=view.dials,
        since=one.since,
        rtt_ms=None if one.rtt_s is None else round(one.rtt_s * 1000, 3),
        address=one.address,
        cipher=one.cipher,
        why=one.why,
    )
