"""What a simulated engine keeps, in memory: thousands of them in one process have no disk."""

from typing import Any

import attrs

from avinet.model.fence import Fence
from avinet.se.config_files import LastGood


class Forgetful(list[Any]):
    """For the fake data plane's records: a fleet that runs for a day needs none."""

    def append(self, item: Any) -> None:
        """Keep nothing."""


@attrs.define(eq=False)
class MemoryFiles:
    """``ConfigFiles`` without a disk."""

    last: LastGood = attrs.field(factory=LastGood)
    fence: Fence = attrs.field(factory=Fence)
    candidate: LastGood | None = None

    def load(self) -> LastGood:
        """What was kept."""
        return self.last

    def load_fence(self) -> Fence:
        """The highest."""
        return self.fence

    def save_fence(self, fence: Fence) -> None:
        """A higher one."""
        self.fence = fence

    def save_candidate(self, last: LastGood) -> None:
        """About to be applied."""
        self.candidate = last

    def keep_candidate(self) -> None:
        """Applied."""
        if self.candidate is not None:
            self.last, self.candidate = self.candidate, None

    def drop_candidate(self) -> None:
        """Refused."""
        self.candidate = None
