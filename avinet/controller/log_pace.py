"""How many messages an SE may send on a log channel.  Decisions only: no clock."""

import attrs

MESSAGES_PER_S = 1_000.0
"""Small significant segments are 800 a second over a long path; beyond this the link is read no further for a while."""
MESSAGES_BURST = 2_000.0
HEADS = 32
"""In a batch they are as much work as a message."""


@attrs.define(eq=False)
class MessagePace:
    """A bucket of tokens; ``now`` is monotonic seconds."""

    at: float
    _tokens: float = attrs.field(default=MESSAGES_BURST, init=False)

    def took(self, heads: int = 0) -> None:
        """One more has come, with so many heads of segments."""
        self._tokens -= 1 + heads // HEADS

    def wait_s(self, now: float) -> float:
        """How long nothing more should be read; 0 to go on."""
        self._tokens = min(MESSAGES_BURST, self._tokens + (now - self.at) * MESSAGES_PER_S)
        self.at = now
        return 0.0 if self._tokens > 0 else (1 - self._tokens) / MESSAGES_PER_S
