"""A service engine's log spool, put together: from its data plane's files to ``STATE/logs``."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from avinet.app.settings import LogsSection
from avinet.app.steady import WallClock
from avinet.logs.spool import Spool, SpoolLimits
from avinet.model.events import Level
from avinet.se.log_spooler import LogSource, LogSpooler
from avinet.units import MIB
from avinet.wire.messages import Notice


def make_log_spooler(
    reactor: Any, state: Path, source: LogSource, notify: Callable[[Notice], None]
) -> LogSpooler:
    """Not started; ``notify`` hears of its troubles."""
    wall = WallClock(reactor)

    def tell(code: str, level: Level, text: str) -> None:
        notify(Notice(code=code, level=level, text=text, at=wall.seconds()))

    return LogSpooler(
        source,
        partial(Spool.open, state / "logs", source.log_files().folder, wall.seconds),
        reactor,
        deferToThread,
        tell,
    )


def spool_limits(settings: LogsSection, limits: SpoolLimits) -> SpoolLimits:
    """The group's, unless the machine's own settings say otherwise."""
    if not settings.max_mib:
        return limits
    return SpoolLimits(settings.max_mib * MIB, limits.max_age_s, limits.max_segments)
