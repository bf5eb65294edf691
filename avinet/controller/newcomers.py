"""Whether a controller fits into the cluster that it wants to join: plain checks of a list and one entry more."""

from collections.abc import Iterable
from typing import ClassVar

from avinet.controller.engines import Emit
from avinet.errors import AvinetError, Kind, error
from avinet.model.events import Level
from avinet.model.membership import Controller, Membership
from avinet.trust import keys
from avinet.trust.ca import bears_key

MAX_CONTROLLERS = 7
"""What etcd advises at most: each more makes writes slower."""
WELL_SIZED = frozenset({1, 3})
"""Two stop writing when either is lost, and four survive no more than three do."""


@error
class NameTakenError(AvinetError):
    """There is a controller {name} in the cluster already. Set [controller] name on the new one; or, if it is to take that one's place: avinet cluster replace {name}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    name: str


@error
class PortTakenError(AvinetError):
    """Port {port} is controller {holder}'s {what} already, and each controller's state ports are its own in the whole cluster. Set another {setting} on the new one."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    port: int
    holder: str
    what: str
    setting: str


@error
class PlaceTakenError(AvinetError):
    """Controller {holder} is at {address} with {what} {port} already. Check [controller] addresses of the new one, and its ports."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    holder: str
    address: str
    what: str
    port: int


@error
class KeyTakenError(AvinetError):
    """The new controller's {what} is that of controller {holder}: its state folder, or a part of it, was copied. Join with an empty state folder."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    what: str
    holder: str


@error
class StatePortsMissingError(AvinetError):
    """The new controller has no state engine that others can join. Set [store] engine = "etcd" in its settings."""

    kind: ClassVar[Kind] = Kind.CONFLICT


@error
class TooManyControllersError(AvinetError):
    """The cluster has {limit} controllers, the most that it can have."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    limit: int


def check_newcomer(others: Iterable[Controller], new: Controller, *, own_engine: bool = True) -> None:
    """Raise what keeps ``new`` from being beside ``others``; ``own_engine``: each has one, with ports of its own."""
    others = tuple(others)
    if len(others) >= MAX_CONTROLLERS:
        raise TooManyControllersError(limit=MAX_CONTROLLERS)
    if own_engine and not (new.state_client_port and new.state_peer_port):
        raise StatePortsMissingError
    if any(other.name == new.name for other in others):
        raise NameTakenError(name=new.name)
    check_places(others, new)


def check_places(others: Iterable[Controller], new: Controller) -> None:
    """Raise for a port, an address or a key that one of ``others`` has."""
    if new.state_client_port and new.state_client_port == new.state_peer_port:
        raise PortTakenError(
            port=new.state_peer_port, holder=new.name, what="client port", setting="[store] peer_port"
        )
    for other in others:
        _check_state_ports(other, new)
        _check_addresses(other, new)
        for what, theirs, mine in (
            ("SSH host key", other.ssh_host_key, new.ssh_host_key),
            ("id_se", other.id_se, new.id_se),
            ("id_controller", other.id_controller, new.id_controller),
        ):
            if mine and mine == theirs:
                raise KeyTakenError(what=what, holder=other.name)


def check_node_key(others: Iterable[Controller], node_key: str) -> None:
    """Raise for a node key that one of ``others`` has."""
    key = keys.parse_line(node_key)
    for other in others:
        if bears_key(other.node_certificate.encode(), key):
            raise KeyTakenError(what="node key", holder=other.name)


def _check_state_ports(other: Controller, new: Controller) -> None:
    theirs = {other.state_client_port: "client port", other.state_peer_port: "peer port"}
    for port, setting in (
        (new.state_client_port, "[store] client_port"),
        (new.state_peer_port, "[store] peer_port"),
    ):
        if port and port in theirs:
            raise PortTakenError(port=port, holder=other.name, what=theirs[port], setting=setting)


def _check_addresses(other: Controller, new: Controller) -> None:
    for address in set(other.addresses) & set(new.addresses):
        for what, theirs, mine in (
            ("SSH port", other.ssh_port, new.ssh_port),
            ("registration port", other.registration_port, new.registration_port),
        ):
            if theirs == mine:
                raise PlaceTakenError(holder=other.name, address=address, what=what, port=mine)


def size_warning(membership: Membership) -> str:
    """What to know about the number of controllers; empty when it is a good one."""
    count = len(membership.controllers)
    if count in WELL_SIZED:
        return ""
    lost = (count - 1) // 2
    some = "none" if lost == 0 else str(lost)
    return (
        f"The cluster has {count} controllers: it goes on writing while {some} of them "
        f"{'is' if lost < 2 else 'are'} lost. Have 3."
    )


def warn_of_size(emit: Emit, membership: Membership) -> None:
    """Tell of a number of controllers that is not a good one."""
    warning = size_warning(membership)
    if warning:
        emit(
            "CLUSTER_SIZE",
            Level.WARNING,
            "cluster",
            warning,
            reason="size",
            controllers=len(membership.controllers),
        )
