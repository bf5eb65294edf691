"""One push of configuration, put together from its frames.  Pure: messages in, a whole ``Push`` or a refusal out.

A push is ``ConfigStart``, its ``ConfigPut`` and ``ConfigRemove`` frames in any order, ``ConfigEnd``.  The start
announces counts and size, so that too much is refused before it is buffered, and what arrives is held to what was
announced.  A refused push stays refused: the rest of its frames are dropped without a second answer.

What a push means for the state in force is decided only when its turn comes (``compose``), since another push may
have been applied in between.
"""

from collections.abc import Mapping

import attrs

from avinet.model.fence import Fence
from avinet.model.resources import Resource, hashes_of, state_hash
from avinet.units import MIB
from avinet.wire.messages import ConfigEnd, ConfigPut, ConfigRemove, ConfigStart

MAX_PUSH_BYTES = 64 * MIB
"""Bodies of one push: some 3 KiB each for the resources below, and what one SE may buffer for a controller."""
MAX_RESOURCES = 20_000
"""Resources of one SE; a virtual service with its pool and monitor is three."""
MAX_NAME_CHARS = 256
"""``virtualservice/virtualservice-<uuid>`` has 66."""

ConfigMessage = ConfigStart | ConfigPut | ConfigRemove | ConfigEnd


@attrs.frozen
class Push:
    """One whole push, as received."""

    number: int
    fence: Fence
    base: str | None
    hash: str
    puts: tuple[Resource, ...]
    removes: tuple[str, ...]


@attrs.frozen
class Refusal:
    """Why a push is not taken, in the words of ``Nack``."""

    push: int
    fence: Fence
    reason: str
    text: str
    resource: str = ""


class _Wrong(Exception):  # noqa: N818 - not an error of ours: it carries a refusal out of nested checks
    """A frame that does not fit its push."""

    def __init__(self, reason: str, text: str, resource: str = "") -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.resource = resource


def _announced_too_much(start: ConfigStart) -> str:
    """Why the push is over a bound, or nothing."""
    if min(start.size, start.puts, start.removes) < 0:
        return "a negative count"
    if start.size > MAX_PUSH_BYTES:
        return f"{start.size} bytes; at most {MAX_PUSH_BYTES} are taken"
    if max(start.puts, start.removes) > MAX_RESOURCES:
        return f"{max(start.puts, start.removes)} resources; at most {MAX_RESOURCES} are taken"
    return ""


@attrs.define
class _Assembly:
    """The push under way.  ``bodies`` of finished resources; ``partial`` of the one that goes on."""

    start: ConfigStart
    bodies: dict[str, bytes] = attrs.field(factory=dict)
    removes: list[str] = attrs.field(factory=list)
    partial_name: str = ""
    partial: bytearray = attrs.field(factory=bytearray, repr=False)
    size: int = 0

    def put(self, message: ConfigPut) -> None:
        """Take one piece of one resource."""
        if len(message.name) > MAX_NAME_CHARS or not message.name:
            raise _Wrong("malformed", f"a resource name of {len(message.name)} characters")
        if self.partial_name not in ("", message.name):
            raise _Wrong("malformed", "another resource began before this one ended", self.partial_name)
        if message.name in self.bodies:
            raise _Wrong("malformed", "sent twice in one push", message.name)
        self.size += len(message.body)
        if self.size > self.start.size:
            raise _Wrong("malformed", f"more bytes than the {self.start.size} announced", message.name)
        if message.more:
            self.partial_name = message.name
            self.partial += message.body
            return
        if len(self.bodies) == self.start.puts:
            raise _Wrong("malformed", f"more resources than the {self.start.puts} announced", message.name)
        self.bodies[message.name] = bytes(self.partial) + message.body
        self.partial_name = ""
        self.partial = bytearray()

    def remove(self, message: ConfigRemove) -> None:
        """Take some removals."""
        if len(self.removes) + len(message.names) > self.start.removes:
            raise _Wrong("malformed", f"more removals than the {self.start.removes} announced")
        self.removes.extend(message.names)

    def finish(self) -> Push:
        """The whole, if it is whole."""
        found = (len(self.bodies), len(self.removes), self.size)
        announced = (self.start.puts, self.start.removes, self.start.size)
        if self.partial_name:
            raise _Wrong("malformed", "the push ended in the middle of this resource", self.partial_name)
        if found != announced:
            raise _Wrong(
                "malformed", f"(resources, removals, bytes) are {found}, the start announced {announced}"
            )
        both = set(self.removes) & set(self.bodies)
        if both:
            raise _Wrong("malformed", "both set and removed by one push", min(both))
        return Push(
            number=self.start.push,
            fence=self.start.fence,
            base=self.start.base,
            hash=self.start.hash,
            puts=tuple(Resource(name, body) for name, body in self.bodies.items()),
            removes=tuple(self.removes),
        )


