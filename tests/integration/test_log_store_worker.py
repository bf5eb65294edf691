"""The log store's workers as real processes: work, crashes, time, memory, and their parent's death."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from avinet.logs.store.client import WorkerClient, WorkerTerms
from avinet.logs.store.errors import (
    LogQueryMemoryError,
    LogQueryRefusedError,
    LogQueryTimeoutError,
    LogWorkerDiedError,
)
from avinet.logs.store.jobs import Merge, Role, Select
from avinet.units import MIB
from tests.unit.log_store_kit import T0_US, job, line, segment, service

ENDLESS = "SELECT count(*) FROM range(100000) AS a, range(100000) AS b, range(1000) AS c WHERE a.range + b.range = c.range"

PARENT = """
import sys
from pathlib import Path
from twisted.internet import reactor
from avinet.logs.store.client import WorkerClient, WorkerTerms
from avinet.logs.store.jobs import Role, Select
folder = Path(sys.argv[1])
worker = WorkerClient(WorkerTerms(Role.QUERY, 1 << 30, (folder,), folder / "spill"), reactor, reactor)
worker.start()
worker.ask(Select(sql="SELECT 1", values={}, files=()), 60).addCallback(
    lambda _: (worker.ask(Select(sql=sys.argv[2], values={}, files=()), 300), print(worker.pid, flush=True))
)
reactor.run()
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def until(what, timeout_s=20.0):
    end = reactor.seconds() + timeout_s
    while not what():
        assert reactor.seconds() < end, "it did not happen"
        await deferLater(reactor, 0.02, lambda: None)


def start_parent(folder):
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), ENDLESS], stdout=subprocess.PIPE, text=True
    )


class Workers:
    def __init__(self, folder):
        self.folder = folder
        self.deaths = []
        self.made = []
        (folder / "store").mkdir(0o700)

    def start(self, role, memory=1024 * MIB, slots=2):
        terms = WorkerTerms(role, memory, (self.folder / "store",), self.folder / "spill", slots)
        worker = WorkerClient(terms, reactor, reactor, lambda role, how: self.deaths.append(role))
        self.made.append(worker)
        worker.start()
        return worker

    async def stop(self):
        await gatherResults([worker.stop() for worker in self.made])


@pytest.fixture
def workers(tmp_path):
    made = Workers(tmp_path)
    yield made
    pytest_twisted.blockon(gatherResults([worker.stop() for worker in made.made]))
    assert not any(worker.pid for worker in made.made)


def select(sql, *files, **values):
    return Select(sql=sql, values=values, files=files)


@pytest_twisted.ensureDeferred
async def test_lines_of_a_mib_leave_room_for_what_follows(workers, tmp_path):
    ingesting = workers.start(Role.INGEST)
    raw = b"".join(line(T0_US + n, path=os.urandom(500_000).hex()) for n in range(30))
    sources = []
    for counter in range(1, 6):
        task = job(tmp_path, segment(tmp_path, raw, counter=counter), name=f"{counter}.parquet")
        assert (await ingesting.ask(task, 60)).records == 30
        sources.append(task.target)
    merged = Merge(sources=tuple(sources), target=str(tmp_path / "store" / "day" / "all.parquet"))
    assert (await ingesting.ask(merged, 60)).records == 150
    assert workers.deaths == []


@pytest_twisted.ensureDeferred
async def test_one_worker_takes_in_what_the_other_counts(workers, tmp_path):
    ingesting, querying = workers.start(Role.INGEST), workers.start(Role.QUERY)
    segments = [
        segment(tmp_path, b"".join(line(T0_US + n, vs) for n in range(1_000)), vs=vs, counter=vs)
        for vs in range(1, 6)
    ]
    task = job(tmp_path, *segments)
    written = await ingesting.ask(task, 60)
    assert (written.records, written.services) == (5_000, tuple(service(vs) for vs in range(1, 6)))
    rows = await querying.ask(
        select("SELECT count(*) FROM records WHERE vs_uuid = $p0", task.target, p0=service(3)), 60
    )
    assert rows.rows == [[1_000]]


@pytest_twisted.ensureDeferred
async def test_a_query_that_takes_too_long_is_stopped_and_others_go_on(workers):
    worker = workers.start(Role.QUERY)
    await worker.ask(select("SELECT 1"), 60)
    slow = worker.ask(select(ENDLESS), 1)
    quick = await worker.ask(select("SELECT 2"), 60)
    assert quick.rows == [[2]]
    with pytest.raises(LogQueryTimeoutError):
        await slow
    assert (await worker.ask(select("SELECT 3"), 60)).rows == [[3]]
    assert workers.deaths == []


@pytest_twisted.ensureDeferred
async def test_a_query_that_takes_too_much_memory_says_so_and_the_worker_lives(workers):
    worker = workers.start(Role.QUERY, memory=512 * MIB)
    with pytest.raises(LogQueryMemoryError):
        await worker.ask(select("SELECT list(range), list(range + 1) FROM range(200000000)"), 60)
    with pytest.raises(LogQueryRefusedError):
        await worker.ask(select("SELECT * FROM read_text('/etc/passwd')"), 60)
    assert (await worker.ask(select("SELECT 3"), 60)).rows == [[3]]
    assert workers.deaths == []


@pytest_twisted.ensureDeferred
async def test_a_worker_that_is_killed_fails_what_it_did_and_the_next_one_does_what_waited(workers):
    worker = workers.start(Role.QUERY, slots=1)
    await worker.ask(select("SELECT 1"), 60)
    dying, waiting = worker.ask(select(ENDLESS), 60), worker.ask(select("SELECT 2"), 60)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(LogWorkerDiedError):
        await dying
    assert (await waiting).rows == [[2]]
    assert workers.deaths == [Role.QUERY]


@pytest_twisted.ensureDeferred
async def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    parent = start_parent(tmp_path)
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await until(lambda: not alive(child))
