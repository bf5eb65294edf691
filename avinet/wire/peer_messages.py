"""The messages of controllers among themselves, framed as the control session's are (``avinet.wire.codec``).

One channel to the service ``peer`` on each connection of a pair carries them.  The side that dialed speaks first
(``PeerHello``), the other answers with its own; after that either side may send, and both ping.  A field added later has a
default, so that versions N and N-1 understand each other.
"""

from typing import Annotated

import msgspec

from avinet.model.ids import BootId, ClusterId, ControllerName
from avinet.units import KIB
from avinet.wire.codec import Dialect
from avinet.wire.vocabulary import Vocabulary

PEER_PROTOCOL_VERSION = 1
OLDEST_PEER_PROTOCOL_VERSION = 1
PEER_SERVICE = "peer"
PEER_PORT = 5093
"""Its ``localhost`` port behind the channel; nothing listens there, so all controllers have the same."""
MAX_PEER_FRAME_BYTES = 272 * KIB
"""The largest is a membership list, a signed document of 256 KiB at most; what is published is cut into frames of ``STATE_FRAME_BYTES``."""
MAX_PEER_HELLO_BYTES = 4 * KIB
"""The first message; a hello is about 200 bytes."""
STATE_FRAME_BYTES = 64 * KIB
"""Of keys and values in one ``PeerState``: a heartbeat behind it waits 5 ms on a link of 100 Mbit/s."""

ShortText = Annotated[str, msgspec.Meta(max_length=500)]
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class PeerMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", omit_defaults=True):
    """Anything that travels in one frame."""


class PeerHello(PeerMessage, tag="peer-hello", frozen=True, kw_only=True):
    """Either way, first."""

    name: ControllerName
    cluster: ClusterId
    lane: str
    """``state`` or ``bulk``: which of a pair's connections this is."""
    boot: BootId
    """Which start of the controller this is."""
    protocol: int
    oldest_protocol: int
    software: ShortText
    membership: int = 0
    """The number of the membership list that it holds."""


class PeerPing(PeerMessage, tag="peer-ping", frozen=True, kw_only=True):
    """Either way, at each heartbeat.  ``sent_at`` is the sender's monotonic clock in seconds."""

    id: int
    sent_at: float


class PeerPong(PeerMessage, tag="peer-pong", frozen=True, kw_only=True):
    """The answer, at once, echoing ``sent_at``."""

    id: int
    sent_at: float


class PeerState(PeerMessage, tag="peer-state", frozen=True, kw_only=True):
    """What the sender publishes, on the state connection: a series of frames of which all but the last say ``more``."""

    whole: bool = False
    """The first series of a connection, from nothing; later ones say what changed."""
    more: bool = False
    put: dict[Key, bytes] = {}
    """A MessagePack value each."""
    gone: tuple[Key, ...] = ()


class PeerMembership(PeerMessage, tag="peer-membership", frozen=True, kw_only=True):
    """A signed membership list, newer than the one that the other side's hello named."""

    document: str


class PeerGoodbye(PeerMessage, tag="peer-goodbye", frozen=True, kw_only=True):
    """Either way, last."""

    reason: str
    """A stable word: ``stopping``, ``replaced``, ``removed``, ``changed``, ``version``, ``refused``, ``protocol``."""
    text: ShortText


class PeerUnsupported(PeerMessage, tag="peer-unsupported", frozen=True, kw_only=True):
    """The answer to a message whose tag this side does not know; the session goes on."""

    tag_: str = msgspec.field(name="tag")


PEER: Dialect[PeerMessage] = Dialect(
    Vocabulary("peer session", PeerMessage, MAX_PEER_FRAME_BYTES),
    lambda reason, text: PeerGoodbye(reason=reason, text=text[:500]),
    lambda tag: PeerUnsupported(tag_=tag),
)