@attrs.define
class Receiver:
    """The pushes of one session, one after another."""

    _assembly: _Assembly | None = None
    _ignored: int | None = None
    """The number of the push that was refused and whose frames may still arrive."""

    def receive(self, message: ConfigMessage, highest: Fence) -> Push | Refusal | None:
        """Take one message; ``highest`` is the fence below which nothing is taken.

        None while more is to come.
        """
        if isinstance(message, ConfigStart):
            self._assembly = _Assembly(message)
            self._ignored = None
        elif self._assembly is None or message.push != self._assembly.start.push:
            return self._stray(message.push)
        assembly = self._assembly
        try:
            return self._take(assembly, message, highest)
        except _Wrong as wrong:
            self._assembly = None
            self._ignored = message.push
            return Refusal(message.push, assembly.start.fence, wrong.reason, wrong.text, wrong.resource)

    def _take(self, assembly: _Assembly, message: ConfigMessage, highest: Fence) -> Push | None:
        if isinstance(message, ConfigPut):
            assembly.put(message)
            return None
        if isinstance(message, ConfigRemove):
            assembly.remove(message)
            return None
        if message.push == assembly.start.push and assembly.start.fence < highest:
            # Asked again at the end: another controller may have raised it while the frames arrived.
            raise _Wrong("fenced", f"{_show(assembly.start.fence)} is older than {_show(highest)}")
        if isinstance(message, ConfigStart):
            too_much = _announced_too_much(message)
            if too_much:
                raise _Wrong("too-large", f"the push announces {too_much}")
            return None
        push = assembly.finish()
        self._assembly = None
        return push

    def _stray(self, number: int) -> Refusal | None:
        """A frame of no push: the rest of a refused one is dropped, anything else is a peer's mistake."""
        if number == self._ignored:
            return None
        self._assembly = None
        self._ignored = number
        return Refusal(number, Fence(), "malformed", "a frame of a push that was not started")


def compose(current: Mapping[str, Resource], push: Push) -> dict[str, Resource] | Refusal:
    """The state that ``push`` leads to from ``current``, or why it leads nowhere."""
    state: dict[str, Resource] = {}
    if push.base is not None:
        have = state_hash(hashes_of(current.values()))
        if push.base != have:
            return _refuse(push, "base-mismatch", f"the push starts from {push.base[:12]}, not {have[:12]}")
        state.update(current)
    for name in push.removes:
        if state.pop(name, None) is None:
            return _refuse(push, "malformed", "removed but not there", name)
    state.update((resource.name, resource) for resource in push.puts)
    if len(state) > MAX_RESOURCES or sum(len(r.body) for r in state.values()) > MAX_PUSH_BYTES:
        return _refuse(push, "too-large", f"more than {MAX_RESOURCES} resources or {MAX_PUSH_BYTES} bytes")
    result = state_hash(hashes_of(state.values()))
    if result != push.hash:
        return _refuse(
            push, "malformed", f"the result's hash is {result[:12]}, announced was {push.hash[:12]}"
        )
    return state


def _refuse(push: Push, reason: str, text: str, resource: str = "") -> Refusal:
    return Refusal(push.number, push.fence, reason, text, resource)


def _show(fence: Fence) -> str:
    return f"({fence.incarnation}, {fence.term}, {fence.version})"
