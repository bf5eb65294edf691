"""Having Envoy write its request logs to new files, and what became of those that it could not write.

Envoy opens a file anew with the first bytes that it writes after it was told, not before: for a file that nobody logs
to that never comes, and then nothing can come to the renamed one either.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.task import deferLater

from avinet.dataplane.envoy_admin import EnvoyAdmin
from avinet.dataplane.envoy_files import FLUSH_INTERVAL_MS
from avinet.dataplane.interface import DataPlaneDownError, LogFiles, LogWrites
from avinet.model.logs import LogClass

POLL_S = 0.02
QUIET_S = 2 * FLUSH_INTERVAL_MS / 1000
"""Without a new file by then nothing was in memory for it: what is, is written each ``FLUSH_INTERVAL_MS``."""
WRITES_PATTERN = r"filesystem\.write_(buffered|completed|failed)$"
_BUFFERED = "filesystem.write_total_buffered"


async def reopened(reactor: Any, admin: EnvoyAdmin, logs: LogFiles, runs: Callable[[], bool]) -> None:
    """Tell Envoy, and wait until what was renamed before is final; at once when none runs."""
    waiting = {path for path in map(logs.current, LogClass) if not path.exists()}
    if not runs():
        return
    try:
        await admin.reopen_logs()
        until = reactor.seconds() + QUIET_S
        while True:
            waiting = {path for path in waiting if not path.exists()}
            if not waiting or reactor.seconds() > until or await _nothing_in_memory(admin):
                return
            await deferLater(reactor, POLL_S)
    except DataPlaneDownError:
        if runs():
            raise
        # It is gone, and with it whoever could write there.


async def _nothing_in_memory(admin: EnvoyAdmin) -> bool:
    """Whether all that was logged is in files: what comes next goes to the new ones."""
    stats = await admin.stats(_BUFFERED.replace(".", r"\."))
    return stats.get(_BUFFERED) == 0


def log_writes(stats: Iterable[Mapping[str, Any]]) -> LogWrites:
    """From the items of ``/stats``."""
    found = {s["name"]: int(s["value"]) for s in stats if s.get("name", "").startswith("filesystem.write_")}
    return LogWrites(
        *(found.get(f"filesystem.write_{name}", 0) for name in ("buffered", "completed", "failed"))
    )
