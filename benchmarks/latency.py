"""A heartbeat beside a pull on a thin link: ours, beside an echo next to bulk in one connection of OpenSSH.

The link (``benchmarks.link``) is 100 Mbit/s, 70 ms and 1 MiB of buffer, queued and under way together.  Ours: bulk
from the SE to the controller at bulk priority, a heartbeat at control priority, both from the first moment to the
last: also while the sender finds out how fast the link is.  OpenSSH: ``cat /dev/zero`` and ``cat`` over one
ControlMaster connection; bulk comes from the server, as it does from an SE, and the echo goes both ways.
"""

import contextlib
import os
import subprocess
import threading
import time

import attrs

from benchmarks import sshd
from benchmarks.channel_ends import COUNT_BYTES, HEARTBEAT
from benchmarks.files import Files
from benchmarks.harness import progress, quantile
from benchmarks.link import link
from benchmarks.processes import Worker, end

RTT_MS = 70.0
MBIT = 100.0
BUFFER_MB = 1.0
TARGET_MS = 105.0
"""The p99 of a heartbeat, in DESIGN 12."""
EVERY_S = 0.05
"""The shortest that heartbeats are set to in practice is 100 ms; more of them are more samples."""
SLACK_S = 30.0
READ_BYTES = 256 * 1024


@attrs.frozen
class Outcome:
    """Of one party."""

    rtt_ms: tuple[float, ...]
    share: float
    """Of the link, by what arrived, in percent."""

    @classmethod
    def of(cls, party: str, rtt_s: list[float], count: int, took_s: float) -> "Outcome":
        """As measured; told on standard error."""
        outcome = cls(tuple(one * 1000 for one in rtt_s), count * 8 / took_s / (MBIT * 1e6) * 100)
        progress(
            "{party}: {count} heartbeats, p50 {p50:.1f}, p99 {p99:.1f}, max {most:.1f} ms; {share:.1f} % of the link",
            party=party, count=len(rtt_s), p50=quantile(outcome.rtt_ms, 0.5), p99=outcome.p99_ms,
            most=max(outcome.rtt_ms), share=outcome.share,
        )  # fmt: skip
        return outcome

    @property
    def p99_ms(self) -> float:
        """What one in a hundred exceeds."""
        return quantile(self.rtt_ms, 0.99)


def avinet(files: Files, for_s: float) -> Outcome:
    """Ours."""
    identity = ("--identity", os.fspath(files.identity))
    ends = "benchmarks.channel_ends"
    with (
        Worker(ends, ("controller", *identity)) as controller,
        link(controller.ready, rtt_ms=RTT_MS, mbit=MBIT, buffer_mb=BUFFER_MB) as wan,
        Worker(ends, ("engine", *identity, "--port", f"{wan.ready}")) as engine,
    ):
        pulled = engine.ask(for_s + SLACK_S, do="pull", for_s=for_s, every_s=EVERY_S)
    return Outcome.of("avinet", pulled["rtt_s"], pulled["bytes"], pulled["s"])


def openssh(files: Files, for_s: float) -> Outcome | None:
    """The peer's; None where it is not to be had."""
    if not sshd.available():
        return None
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(sshd.stock_sshd(files.folder / "sshd-thin", files.public))
        wan = stack.enter_context(link(server, rtt_ms=RTT_MS, mbit=MBIT, buffer_mb=BUFFER_MB))
        ssh = stack.enter_context(sshd.Ssh(files.folder, wan.ready, files.identity))
        ssh.keep()
        echo = subprocess.Popen(ssh.over("cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        stack.callback(end, echo)
        _round(echo)  # it runs
        begun = time.monotonic()
        bulk = subprocess.Popen(
            ssh.over("cat", "/dev/zero"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
        )
        stack.callback(end, bulk)
        counts = [0]
        threading.Thread(target=_count, args=(bulk, counts), daemon=True).start()
        rtt_s = _beats(echo, begun + for_s)
        return Outcome.of("openssh", rtt_s, counts[0], time.monotonic() - begun)


def _count(bulk: "subprocess.Popen[bytes]", counts: list[int]) -> None:
    if bulk.stdout is None:
        raise AssertionError("it is a pipe")
    while data := os.read(bulk.stdout.fileno(), READ_BYTES):
        counts[0] += len(data)


def _round(echo: "subprocess.Popen[bytes]") -> None:
    _put(echo, 0)
    _get(echo)


def _put(echo: "subprocess.Popen[bytes]", number: int) -> None:
    if echo.stdin is None:
        raise AssertionError("it is a pipe")
    os.write(echo.stdin.fileno(), number.to_bytes(COUNT_BYTES, "big") + HEARTBEAT)


def _get(echo: "subprocess.Popen[bytes]") -> None:
    if echo.stdout is None:
        raise AssertionError("it is a pipe")
    left = COUNT_BYTES + len(HEARTBEAT)
    while left:
        data = os.read(echo.stdout.fileno(), left)
        if not data:
            raise RuntimeError("the echo ended")
        left -= len(data)


def _beats(echo: "subprocess.Popen[bytes]", until: float) -> list[float]:
    """One each ``EVERY_S``, whether the one before is back or not."""
    sent_at: list[float] = []
    rtt_s: list[float] = []

    def receive() -> None:
        while True:
            try:
                _get(echo)
            except (RuntimeError, OSError):
                return
            rtt_s.append(time.monotonic() - sent_at[len(rtt_s)])

    threading.Thread(target=receive, daemon=True).start()
    while (now := time.monotonic()) < until:
        sent_at.append(now)
        _put(echo, len(sent_at))
        time.sleep(max(0.0, sent_at[0] + len(sent_at) * EVERY_S - time.monotonic()))
    return rtt_s
