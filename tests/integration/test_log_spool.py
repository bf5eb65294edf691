"""Request logs of a real Envoy, taken in by an agent that is killed again and again: each is there once."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import pytest_twisted
import zstandard
from twisted.internet.threads import deferToThread

from avinet.logs.spool import Spool
from avinet.model.config import AnalyticsPolicy
from avinet.model.logs import Selection
from tests.integration.pool_kit import Origin
from tests.integration.service_kit import pool, service
from tests.integration.test_envoy import free_port
from tests.integration.test_envoy_services import Services

UUIDS = [f"{n}1111111-2222-4333-8444-555555555555" for n in range(3)]
KILLS = 8
"""Each in another moment, which is left to chance; that no moment is wrong is proved one by one in the unit tests."""


class Asking(threading.Thread):
    """Asks for one path after another, each once, until told to stop; remembers those that were answered."""

    def __init__(self, name, port):
        super().__init__(daemon=True)
        self.prefix, self.port = name, port
        self.stopping = False
        self.answered = []

    def run(self):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=8)
        while not self.stopping:
            path = f"/{self.prefix}/{len(self.answered)}"
            connection.request("GET", path)
            connection.getresponse().read()
            self.answered.append(path)
        connection.close()


def child(state, data_plane, *, chunk_bytes=2000, once=False):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.integration.spool_child",
            str(state),
            str(data_plane),
            str(chunk_bytes),
            "once" if once else "on",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=Path(__file__).parents[2],
    )


def killed_again_and_again(state, data_plane, seed):
    """How often something was flushed; the last child takes in all there is and ends by itself."""
    chance = random.Random(seed)
    flushed = 0
    for _ in range(KILLS):
        one = child(state, data_plane)
        assert one.stdout.readline() == b"open\n"
        time.sleep(chance.uniform(0, 1.2))
        os.kill(one.pid, signal.SIGKILL)
        output, _ = one.communicate(timeout=30)
        flushed += output.count(b"flushed")
    return flushed


def taken_in(state, logs):
    """Every path in the spool's segments, and how often."""
    spool = Spool.open(state, logs, time.time)
    try:
        found = Counter()
        after = 0
        while heads := spool.pending(Selection(), None, after, 1000):
            after = heads[-1].counter
            for head in heads:
                place = spool.lending.place(head.name)
                with place.path.open("rb") as file:
                    file.seek(place.offset)
                    text = zstandard.ZstdDecompressor().decompress(file.read(place.size))
                lines = [json.loads(line) for line in text.splitlines()]
                assert {line["_vs"] for line in lines} == {head.service}
                assert len(lines) == head.records
                found.update(line["path"] for line in lines)
        return found, spool.totals(), list(logs.glob("*.*.*"))
    finally:
        spool.close()


@pytest_twisted.ensureDeferred
async def test_each_answered_request_is_in_one_segment_whenever_the_agent_is_killed():
    async with Services() as bench:
        ports = [free_port() for _ in UUIDS]
        origin = bench.started(Origin, "one")
        pools = (pool("one", origin),)
        state = {}
        for uuid, port in zip(UUIDS, ports, strict=True):
            state.update(
                service(plain=(port,), pools=pools, name=uuid, analytics_policy=AnalyticsPolicy(slow_ms=5))
            )
        plane = await bench.serving(state)
        data_plane, spooled = bench.folder / "a", bench.folder / "spooled"
        asking = [Asking(number, port) for number, port in enumerate(ports)]
        for one in asking:
            one.start()
        seed = random.randrange(2**32)
        flushed = await deferToThread(killed_again_and_again, spooled, data_plane, seed)
        for one in asking:
            one.stopping = True
            await deferToThread(one.join)
        last = child(spooled, data_plane, chunk_bytes=16 * 2**20, once=True)
        output, _ = await deferToThread(last.communicate, timeout=60)
        assert last.returncode == 0, output
        found, totals, left = await deferToThread(taken_in, spooled, plane.log_files().folder)
        answered = Counter(path for one in asking for path in one.answered)
        assert found == answered, (
            seed,
            list((answered - found).items())[:5],
            list((found - answered).items())[:5],
        )
        assert flushed
        assert totals.drops == {}
        assert left == []
        assert len(answered) > 100
