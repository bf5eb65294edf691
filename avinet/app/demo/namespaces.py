"""A network namespace for each controller of a demo: a loopback of its own, and one network that joins them all.

Each controller wants 127.1.0.0/16 and its state engine's ports for itself.  Where this machine lets us (as root, with
``ip``), each gets a namespace, joined by a bridge on which service engines and operators reach it; else they share one
loopback, and their state engines reach each other directly instead of through the controllers' channels.

What an earlier demo left when it was killed is removed at the next start: its names tell its pid.
"""

import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar, Self

import attrs

from avinet.errors import AvinetError, Kind, error

NAME = "avinet-demo-"
LINK = "avd"
"""With a pid of seven digits and a number it is within the 15 characters that a link's name may have."""
NETWORK = "198.18."
"""Set aside for tests between networks (RFC 2544), so nobody's machines are there."""
COMMAND_TIMEOUT_S = 10.0
BRIDGE_HOST = 254


@error
class NoNamespacesError(AvinetError):
    """Each controller cannot have a network namespace of its own: {why}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    why: str


def _ip(*arguments: str) -> str:
    program = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise NoNamespacesError(why="there is no program ip; it is in the package iproute2")
    try:
        ran = subprocess.run(
            (program, *arguments), capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as why:
        raise NoNamespacesError(why=str(why)) from why
    if ran.returncode:
        raise NoNamespacesError(why=f"ip {' '.join(arguments)}: {ran.stderr.strip()}")
    return ran.stdout


@attrs.frozen
class Namespaces:
    """Those of one demo: ``name(1)`` and so on, each with ``address(1)`` and so on."""

    pid: int
    network: int
    """The third number of its addresses."""
    count: int

    @classmethod
    def make(cls, count: int) -> Self:
        """Make them; blocks.  ``NoNamespacesError`` leaves nothing."""
        if os.geteuid() != 0:
            raise NoNamespacesError(why="that needs root")
        remove_left()
        made = cls(os.getpid(), _free_network(), count)
        try:
            made._build()
        except NoNamespacesError:
            made.remove()
            raise
        return made

    def _build(self) -> None:
        bridge = f"{LINK}{self.pid}"
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{self._host(BRIDGE_HOST)}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number in range(1, self.count + 1):
            name, link = self.name(number), f"{bridge}-{number}"
            _ip("netns", "add", name)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", link, "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def name(self, number: int) -> str:
        """Of one namespace."""
        return f"{NAME}{self.pid}-{number}"

    def address(self, number: int) -> str:
        """Where its controller is reached."""
        return self._host(number)

    def _host(self, number: int) -> str:
        return f"{NETWORK}{self.network}.{number}"

    def remove(self) -> None:
        """Take all of it down, as far as it is there; blocks."""
        _remove(self.pid)


def inside(name: str) -> tuple[str, ...]:
    """What goes before a command so that it runs in a namespace; nothing for none."""
    return ("ip", "netns", "exec", name) if name else ()


def remove_left() -> None:
    """What demos left that are no more."""
    for pid in {_pid_of(line.split()[0]) for line in _ip("netns", "list").splitlines() if line.split()}:
        if pid is not None and not Path(f"/proc/{pid}").exists():
            _remove(pid)


def _pid_of(name: str) -> int | None:
    text = name.removeprefix(NAME).rpartition("-")[0]
    return int(text) if name.startswith(NAME) and text.isdecimal() else None


def _remove(pid: int) -> None:
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0] if line.split() else ""
        if _pid_of(name) == pid:
            _ip("netns", "delete", name)
    if Path(f"/sys/class/net/{LINK}{pid}").exists():
        _ip("link", "delete", f"{LINK}{pid}")


def _free_network() -> int:
    for network in random.SystemRandom().sample(range(256), 256):
        if not _ip("-4", "route", "show", f"{NETWORK}{network}.0/24"):
            return network
    raise NoNamespacesError(why=f"no network of {NETWORK}0.0/16 is free")
