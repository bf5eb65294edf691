"""A push as messages, made as the link takes them."""

from collections.abc import Iterator

import attrs

from avinet.controller.progress import Push
from avinet.model.fence import Fence
from avinet.units import KIB
from avinet.wire.messages import ConfigEnd, ConfigPut, ConfigRemove, ConfigStart, Message

FRAME_BYTES = 512 * KIB
"""Of one body in a frame: half of what the protocol allows."""
NAMES_A_FRAME = 1_000


def frames_of(push: Push, fence: Fence) -> Iterator[Message]:
    """What it puts, then what it removes, between a start that says how much and an end."""
    delta, wanted = push.delta, push.wanted
    yield ConfigStart(
        push=push.number,
        fence=fence,
        base=push.base,
        hash=wanted.hash,
        puts=len(delta.put),
        removes=len(delta.remove),
        size=push.size,
    )
    for resource in delta.put:
        body = resource.body
        for start in range(0, max(1, len(body)), FRAME_BYTES):
            piece = body[start : start + FRAME_BYTES]
            more = start + FRAME_BYTES < len(body)
            yield ConfigPut(push=push.number, name=resource.name, body=piece, more=more)
    for start in range(0, len(delta.remove), NAMES_A_FRAME):
        yield ConfigRemove(push=push.number, names=delta.remove[start : start + NAMES_A_FRAME])
    yield ConfigEnd(push=push.number)


@attrs.define
class Pushed:
    """Since the start, of all SEs."""

    pushes: int = 0
    resends: int = 0
    """Of them: of a state that was sent to the SE before, and did not get in force."""
    size: int = 0
    """Bytes of the objects in them."""
    acks: int = 0
    nacks: int = 0
