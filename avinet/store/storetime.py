"""The store's own time, by which leases count: it neither jumps nor stands still while the store is closed.

A wall clock will not do (an operator or NTP sets it, and tokens would end or live on), nor will a monotonic one
(it starts anew with each boot).  So the store writes down an anchor: its own time, the boot's id and uptime, and
the wall clock.  Within one boot, time passes as the kernel's CLOCK_BOOTTIME does, suspend included.  Across a
boot the wall clock is all there is: what it says has passed is believed unless it went backwards, which counts
as nothing.
"""

import time
from collections.abc import Callable
from pathlib import Path

import attrs

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@attrs.frozen
class Reading:
    """All clocks of the machine at one instant, in seconds."""

    boot_id: str
    boot_s: float
    wall_s: float


@attrs.frozen
class Anchor:
    """The store's time ``store_s`` at the instant of ``reading``."""

    store_s: float
    reading: Reading

    def at(self, now: Reading) -> float:
        """The store's time at ``now``."""
        if now.boot_id == self.reading.boot_id:
            passed = now.boot_s - self.reading.boot_s
        else:
            passed = now.wall_s - self.reading.wall_s
        return self.store_s + max(0.0, passed)


ReadClocks = Callable[[], Reading]


def read_clocks() -> Reading:
    """The clocks of this machine."""
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:
        boot_id = "unknown"
    return Reading(boot_id=boot_id, boot_s=time.clock_gettime(time.CLOCK_BOOTTIME), wall_s=time.time())
