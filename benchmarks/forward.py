"""An unmodified OpenSSH client's ``-R`` forward: into our controller's server as an SE, beside into a stock sshd.

The client, the forward's address, the cipher and the streams through it are the same; the servers differ.  They take
turns, round by round; a figure is the best of its rounds.
"""

import contextlib
import os
import shutil

import attrs

from avinet.app.demo.ports import choose_ports
from avinet.units import MIB
from benchmarks import sshd
from benchmarks.channel_ends import LOOPBACK, USER
from benchmarks.files import Files
from benchmarks.harness import progress
from benchmarks.processes import Worker

PEER_LOOPBACK = "127.1.0.2"
LIMIT_S = 60.0


@attrs.frozen
class Load:
    """What flows."""

    streams: int
    up: bool
    down: bool

    def __str__(self) -> str:
        way = {(True, False): "to the SE", (False, True): "from the SE", (True, True): "both ways"}
        count = "1 stream" if self.streams == 1 else f"{self.streams} streams"
        return f"{count} {way[self.up, self.down]}"


QUICK_LOADS = tuple(Load(streams, up, not up) for streams in (1, 16) for up in (False, True))
LOADS = (*QUICK_LOADS, *(Load(streams, up=True, down=True) for streams in (1, 16)))


def compare(files: Files, loads: tuple[Load, ...], rounds: int, for_s: float) -> dict[Load, dict[str, float]]:
    """The best MiB/s by load, then party: ``avinet``, and ``openssh`` if it is to be had; nothing without an ssh."""
    if shutil.which("ssh") is None:
        progress("no ssh here: its forwards are not measured (make test-deps)")
        return {}
    best: dict[Load, dict[str, float]] = {load: {} for load in loads}
    with contextlib.ExitStack() as stack:
        generator = stack.enter_context(Worker("benchmarks.streams"))
        parties = {"avinet": _avinet(stack, files, generator.ready)}
        if sshd.available():
            parties["openssh"] = _openssh(stack, files, generator.ready)
        for load in loads:
            for turn in range(rounds):
                for party, (host, port) in parties.items():
                    asked = {**attrs.asdict(load), "host": host, "port": port, "for_s": for_s}
                    rate = generator.ask(LIMIT_S, **asked)["bytes_s"] / MIB
                    best[load][party] = max(rate, best[load].get(party, 0.0))
                    progress(
                        "{load}, round {turn}: {party} {rate:.1f} MiB/s",
                        load=load, turn=turn + 1, party=party, rate=rate,
                    )  # fmt: skip
    return best


def _avinet(stack: contextlib.ExitStack, files: Files, data: int) -> tuple[str, int]:
    port = choose_ports(0).controllers[0].reverse
    identity = os.fspath(files.identity)
    controller = stack.enter_context(
        Worker(
            "benchmarks.channel_ends",
            ("controller", "--identity", identity, "--loopback", LOOPBACK, "--reverse-port", f"{port}"),
        )
    )
    return _forwarded(
        stack, sshd.Ssh(files.folder, controller.ready, files.identity, USER), LOOPBACK, port, data
    )


def _openssh(stack: contextlib.ExitStack, files: Files, data: int) -> tuple[str, int]:
    port = choose_ports(0).controllers[0].reverse
    server = stack.enter_context(
        sshd.stock_sshd(files.folder / "sshd-forward", files.public, "GatewayPorts clientspecified")
    )
    return _forwarded(stack, sshd.Ssh(files.folder, server, files.identity), PEER_LOOPBACK, port, data)


def _forwarded(
    stack: contextlib.ExitStack, ssh: sshd.Ssh, loopback: str, port: int, data: int
) -> tuple[str, int]:
    stack.enter_context(ssh)
    ssh.keep("-R", f"{loopback}:{port}:127.0.0.1:{data}")
    return loopback, port
