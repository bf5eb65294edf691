"""Identifiers, each of its own type, so that a checker sees an SE's UUID used as an object's name."""

import uuid
from typing import NewType

ClusterId = NewType("ClusterId", str)
"""A bare UUID; it stands in the DNS name ``controller.<cluster-uuid>.avinet``."""
ControllerName = NewType("ControllerName", str)
SeId = NewType("SeId", str)
"""``se-<uuid>``; assigned by the controller, never reused."""
ObjectId = NewType("ObjectId", str)
"""``pool-<uuid>``, ``virtualservice-<uuid>``: the kind in lower case, then a UUID."""
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
    return ObjectId(f"{kind.lower()}-{uuid.uuid4()}")


def new_boot_id() -> BootId:
    """One start of an agent."""
    return BootId(str(uuid.uuid4()))


def controller_dns_name(cluster: ClusterId) -> str:
    """The name that every controller's certificate bears and that SEs send as SNI."""
    return f"controller.{cluster}.avinet"
