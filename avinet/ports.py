"""Whose port is it: the one clear error for a port in use, and the look into /proc that names the holder.

At the bottom of the layers, since HTTP, SSH and the data plane all listen.
"""

from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar

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


def port_taken(port: int, address: str, setting: str) -> PortTakenError:
    """The error, with the holder looked up now."""
    return PortTakenError(
        port=port, address=address or "any address", setting=setting, holder=holder_of(port, address)
    )


def holder_of(port: int, address: str, proc: Path = Path("/proc")) -> str:
    """``pid 4711 (nginx: master)`` for whoever listens there, as far as this user may see."""
    inodes = _listening_inodes(port, address, proc)
    if not inodes:
        return "a program that is gone already or cannot be seen"
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            for descriptor in (entry / "fd").iterdir():
                target = str(descriptor.readlink())
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    return f"pid {entry.name} ({_command(entry)})"
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return "another user's program (look as root: ss -ltnp)"


def _listening_inodes(port: int, address: str, proc: Path) -> set[str]:
    found: set[str] = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            host, _, held = fields[1].rpartition(":")
            if fields[3] == _LISTENING and int(held, 16) == port and _overlap(_address(host), address):
                found.add(fields[9])
    return found


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
