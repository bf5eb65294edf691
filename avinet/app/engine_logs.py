"""A service engine's log spool, put together: from its data plane's files to ``STATE/logs``."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from avinet.app.settings import SpoolSection
from avinet.app.steady import WallClock
from avinet.logs.spool import Spool, SpoolLimits
from avinet.logs.throttle import Throttle, Throttles
from avinet.model.events import Level
from avinet.model.log_settings import LogSettings
from avinet.model.logs import LogClass
from avinet.model.resources import Resource
from avinet.se.log_spooler import LogSource, LogSpooler, Tell
from avinet.se.log_unwritten import Unwritten
from avinet.units import MIB
from avinet.wire.messages import Notice


def make_log_spooler(
    reactor: Any, state: Path, source: LogSource, notify: Callable[[Notice], None]
) -> LogSpooler:
    """Not started; ``notify`` hears of its troubles."""
    wall = WallClock(reactor).seconds
    opening = partial(Spool.open, state / "logs", source.log_files().folder, wall)
    return LogSpooler(source, opening, reactor, deferToThread, _teller(wall, notify))


def make_unwritten(
    reactor: Any, state: Path, spooler: LogSpooler, notify: Callable[[Notice], None]
) -> Unwritten:
    """What the data plane cannot write, told to ``spooler`` and, in words, to ``notify``."""
    wall = WallClock(reactor).seconds
    file = state / "logs" / "unwritten.json"
    return Unwritten(file, spooler.note, deferToThread, reactor, wall, _teller(wall, notify))


def _teller(wall: Callable[[], float], notify: Callable[[Notice], None]) -> Tell:
    def tell(code: str, level: Level, text: str) -> None:
        notify(Notice(code=code, level=level, text=text, at=wall()))

    return tell


def spool_choices(settings: SpoolSection, state: Mapping[str, Resource]) -> tuple[SpoolLimits, Throttles]:
    """What the configuration says, unless the machine's own settings say otherwise.  ``msgspec.MsgspecError``.

    Thousands of virtual services are decoded: called in a thread.
    """
    told = LogSettings.of(state)

    def throttle(log_class: LogClass) -> Throttle:
        services = {uuid: limits[log_class] for uuid, limits in told.service_throttles.items()}
        return Throttle(told.throttle[log_class], {uuid: limit for uuid, limit in services.items() if limit})

    return (
        SpoolLimits(settings.max_mib * MIB or told.max_bytes, told.max_age_s),
        Throttles(throttle(LogClass.SIGNIFICANT), throttle(LogClass.FULL)),
    )
