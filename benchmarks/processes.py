"""Processes of a benchmark: each ends with this one, however this one ends, and answers requests by lines of JSON.

A worker says ``{"ready": ...}`` once, then one line for each line it is sent.  Blocking: for the synchronous
benchmarks, or in threads.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import attrs
import msgspec

READY_LIMIT_S = 30.0
STOP_LIMIT_S = 10.0
POLL_S = 0.01
READ_BYTES = 64 * 1024


def bound_to_us(*command: str) -> tuple[str, ...]:
    """``command``, to be ended by the kernel when this process does."""
    return (sys.executable, "-m", "avinet.cloud.launch", str(os.getpid()), *command)


def cpu_s(pid: int) -> float:
    """User and system time of a process since it started (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def end(process: subprocess.Popen[Any], limit_s: float = STOP_LIMIT_S) -> bool:
    """SIGTERM, SIGKILL when that is not enough; whether it was."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def until(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    """Wait for ``condition``; ``RuntimeError`` when it does not come."""
    late = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > late:
            raise RuntimeError(f"{what}: not within {limit_s:g} s")
        time.sleep(POLL_S)


def clean_up_on_sigterm() -> None:
    """Leave as on Ctrl-C when told to end: data planes have sessions of their own, and outlive a benchmark that is gone."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


@attrs.define(eq=False)
class Worker:
    """A Python module of ours as a process: ``with Worker("benchmarks.link", "--listen", ...) as link``."""

    module: str
    arguments: Sequence[str] = ()
    inside: Sequence[str] = ()
    """What goes before the command, to run it elsewhere."""
    ready: Any = attrs.field(default=None, init=False)
    """What it said of itself when it was."""
    _process: subprocess.Popen[bytes] = attrs.field(init=False, repr=False)
    _read: bytes = attrs.field(default=b"", init=False, repr=False)

    def __enter__(self) -> Self:
        command = bound_to_us(*self.inside, sys.executable, "-m", self.module, *self.arguments)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.ready = self._answer(READY_LIMIT_S)["ready"]
        except BaseException:
            end(self._process)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end(self._process)

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def ask(self, limit_s: float, **request: Any) -> dict[str, Any]:
        """Its answer to one request."""
        if self._process.stdin is None:
            raise AssertionError("a worker's input is a pipe")
        self._process.stdin.write(msgspec.json.encode(request) + b"\n")
        self._process.stdin.flush()
        return self._answer(limit_s)

    def _answer(self, limit_s: float) -> dict[str, Any]:
        if self._process.stdout is None:
            raise AssertionError("a worker's output is a pipe")
        late = time.monotonic() + limit_s
        while b"\n" not in self._read:
            left = late - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise RuntimeError(f"{self.module} did not answer in {limit_s:g} s")
            data = os.read(self._process.stdout.fileno(), READ_BYTES)
            if not data:
                raise RuntimeError(f"{self.module} ended with status {self._process.wait()}")
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        answer: dict[str, Any] = msgspec.json.decode(line)
        if "failed" in answer:
            raise RuntimeError(f"{self.module}: {answer['failed']}")
        return answer


def say(out: TextIO | None = None, **facts: Any) -> None:
    """A worker's line to whoever started it."""
    print(msgspec.json.encode(facts).decode(), file=out or sys.stdout, flush=True)
