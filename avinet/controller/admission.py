"""What a group's enrolment policy asks of a machine whose image is good: a token, an operator, or its network.

Plain functions and the reasons for which they refuse; ``avinet.controller.enrolment`` does the rest.
"""

import ipaddress
from typing import ClassVar

import attrs

from avinet.controller.tokens import TokenRecord
from avinet.errors import AvinetError, Kind, error
from avinet.model.config import EnrolmentPolicy, ServiceEngineGroup
from avinet.model.engine import Lifecycle


@error
class TokenMissingError(AvinetError):
    """Group {group} wants a token and the registration has none. Give the machine meta-info with a token."""

    kind: ClassVar[Kind] = Kind.DENIED
    group: str


@error
class NothingShownError(AvinetError):
    """The registration has no token, and its image is of no group that might take it without one. Give the machine meta-info with a token."""

    kind: ClassVar[Kind] = Kind.DENIED


@error
class GroupMissingError(AvinetError):
    """The service engine group {group!r} does not exist. Create it, or use another image or token."""

    kind: ClassVar[Kind] = Kind.DENIED
    group: str


@error
class SourceNetworkError(AvinetError):
    """{source} is in none of the networks that group {group} takes machines from without a token."""

    kind: ClassVar[Kind] = Kind.DENIED
    source: str
    group: str


@error
class ImageCountError(AvinetError):
    """Group {group} takes {limit} machines without a token and has them all."""

    kind: ClassVar[Kind] = Kind.DENIED
    group: str
    limit: int


@attrs.frozen
class Admission:
    """What the group's policy says about a new key."""

    group: ServiceEngineGroup
    token: TokenRecord | None
    lifecycle: Lifecycle

    @property
    def by_image_alone(self) -> bool:
        """No token: counted, and unplaced until an operator says."""
        return self.token is None


def admit(group: ServiceEngineGroup, token: TokenRecord | None, source: str) -> Admission:
    """Apply a group's policy to a machine from ``source`` with a good image, and a token or none."""
    if token is not None:
        pending = group.enrolment_policy is EnrolmentPolicy.APPROVE
        return Admission(group, token, Lifecycle.PENDING if pending else Lifecycle.ENROLLED)
    if group.enrolment_policy is not EnrolmentPolicy.IMAGE:
        raise TokenMissingError(group=group.name)
    address = ipaddress.ip_address(source)
    networks = [ipaddress.ip_network(n, strict=False) for n in group.enrolment_networks]
    if not any(address in network for network in networks):
        raise SourceNetworkError(source=source, group=group.name)
    return Admission(group, None, Lifecycle.ENROLLED)
