"""What controllers say of their log stores and of what was lost: of one, as it tells the others, and of all."""

from collections.abc import Sequence

import msgspec

from avinet.controller.log_whereabouts import EngineLogs
from avinet.model.ids import ControllerName


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The store.  ``waiting_*`` have arrived and cannot be asked about yet; ``waiting_bytes`` are NDJSON; ``trouble`` is why
    they are not taken in, while that is so.

    ``mended`` is what a start had to do the last time, at ``mended_at``, since the list of all that is here did not fit it.
    """

    records: int
    bytes: int
    files: int
    since: str
    until: str
    waiting_segments: int
    waiting_bytes: int
    trouble: str = ""
    mended: str = ""
    mended_at: str = ""


class LostLogs(msgspec.Struct, frozen=True, kw_only=True, rename={"log_class": "class"}):
    """Records that never come.  ``records`` is 0 where they could not be counted."""

    se: str
    at: str
    reason: str
    log_class: str
    vs: str
    since: str
    until: str
    records: int
    bytes: int


class CopyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a controller keeps of another's store; ``uncopied``: records that the store has, or had, of which there is no copy."""

    store_id: str
    controller: ControllerName
    records: int
    bytes: int
    uncopied: int


class OwnStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Of one controller; ``drops`` are the newest."""

    store: StoreStatus
    store_id: str = ""
    uncopied: int = 0
    """Records that have no copy elsewhere, or had none until they were too old."""
    copies: tuple[CopyStatus, ...] = ()
    drops: tuple[LostLogs, ...] = ()


class ControllerStore(msgspec.Struct, frozen=True, kw_only=True):
    """One controller's store; without one, ``why`` it has not said."""

    controller: ControllerName
    store: StoreStatus | None = None
    why: str = ""
    store_id: str = ""
    uncopied: int = 0
    """Records that have no copy elsewhere, or had none until they were too old."""
    copies: tuple[CopyStatus, ...] = ()
    """Of others' stores."""


class LogsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /api/logs/status``."""

    store: StoreStatus
    """Of the controller that is asked."""
    controllers: tuple[ControllerStore, ...] = ()
    """Of all of them, where there are several."""
    service_engines: tuple[EngineLogs, ...]
    drops: tuple[LostLogs, ...]
    """The newest, newest first."""


def drops_of(said: Sequence[OwnStatus], limit: int) -> tuple[LostLogs, ...]:
    """The newest of all, each once: what a service engine lost it tells every controller."""
    found: dict[LostLogs, list[LostLogs]] = {}
    for one in said:
        own: dict[LostLogs, list[LostLogs]] = {}
        for drop in one.drops:
            own.setdefault(msgspec.structs.replace(drop, at=""), []).append(drop)
        for key, drops in own.items():
            if len(drops) > len(found.get(key, ())):
                found[key] = drops
    newest = sorted((drop for drops in found.values() for drop in drops), key=lambda drop: drop.at)
    return tuple(newest[: -limit - 1 : -1])
