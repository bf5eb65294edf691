"""What an operator decides about a service engine, and what the controller notes by itself.

Each command is a plain function from record to record, which refuses by raising; ``EngineCommands`` runs it
through the registry (store first) and says so in an event.
"""

from collections.abc import Callable
from typing import ClassVar

import attrs
import msgspec

from avinet.controller.engine_errors import EngineStateError
from avinet.controller.engines import Engines
from avinet.errors import AvinetError, Kind, error
from avinet.model.engine import Lifecycle, SeRecord
from avinet.model.events import Level
from avinet.model.ids import SeId
from avinet.trust.keys import fingerprint, parse_line

MAX_NOTE = 500
"""A sentence or two."""

ENROLLED_STATES = frozenset({Lifecycle.ENROLLED, Lifecycle.DISABLED, Lifecycle.QUARANTINED})


@error
class FingerprintMismatchError(AvinetError):
    """Service engine {se} presented the key {actual}, not {expected}. Do not approve it unless you know why."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    se: str
    expected: str
    actual: str


def _require(record: SeRecord, action: str, wanted: frozenset[Lifecycle]) -> None:
    if record.lifecycle not in wanted:
        raise EngineStateError(
            se=record.name,
            lifecycle=record.lifecycle,
            action=action,
            wanted=" or ".join(sorted(wanted)),
        )


def approve(record: SeRecord, expected: str | None = None) -> SeRecord:
    """PENDING to ENROLLED; with ``expected``, only when it is the key's fingerprint."""
    if record.lifecycle is Lifecycle.ENROLLED:
        return record
    _require(record, "approve", frozenset({Lifecycle.PENDING}))
    actual = fingerprint(parse_line(record.se_key))
    if expected is not None and expected != actual:
        raise FingerprintMismatchError(se=record.name, expected=expected, actual=actual)
    return msgspec.structs.replace(record, lifecycle=Lifecycle.ENROLLED)


def disable(record: SeRecord, note: str, *, drains: bool = True) -> SeRecord:
    """Connected, but given no virtual service; ``drains``: it serves on what it has until others do."""
    _require(record, "disable", frozenset({Lifecycle.ENROLLED, Lifecycle.DISABLED}))
    return msgspec.structs.replace(record, lifecycle=Lifecycle.DISABLED, note=note[:MAX_NOTE], drains=drains)


def leave(record: SeRecord) -> SeRecord:
    """Disabled, and deleted once it has drained; ``enable`` calls that off."""
    disabled = disable(record, "being deleted once it has drained")
    return msgspec.structs.replace(disabled, leaving=True)


def enable(record: SeRecord) -> SeRecord:
    """Back from DISABLED or QUARANTINED."""
    _require(record, "enable", ENROLLED_STATES)
    return msgspec.structs.replace(record, lifecycle=Lifecycle.ENROLLED, note="", drains=True, leaving=False)


def quarantine(record: SeRecord, note: str) -> SeRecord:
    """No session, no configuration, until it is enabled."""
    _require(record, "quarantine", ENROLLED_STATES)
    return msgspec.structs.replace(
        record, lifecycle=Lifecycle.QUARANTINED, note=note[:MAX_NOTE], leaving=False
    )


def place(record: SeRecord) -> SeRecord:
    """Allow virtual services on an SE that enrolled by its image's signature alone."""
    return msgspec.structs.replace(record, placeable=True)


def connected(record: SeRecord) -> SeRecord:
    """It has had a session: from now on it is DOWN when it has none."""
    return msgspec.structs.replace(record, connected_once=True)


@attrs.frozen(eq=False)
class EngineCommands:
    """The commands by their names; each takes a UUID and answers the record as it is then."""

    engines: Engines

    async def approve(self, se: str, expected: str | None = None) -> SeRecord:
        """``approve`` with its event."""
        return await self._run(se, lambda r: approve(r, expected), "SE_APPROVED", "approved")

    async def disable(self, se: str, note: str = "", *, drains: bool = True) -> SeRecord:
        """``disable`` with its event."""
        done = "disabled" if drains else "disabled at once"
        return await self._run(se, lambda r: disable(r, note, drains=drains), "SE_DISABLED", done, note)

    async def leave(self, se: str) -> SeRecord:
        """``leave`` with its event."""
        return await self._run(se, leave, "SE_LEAVING", "disabled, to be deleted once it has drained")

    async def enable(self, se: str) -> SeRecord:
        """``enable`` with its event."""
        return await self._run(se, enable, "SE_ENABLED", "enabled")

    async def place(self, se: str) -> SeRecord:
        """``place`` with its event."""
        return await self._run(se, place, "SE_PLACEABLE", "allowed to carry virtual services")

    async def quarantine(self, se: str, note: str = "") -> SeRecord:
        """``quarantine`` with its event; sessions call it too, for two machines under one key."""
        return await self._run(se, lambda r: quarantine(r, note), "SE_QUARANTINED", "quarantined", note)

    async def connected(self, se: SeId) -> SeRecord:
        """Note a first session; no event, since the session has its own."""
        return await self.engines.change(se, connected)

    async def _run(
        self, se: str, decide: Callable[[SeRecord], SeRecord], code: str, done: str, note: str = ""
    ) -> SeRecord:
        before = self.engines.find(se)
        after = await self.engines.change(se, decide)
        if after != before:
            level = Level.WARNING if code == "SE_QUARANTINED" else Level.INFO
            why = f": {note}" if note else ""
            self.engines.emit(
                code,
                level,
                after.uuid,
                f"Service engine {after.name} was {done}{why}.",
                name=after.name,
                note=note,
            )
        return after
