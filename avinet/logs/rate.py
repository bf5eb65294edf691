"""Bytes a second, as a bucket of tokens.  Decisions only: no clock."""

import attrs

from avinet.units import KIB

BURST_S = 0.1
"""What may go at once: a tenth of a second's, so that a limited transfer flows evenly."""
BURST_LEAST_BYTES = 64 * KIB


@attrs.define(eq=False)
class RateLimit:
    """Up to ``bytes_per_s``; 0 is no limit.  ``now`` is monotonic seconds."""

    bytes_per_s: int = 0
    _tokens: float = attrs.field(default=0.0, init=False)
    _at: float | None = attrs.field(default=None, init=False)

    def change(self, bytes_per_s: int) -> None:
        """From now on."""
        self.bytes_per_s = bytes_per_s
        self._at = None

    def allows(self, now: float, wanted: int) -> int:
        """How many of ``wanted`` bytes may go now."""
        if not self.bytes_per_s:
            return wanted
        most = max(BURST_LEAST_BYTES, self.bytes_per_s * BURST_S)
        if self._at is None:
            self._tokens = most
        else:
            self._tokens = min(most, self._tokens + (now - self._at) * self.bytes_per_s)
        self._at = now
        return min(wanted, int(self._tokens))

    def took(self, size: int) -> None:
        """So many went."""
        self._tokens -= size

    def wait_s(self) -> float:
        """Until there is something worth sending: half of what may go at once."""
        most = max(BURST_LEAST_BYTES, self.bytes_per_s * BURST_S)
        return max(0.001, (most / 2 - self._tokens) / self.bytes_per_s) if self.bytes_per_s else 0.0
