"""Telling two machines under one key from one machine that restarts.

Each start of an SE's agent makes a boot id.  A restart, even a crash loop, brings ever new ones; two machines with
one state folder replace each other's sessions with the same two over and over.  So what counts is a boot id that
comes *back* after another one's ``Hello``: three returns are four switches between two that live.
"""

from collections import deque

import attrs

from avinet.model.ids import BootId

WINDOW_S = 60.0
"""Longer ago is forgotten: a backup machine that is switched to and fro by hand is no fight."""
RETURNS = 3
"""A B A B A.  Fewer could be one late packet of a machine's own past."""
REMEMBERED = 16
"""Switches kept: the window of a peer that switches faster than it may dial is not longer."""


@attrs.define(eq=False)
class BootHistory:
    """The boot ids of one SE's last sessions."""

    _seen: deque[tuple[float, BootId]] = attrs.field(factory=lambda: deque(maxlen=REMEMBERED))

    def hello(self, boot: BootId, now_s: float) -> bool:
        """One more ``Hello``; True when two machines share the key."""
        while self._seen and self._seen[0][0] < now_s - WINDOW_S:
            self._seen.popleft()
        if not self._seen or self._seen[-1][1] != boot:
            self._seen.append((now_s, boot))
        else:
            self._seen[-1] = (now_s, boot)
        boots = [one for _, one in self._seen]
        return sum(one in boots[:place] for place, one in enumerate(boots)) >= RETURNS

    def forget(self) -> None:
        """Start anew, as after an operator has looked."""
        self._seen.clear()
