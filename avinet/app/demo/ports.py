"""Free high ports for a demo, so that it needs no privileges and two demos do not collide."""

import contextlib
import socket

import attrs


@attrs.frozen
class DemoPorts:
    """The ports of one demo; all on loopback addresses."""

    ssh: int
    registration: int
    api: int
    reverse: int
    """Bound on each SE's own loopback address."""
    service: int
    """Where the virtual service answers."""
    backends: tuple[int, ...]


def _free(count: int) -> list[int]:
    """``count`` different ports that are free on every address now; held together, so that none repeats."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            probe = held.enter_context(socket.socket())
            probe.bind(("0.0.0.0", 0))  # noqa: S104 - never listens; asks for a port free on 127.1.x.y too
            ports.append(probe.getsockname()[1])
        return ports


def choose_ports(backends: int) -> DemoPorts:
    """Ports that were free a moment ago; whoever takes one first makes the start fail with a clear line."""
    ssh, registration, api, reverse, service, *servers = _free(5 + backends)
    return DemoPorts(ssh, registration, api, reverse, service, tuple(servers))
