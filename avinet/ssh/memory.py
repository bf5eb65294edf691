"""How much memory peers may make us hold: data that waits in channels for a consumer or for a peer's window.

Windows are promises, not memory: most of what they allow is consumed as it comes.  What is really held is counted for
each connection and for the whole process.  Above half of either bound windows stop growing and shrink back; above a
bound the connection that holds the most of it is cut.
"""

from collections.abc import Callable

import attrs

from avinet.errors import AvinetError
from avinet.ssh.fields import malformed
from avinet.units import MIB, show_bytes

CONNECTION_BYTES = 64 * MIB
"""Four full windows whose consumers are paused."""
PROCESS_BYTES = 512 * MIB
"""Eight connections at their bound; a controller of thousands of engines holds a few MiB."""


@attrs.define(eq=False)
class ProcessMemory:
    """What all connections of a process hold together."""

    limit: int = PROCESS_BYTES
    held: int = attrs.field(default=0, init=False)
    _holders: set["ConnectionMemory"] = attrs.field(factory=set, init=False, repr=False)

    def relieve(self) -> None:
        """Cut whoever holds the most."""
        heaviest = max((one for one in self._holders if not one.over), key=lambda one: one.held, default=None)
        if heaviest is not None:
            heaviest.end(f"memory is short, and {show_bytes(heaviest.held)} wait for it")


@attrs.define(eq=False)
class ConnectionMemory:
    """What one connection holds; ``cut`` ends it for a reason."""

    process: ProcessMemory
    cut: Callable[[AvinetError], None] = attrs.field(repr=False)
    limit: int = CONNECTION_BYTES
    held: int = attrs.field(default=0, init=False)
    over: bool = attrs.field(default=False, init=False)
    """It is being cut; what it holds goes in the reactor's next turn."""

    @property
    def pressed(self) -> bool:
        """Whether windows should shrink."""
        return self.held * 2 > self.limit or self.process.held * 2 > self.process.limit

    def hold(self, size: int) -> None:
        """``size`` bytes more wait here."""
        if not self.held:
            self.process._holders.add(self)  # noqa: SLF001 - the two are one mechanism
        self.held += size
        self.process.held += size
        if self.held > self.limit:
            self.end(f"{show_bytes(self.held)} wait for it; {show_bytes(self.limit)} is the most")
        elif self.process.held > self.process.limit:
            self.process.relieve()

    def end(self, why: str) -> None:
        """Cut the connection, once."""
        if not self.over:
            self.over = True
            self.cut(malformed(why))

    def release(self, size: int) -> None:
        """``size`` bytes less."""
        self.held -= size
        self.process.held -= size
        if not self.held:
            self.process._holders.discard(self)  # noqa: SLF001 - as above
