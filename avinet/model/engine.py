"""A service engine as its controllers know it: the stored record, and the state an operator reads.

``lifecycle`` is stored and changes only by decisions (enrolment, an operator's command); UP and DOWN are never
stored, since they say who is connected now.
"""

import enum

import msgspec

from avinet.model.ids import ImageId, SeId, Thumbprint, TokenId

LOOPBACK_REST_S = 24 * 3600.0
"""An address waits this long before another SE gets it, so that stale known_hosts and scripts age out."""


class Lifecycle(enum.StrEnum):
    """What has been decided about an SE."""

    CREATING = "CREATING"
    """The record exists, the machine has not enrolled."""
    PENDING = "PENDING"
    """Enrolled and waiting for an operator's approval."""
    ENROLLED = "ENROLLED"
    DISABLED = "DISABLED"
    """By an operator: stays connected, is given no virtual service."""
    QUARANTINED = "QUARANTINED"
    """Two machines use its key, or an operator doubts it: no session, no configuration."""
    DELETED = "DELETED"


class SeState(enum.StrEnum):
    """What an operator sees: the lifecycle, refined by whether a session is alive."""

    CREATING = "CREATING"
    PENDING = "PENDING"
    ENROLLED = "ENROLLED"
    """Never connected."""
    UP = "UP"
    DOWN = "DOWN"
    DISABLED = "DISABLED"
    QUARANTINED = "QUARANTINED"
    DELETED = "DELETED"


class SeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is stored about one SE.  Times are UNIX seconds, keys are OpenSSH lines without comment."""

    uuid: SeId
    name: str
    group: str
    loopback: str
    """The controller-side address that stands for this SE, ``127.1.x.y``."""
    cloud: str = "manual"
    """The driver that made the machine: ``manual`` or ``local``."""
    lifecycle: Lifecycle = Lifecycle.CREATING
    placeable: bool = True
    """False until an operator places an SE that enrolled by its image's signature alone."""
    created_at: float = 0.0
    enrolled_at: float | None = None
    connected_once: bool = False
    image: ImageId | None = None
    token: TokenId | None = None
    se_key: str = ""
    host_key: str = ""
    thumbprint: Thumbprint | None = None
    source: str = ""
    """The address it enrolled from."""
    note: str = ""
    """Why it is quarantined or disabled, in an operator's words or ours."""
    deleted_at: float | None = None
    drains: bool = True
    """While it is disabled: it serves on what it has until others have taken over.  False to end that at once."""
    leaving: bool = False
    """It is to be deleted once it has drained."""


def state_of(record: SeRecord, *, attached: bool) -> SeState:
    """The one word that stands for an SE in lists and events."""
    if record.lifecycle is not Lifecycle.ENROLLED:
        return SeState(record.lifecycle.value)
    if attached:
        return SeState.UP
    return SeState.DOWN if record.connected_once else SeState.ENROLLED
