"""Why etcd ended, from its last words: a plain function from its log to an error that says what to do.

etcd writes JSON lines and, when it panics, Go's traces.  Only lines that ended it count: a full disk, for one, is
warned of long before.
"""

import os
import re
from pathlib import Path
from typing import ClassVar

import msgspec

from avinet.errors import AvinetError, Kind, error
from avinet.units import KIB

TAIL_BYTES = 64 * KIB
"""A panic with the traces of all goroutines is some 20 KiB."""
MAX_REASON = 300
"""Characters of etcd's own words."""

_TWISTED = "A process has ended with a probable error condition: "
"""How Twisted begins the end of a process."""
_START = '"msg":"configuring peer listeners"'
"""Of etcd's first lines at each start, from 3.4 to 3.6."""
_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_PORT = re.compile(r"listen tcp 127\.0\.0\.1:(\d+): bind: address already in use")
_REMOVED = re.compile(r"permanently removed|has been removed|removed from the cluster|member not found")
_OTHERS = re.compile(
    r"cluster ID mismatch|member count is unequal|unmatched member|error validating peerURLs"
)
_DAMAGED = re.compile(
    r"failed to open database|invalid database|cannot use none as id|crc mismatch|tocommit\(|unexpected EOF"
    r"|file is corrupt|failed to (?:open|read|recover|find|repair|create snapshot)|no such file or directory"
    r"|snapshot file doesn't exist|wal: |snap: |bucket not found|proto: "
)


@error
class EngineEndedError(AvinetError):
    """The state engine ended: {why}. Its log: {log}. It is started again by itself."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    why: str
    log: Path


@error
class EngineDiskFullError(AvinetError):
    """The state engine ended since its disk is full. Free some space at {folder}; it is started again by itself."""

    kind: ClassVar[Kind] = Kind.NO_SPACE
    folder: Path


@error
class EnginePortError(AvinetError):
    """The state engine ended since port {port} on 127.0.0.1 is in use. Stop who has it (ss -ltnp; for Debian's own etcd: systemctl disable --now etcd), or choose another with [store] client_port or peer_port."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    port: int


@error
class EngineDataDamagedError(AvinetError):
    """The state engine's data in {data} is damaged: {why}. Nothing was changed. In a cluster, replace this controller from another one (avinet cluster replace); alone, move that folder away and restore a backup (docs/cluster.md, "State engine")."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    data: Path
    why: str


@error
class EngineRemovedError(AvinetError):
    """This controller's state engine was removed from its cluster: {why}. To have it back, replace it from another controller: avinet cluster replace."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    why: str


class _Line(msgspec.Struct):
    level: str = ""
    msg: str = ""
    error: str = ""


def last_words(log: Path) -> str:
    """What ended it, in its own words; empty when it said nothing, as after a SIGKILL."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in reversed(_of_last_start(lines)):
        if line.startswith("panic: "):
            return line.removeprefix("panic: ")[:MAX_REASON]
        try:
            said = msgspec.json.decode(line.encode(), type=_Line)
        except msgspec.DecodeError:
            continue
        if said.level in {"fatal", "panic"} or _REMOVED.search(said.error):
            return f"{said.msg}: {said.error}"[:MAX_REASON] if said.error else said.msg[:MAX_REASON]
    return ""


def _of_last_start(lines: list[str]) -> list[str]:
    """What was said before the last start is about an earlier end."""
    starts = [number for number, line in enumerate(lines) if _START in line]
    return lines[starts[-1] :] if starts else lines


def reason_of(said: str, how: str, log: Path, data: Path) -> AvinetError:
    """The error for etcd's last words ``said``, or for ``how`` its process ended when it said none."""
    port = _PORT.search(said)
    if port is not None:
        return EnginePortError(port=int(port[1]))
    if _FULL.search(said):
        return EngineDiskFullError(folder=data.parent)
    if _REMOVED.search(said):
        return EngineRemovedError(why=said)
    if _OTHERS.search(said):
        return EngineRemovedError(why=said)
    if _DAMAGED.search(said):
        return EngineDataDamagedError(data=data, why=said)
    return EngineEndedError(why=said or how.removeprefix(_TWISTED).rstrip("."), log=log)
