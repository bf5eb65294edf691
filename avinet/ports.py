"""Whose port is it: the clear errors for a port that cannot be had, and the look into /proc that names the holder.

At the bottom of the layers, since HTTP, SSH and the data plane all listen.
"""

import errno
import pwd
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar

import attrs

from avinet.errors import AvinetError, Kind, error

_LISTENING = "0A"
"""TCP_LISTEN in /proc/net/tcp (include/net/tcp_states.h)."""
_MAX_COMMAND = 80
"""Enough to recognise a program by; its further arguments are its own business."""


@error
class PortTakenError(AvinetError):
    """Port {port} on {address} is in use by {holder}. Stop that, or choose another port with the setting {setting}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    port: int
    address: str
    setting: str
    holder: str


@error
class CannotBindError(AvinetError):
    """Cannot listen on {address} port {port}: {detail}. Check the setting {setting}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    address: str
    port: int
    setting: str
    detail: str


def cannot_listen(port: int, address: str, setting: str, why: Any) -> PortTakenError | CannotBindError:
    """The error to raise for what bind or listen said, with the holder of a taken port looked up now.

    ``address`` is empty for any; ``why`` is an ``OSError`` or what else Twisted found wrong.
    """
    shown = address or "any address"
    if getattr(why, "errno", None) == errno.EADDRINUSE:
        return PortTakenError(port=port, address=shown, setting=setting, holder=holder_of(port, address))
    return CannotBindError(port=port, address=shown, setting=setting, detail=str(why))


def holder_of(port: int, address: str, proc: Path = Path("/proc")) -> str:
    """``pid 4711 (nginx: master)`` for whoever listens there, as far as this user may see.

    Without an address it is told too: the holder of one address keeps others from listening on all of them.
    """
    held = _listening(port, address, proc)
    if not held:
        return "a program that is gone already or cannot be seen"
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            for descriptor in (entry / "fd").iterdir():
                target = str(descriptor.readlink())
                if target.startswith("socket:[") and target[8:-1] in held:
                    where = "" if address else f", on {held[target[8:-1]].address}"
                    return f"pid {entry.name} ({_command(entry)}){where}"
        except OSError:
            continue  # it ended meanwhile, or is another user's
    first = next(iter(held.values()))
    where = "" if address else f", on {first.address}"
    return f"a program of user {_user(first.uid)} (look as root: ss -ltnp){where}"


def listens(pid: int, port: int, address: str, proc: Path = Path("/proc")) -> bool | None:
    """Whether that process listens there; None when this user may not see it."""
    held = {f"socket:[{inode}]" for inode in _listening(port, address, proc)}
    try:
        return any(str(one.readlink()) in held for one in (proc / str(pid) / "fd").iterdir())
    except OSError:
        return None


@attrs.frozen
class _Listening:
    address: str
    uid: int


def _listening(port: int, address: str, proc: Path) -> dict[str, _Listening]:
    """By inode."""
    found: dict[str, _Listening] = {}
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            host, _, held = fields[1].rpartition(":")
            if fields[3] == _LISTENING and int(held, 16) == port and _overlap(_address(host), address):
                found[fields[9]] = _Listening(_address(host), int(fields[7]))
    return found


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _address(text: str) -> str:
    """The kernel writes addresses as 32-bit words in the machine's (little-endian) order."""
    words = [bytes.fromhex(text[n : n + 8])[::-1] for n in range(0, len(text), 8)]
    return str(ip_address(b"".join(words)))


def _overlap(held: str, wanted: str) -> bool:
    anywhere = {"", "0.0.0.0", "::"}  # noqa: S104 - compared with, not bound to
    return held in anywhere or wanted in anywhere or held in {wanted, f"::ffff:{wanted}"}


def _command(process: Path) -> str:
    words = (process / "cmdline").read_bytes().split(b"\0")[:2]
    text = b" ".join(words).decode("utf-8", "replace").strip() or (process / "comm").read_text().strip()
    return text[:_MAX_COMMAND]
