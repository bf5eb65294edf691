"""A pull between real processes, which are killed in the middle, either side, again and again: each line there once."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.logs.ledger import Ledger
from avinet.model.logs import LogClass, piece_name
from tests.unit.log_lines import BASE_US, line

LIMIT_S = 120.0
LINES = 30_000
"""Of 4 KB, half of which does not compress: some 60 MiB on the wire."""


class Ends:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.processes = {}
        for name in ("se.key", "host.key"):
            (self.folder / name).write_bytes(Ed25519PrivateKey.generate().private_bytes_raw())
        (self.folder / "data-plane").mkdir()

    def write(self):
        """What the data plane wrote; every line differs."""
        seed = random.Random(4)
        self.written = [
            line(number % 3, BASE_US + number, path=seed.randbytes(2_000).hex()) for number in range(LINES)
        ]
        for piece in range(3):
            data = b"".join(self.written[piece::3])
            (self.folder / "data-plane" / piece_name(LogClass.FULL, piece + 1)).write_bytes(data)

    def start(self, role):
        command = [sys.executable, "-m", "tests.integration.log_ends", role, str(self.folder)]
        with (self.folder / f"{role}.log").open("ab") as log:
            self.processes[role] = subprocess.Popen(command, stderr=log, stdout=log, env={**os.environ})

    def kill(self, role):
        process = self.processes.pop(role)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self):
        for role in tuple(self.processes):
            self.kill(role)

    def progress(self):
        """State and bytes."""
        try:
            state, size = (self.folder / "progress").read_text().split()
        except FileNotFoundError:
            return "", 0
        return state, int(size)

    def received(self):
        ledger = Ledger(self.folder / "controller" / "ledger.db")
        try:
            waiting = ledger.waiting(2**62)
        finally:
            ledger.close()
        found = []
        for one in waiting:
            data = (self.folder / "controller" / "received" / one.se / one.file).read_bytes()
            begin = 0 if one.place is None else one.place.offset
            raw = zstandard.ZstdDecompressor().decompress(data[begin : begin + one.head.size])
            found += raw.splitlines(keepends=True)
        return found


@pytest.fixture
def ends():
    with tempfile.TemporaryDirectory(prefix="avinet-logs-") as folder:
        made = Ends(folder)
        with contextlib.ExitStack() as stack:
            stack.callback(made.stop)
            made.write()
            yield made


@pytest.mark.parametrize("victims", [("engine",), ("controller",), ("engine", "controller")])
def test_a_pull_survives_kills_in_its_middle(ends, victims):
    chance = random.Random(len(victims))
    for role in ("controller", "engine"):
        ends.start(role)
    until = time.monotonic() + LIMIT_S
    kills = 0
    next_kill_at = 1
    while ends.progress()[0] != "done":
        assert time.monotonic() < until, (ends.folder / "controller.log").read_text()[-2000:]
        assert all(process.poll() is None for process in ends.processes.values())
        if kills < 4 and ends.progress()[1] >= next_kill_at:
            victim = chance.choice(victims)
            time.sleep(chance.uniform(0, 0.05))
            ends.kill(victim)
            ends.start(victim)
            kills += 1
            next_kill_at = ends.progress()[1] + 1
        time.sleep(0.005)
    ends.stop()
    assert kills >= 3
    received = ends.received()
    assert len(received) == len(ends.written)
    assert sorted(received) == sorted(ends.written)
