"""Free high ports for a demo, so that it needs no privileges and two demos do not collide."""

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import attrs

from avinet.errors import AvinetError, Kind, error

LOWEST = 20_000
"""Above what services are usually given."""
USUAL_EPHEMERAL = 32_768
"""Where the kernel's range for outgoing connections begins, unless configured otherwise (ip(7))."""
ENOUGH = 1_000
"""Candidates to try; a demo takes seven ports, and six more for each further controller."""
PORTS_EACH = 6
"""Of a controller."""
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


@error
class NoFreePortsError(AvinetError):
    """This machine has no {count} free ports for a demo. See what listens: ss -ltn."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    count: int


@attrs.frozen
class ControllerPorts:
    """The ports of one controller."""

    ssh: int
    registration: int
    api: int
    reverse: int
    """Bound on every address of the device ``lo``; each SE has its own."""
    client: int
    """Its state engine's, on 127.0.0.1, where there are several controllers."""
    peer: int


@attrs.frozen
class DemoPorts:
    """The ports of one demo, free on every address of this machine."""

    controllers: tuple[ControllerPorts, ...]
    service: int
    """Where the virtual service answers."""
    backends: tuple[int, ...]


def _candidates() -> Iterator[int]:
    """Ports in random order, none of which the kernel gives to outgoing connections.

    Such a one may be taken while a killed controller starts again, and an SE that redials it over loopback can even
    be given the very port that it dials, and find itself connected to itself.
    """
    try:
        low = int(_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        low = USUAL_EPHEMERAL
    lowest = LOWEST if low > LOWEST + ENOUGH else 1024
    return iter(random.SystemRandom().sample(range(lowest, max(low, lowest + ENOUGH)), ENOUGH))


def _free(count: int) -> list[int]:
    """``count`` different ports that are free on every address now; held together, so that none repeats."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        for port in _candidates():
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("0.0.0.0", port))  # noqa: S104 - never listens; asks for a port free on 127.1.x.y too
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise NoFreePortsError(count=count)


def choose_ports(backends: int, controllers: int = 1) -> DemoPorts:
    """Ports that were free a moment ago; whoever takes one first makes the start fail with a clear line."""
    service, *others = _free(1 + backends + PORTS_EACH * controllers)
    servers, rest = others[:backends], others[backends:]
    each = (rest[start : start + PORTS_EACH] for start in range(0, len(rest), PORTS_EACH))
    return DemoPorts(tuple(ControllerPorts(*ports) for ports in each), service, tuple(servers))
