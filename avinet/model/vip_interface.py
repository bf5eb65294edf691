"""Addresses of virtual services that SEs add to their hosts by themselves: what they are told of it.

Where a group names an interface (``ServiceEngineGroup.vip_interface``), an SE with virtual services of that group is sent
one resource more, which names it.  Which addresses go there follows from the virtual services themselves.
"""

from collections.abc import Iterable, Mapping

import attrs
import msgspec

from avinet.model.config import ServiceEngineGroup, VirtualService
from avinet.model.ids import ObjectId
from avinet.model.resources import Resource

KIND = "vipinterface"
_SERVICE = "virtualservice"


class VipInterface(msgspec.Struct, frozen=True, kw_only=True):
    """One group's; ``uuid`` is the group's."""

    uuid: ObjectId
    interface: str


@attrs.frozen(order=True)
class HostAddress:
    """One address on one interface."""

    interface: str
    address: str


def resource_of_group(group: ServiceEngineGroup) -> Resource | None:
    """What SEs with virtual services of this group are sent; None where addresses have to be there already."""
    if not group.vip_interface:
        return None
    told = VipInterface(uuid=group.uuid, interface=group.vip_interface)
    return Resource(f"{KIND}/{group.uuid}", msgspec.msgpack.encode(told))


def is_vip_interface(name: str) -> bool:
    """Whether a resource of this name is one of ours."""
    return name.partition("/")[0] == KIND


def addresses_by_resource(state: Mapping[str, Resource]) -> dict[str, frozenset[HostAddress]]:
    """For each of our resources in a state: where the addresses of its group's virtual services are to be.

    ``msgspec.MsgspecError`` when something in the state cannot be read.
    """
    told: Iterable[tuple[str, VipInterface]] = [
        (name, msgspec.msgpack.decode(resource.body, type=VipInterface))
        for name, resource in state.items()
        if is_vip_interface(name)
    ]
    if not told:
        return {}
    services = [
        msgspec.msgpack.decode(resource.body, type=VirtualService)
        for name, resource in state.items()
        if name.partition("/")[0] == _SERVICE
    ]
    return {
        name: frozenset(
            HostAddress(one.interface, vip.ip_address.addr)
            for service in services
            if service.enabled and service.se_group_ref == one.uuid
            for vip in service.vip
        )
        for name, one in told
    }
