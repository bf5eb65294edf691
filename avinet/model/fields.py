"""What all configuration objects are made of: bounds, lengths, what a reference is to, addresses."""

import enum
from typing import Annotated

import msgspec

from avinet.model.ids import ObjectId

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
LongSeconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
"""0 for no limit."""
Checks = Annotated[int, msgspec.Meta(ge=1, le=50)]
PoolRef = Annotated[ObjectId, msgspec.Meta(extra={"refers_to": "pool"})]
GroupRef = Annotated[ObjectId, msgspec.Meta(extra={"refers_to": "serviceenginegroup"})]
MonitorRef = Annotated[ObjectId, msgspec.Meta(extra={"refers_to": "healthmonitor"})]
CertificateRef = Annotated[ObjectId, msgspec.Meta(extra={"refers_to": "sslkeyandcertificate"})]
"""References are UUIDs once stored; ``extra`` tells the intake what kind a name is to be looked up as."""
ChainText = Annotated[str, msgspec.Meta(max_length=65_536)]
"""Ten certificates of the largest keys are 40,000 characters."""
KeyText = Annotated[str, msgspec.Meta(max_length=16_384)]
"""RSA with 8,192 bits is 6,500 characters."""
BundleText = Annotated[str, msgspec.Meta(max_length=262_144)]
"""A system's whole bundle of CA certificates is some 220,000 characters."""
PageText = Annotated[str, msgspec.Meta(max_length=16_384)]
"""A page that says sorry; whatever it shows beside text it can refer to."""


class IpAddrType(enum.StrEnum):
    """``DNS`` is a host name that the data plane resolves."""

    V4 = "V4"
    V6 = "V6"
    DNS = "DNS"


class IpAddr(msgspec.Struct, frozen=True, kw_only=True):
    """An address with its kind."""

    addr: str
    type: IpAddrType = IpAddrType.V4


class ConfigObject(msgspec.Struct, frozen=True, kw_only=True):
    """What every object has."""

    uuid: ObjectId
    name: str
    """Unique among objects of its kind; 1 to 128 characters that print, without ``/``."""
    description: str = ""
    """For people."""
