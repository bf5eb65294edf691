"""When the data plane's log files are taken away from it: decisions only, without a clock or a file.

Significant logs are taken every two seconds, since they are pushed.  Full ones wait until there is enough of them for
segments that are worth their row: what nobody has asked for need not be fresh, and whoever asks has all flushed first.
"""

from collections.abc import Mapping

import attrs

from avinet.model.logs import LogClass
from avinet.units import HOUR_S, KIB, MIB, MINUTE_S

SIGNIFICANT_AGE_S = 2.0
"""Each time costs some fsyncs."""
FULL_AGE_S = 5 * MINUTE_S
"""Raw logs take ten times the room of segments."""
FULL_MAX_AGE_S = HOUR_S
WORTH_BYTES = 64 * KIB
"""Of a virtual service, for a segment of its own.  Less waits for ``FULL_MAX_AGE_S``: an SE with 500 quiet services makes
12,000 segments of full logs a day so, instead of 144,000."""
PIECE_BYTES = 64 * MIB
"""However young: some chunks of the spool."""
LARGE_PIECE_BYTES = 128 * MIB
"""Where there are many virtual services: as much as the spool can gather of each before it makes segments."""
GOOD_BYTES = 512 * KIB
"""Of a virtual service, for a segment that compresses as well as any (``avinet.logs.spool_gathering``)."""
SPOOL_SHARE = 8
"""What waits raw is to be a small part of what a spool may have on the disk."""


@attrs.define(eq=False)
class Turnover:
    """What waits in the data plane's files.  Times are a clock's seconds."""

    _since: dict[LogClass, float] = attrs.field(factory=dict, init=False)
    """When something was first seen to wait."""
    _services: int = attrs.field(default=1, init=False)
    """How many had full logs in the last piece."""
    _most_bytes: int = attrs.field(default=LARGE_PIECE_BYTES, init=False)

    def due(self, waiting: Mapping[LogClass, int], now: float) -> list[LogClass]:
        """The classes to take away now; ``waiting`` has the bytes of each."""
        found = []
        for log_class, size in waiting.items():
            if not size:
                self._since.pop(log_class, None)
            elif self._ripe(log_class, size, now - self._since.setdefault(log_class, now)):
                found.append(log_class)
        return found

    def taken(self, log_class: LogClass) -> None:
        """It was taken away."""
        self._since.pop(log_class, None)

    def made(self, services: int) -> None:
        """Of so many there were lines in a piece of full logs."""
        self._services = max(1, services)

    def limit(self, spool_bytes: int) -> None:
        """The spool may have so much."""
        self._most_bytes = spool_bytes // SPOOL_SHARE

    def _ripe(self, log_class: LogClass, size: int, age_s: float) -> bool:
        wanted = min(max(PIECE_BYTES, GOOD_BYTES * self._services), LARGE_PIECE_BYTES, self._most_bytes)
        if size >= wanted:
            return True
        if log_class is LogClass.SIGNIFICANT:
            return age_s >= SIGNIFICANT_AGE_S
        return age_s >= (FULL_AGE_S if size >= WORTH_BYTES * self._services else FULL_MAX_AGE_S)
