"""Identifiers, each of its own type, so that a checker sees an SE's UUID used as an object's name."""

import os
import time
import uuid
from typing import NewType

ClusterId = NewType("ClusterId", str)
"""A bare UUID; it stands in the DNS name ``controller.<cluster-uuid>.avinet``."""
ControllerName = NewType("ControllerName", str)
SeId = NewType("SeId", str)
"""``se-<uuid>``; assigned by the controller, never reused."""
ObjectId = NewType("ObjectId", str)
"""``pool-<uuid>``, ``virtualservice-<uuid>``: the kind in lower case, then a UUID of version 7 (RFC 9562), which
begins with the time of its creation: who is older is known wherever the object is."""
ImageId = NewType("ImageId", str)
TokenId = NewType("TokenId", str)
"""The public half of a token: it names the token in lists and events and proves nothing."""
Thumbprint = NewType("Thumbprint", str)
"""RFC 7638 SHA-256 thumbprint of an Ed25519 public key, base64url: the identity of whoever holds the key."""
ConfigVersion = NewType("ConfigVersion", int)
"""Cluster-wide, counted from 1 by the controllers; 0 is the empty configuration."""
NO_VERSION = ConfigVersion(0)
BootId = NewType("BootId", str)
"""Made anew by each start of an SE's agent."""


def new_cluster_id() -> ClusterId:
    """A fresh cluster's UUID."""
    return ClusterId(str(uuid.uuid4()))


def new_se_id() -> SeId:
    """A fresh service engine's UUID."""
    return SeId(f"se-{uuid.uuid4()}")


def new_object_id(kind: str) -> ObjectId:
    """A fresh configuration object's UUID; ``kind`` is the API's word, such as ``pool``."""
    milliseconds = time.time_ns() // 1_000_000 & (2**48 - 1)
    number = milliseconds << 80 | int.from_bytes(os.urandom(10))
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(0x3 << 62) | 2 << 62
    return ObjectId(f"{kind.lower()}-{uuid.UUID(int=number)}")


def age_key(identifier: ObjectId) -> tuple[bool, str]:
    """Sorts objects by age, the oldest first; those of releases that numbered at random are older than all others."""
    return identifier[-22:-21] == "7", identifier


def new_boot_id() -> BootId:
    """One start of an agent."""
    return BootId(str(uuid.uuid4()))


def controller_dns_name(cluster: ClusterId) -> str:
    """The name that every controller's certificate bears and that SEs send as SNI."""
    return f"controller.{cluster}.avinet"
