"""The log store with real workers, killed at random: every record once."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import DeferredList
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.controller import log_store
from avinet.controller.log_store import LogStoreService, Reported
from avinet.logs.entries import Arrival, Segment
from avinet.logs.ledger import Ledger
from avinet.logs.query.shapes import Count, Query, Top, Whole
from avinet.logs.store.embedded import EmbeddedLogStore
from avinet.logs.store.errors import LogWorkerDiedError
from avinet.logs.store.folders import Folders
from avinet.logs.store.interface import ExportTerms, Keeping
from avinet.logs.store.jobs import Exported, ExportFormat
from avinet.logs.store.surroundings import Surroundings
from avinet.logs.store.workers import worker_processes
from avinet.units import GIB, MIB
from tests.unit.log_store_kit import T0_US, line, segment

SE = "se-00000000-0000-4000-8000-000000000001"

# A controller's part, killed from outside: takes in what waits, again and again.
PARENT = """
import sys
from pathlib import Path
from twisted.internet import reactor
from tests.integration.test_log_store import made
service, ledger = made(Path(sys.argv[1]), [])
from twisted.internet.defer import Deferred
Deferred.fromCoroutine(service.start()).addCallback(lambda _: print("started", flush=True))
reactor.run()
"""


def made(folder, events):
    """A service with real workers in ``folder``."""
    folders = Folders(folder)
    ledger = Ledger(folder / "ledger.db")
    reported = Reported(lambda code, *_, **facts: events.append(code))
    workers = worker_processes(folders, (GIB, GIB), reactor, reported.died)
    store = EmbeddedLogStore(ledger, folders, Surroundings(deferToThread, reactor.seconds), workers)
    keeping = Keeping(10**18, GIB)
    return LogStoreService(store, ledger, keeping, reactor, deferToThread, reported), ledger


class Intake:
    """Receives segments as the controller's intake does."""

    def __init__(self, folder):
        self.folder, self.folders = folder, Folders(folder)
        self.records = self.counter = 0

    def receive(self, ledger, lines=500):
        self.counter += 1
        # Each hour is a job and a commit of its own: many places to be killed at.
        at = T0_US + self.counter % 20 * 3_600_000_000
        raw = b"".join(line(at + n, 1, path=f"/{self.counter}") for n in range(lines))
        made = segment(self.folder, raw, counter=self.counter, se=SE, first_us=at, last_us=at + lines)
        kept = Segment(SE, made.head)
        path = self.folders.segment(kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        Path(made.path).replace(path)
        ledger.receive([Arrival(kept)])
        self.records += lines
        return len(raw)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir(0o700)
    return folder


async def all_there(service, intake):
    answer, behind = await service.query(Query(shape=Count()), patience_s=120)
    assert behind is None
    assert answer.count == intake.records
    top, _ = await service.query(Query(shape=Top(("path",), 10_000)))
    assert {row["count"] for row in top.results} == {500}
    assert len(top.results) == intake.counter


@pytest_twisted.ensureDeferred
async def test_workers_killed_at_random_lose_and_double_nothing_and_queries_say_so(folder):
    events = []
    service, ledger = made(folder, events)
    intake, chance = Intake(folder), random.Random(7)
    try:
        await service.start()
        for _ in range(4):
            for _ in range(5):
                service.arrived(intake.receive(ledger) + 100 * MIB)
            asked = [service.store.query(Query(shape=Count())) for _ in range(6)]
            target = Folders(folder).exports / f"{intake.counter}.csv"
            asked.append(
                service.store.export(Query(shape=Whole()), target, ExportTerms(ExportFormat.CSV, GIB))
            )
            await deferLater(reactor, chance.random() * 0.4)
            workers = service.store.workers
            for worker in (workers.ingesting, workers.querying)[: chance.randint(1, 2)]:
                if worker.pid is not None:
                    os.kill(worker.pid, signal.SIGKILL)
            for ok, answer in await DeferredList(asked, consumeErrors=True):
                if not ok:
                    answer.trap(LogWorkerDiedError)
                    continue
                # Segments come in whole or not at all.
                count = answer.records if isinstance(answer, Exported) else answer.count
                assert (count % 500, count <= intake.records) == (0, True)
        await all_there(service, intake)
        assert {path.suffix for path in Folders(folder).exports.iterdir()} <= {".csv"}
        assert set(events) <= {"LOG_WORKER_DIED", "LOG_INGEST_FAILED", "LOG_INGEST_WELL"}
        assert "LOG_WORKER_DIED" in events
        listed = {file.name for file in ledger.files()}
        store = Folders(folder).store
        assert listed == {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}
    finally:
        await service.stop()
        ledger.close()


@pytest.fixture
def small_disk():
    """A file system of 32 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    disk = Path(tempfile.mkdtemp(prefix="avinet-disk-"))
    if subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=32m", "avinet-test", disk), check=False
    ).returncode:
        disk.rmdir()
        pytest.skip("may not mount here")
    yield disk
    subprocess.run(("umount", "-l", disk), check=False)
    disk.rmdir()


def fill(disk, leave_bytes):
    """Take all of a disk but so much; the file that has it."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4_096))
    os.truncate(path, path.stat().st_size - leave_bytes)
    return path


@pytest_twisted.ensureDeferred
async def test_on_a_full_disk_what_is_there_is_answered_and_the_rest_waits_until_there_is_room(
    small_disk, monkeypatch
):
    monkeypatch.setattr(log_store, "RETRY_S", 0.2)
    folder, events = small_disk / "logs", []
    folder.mkdir(0o700)
    service, ledger = made(folder, events)
    intake = Intake(folder)
    try:
        await service.start()
        intake.receive(ledger)
        await all_there(service, intake)
        there = intake.records
        for _ in range(20):
            intake.receive(ledger)
        filler = fill(small_disk, 64 * 1_024)
        service.arrived(GIB)
        while not service.trouble:
            await deferLater(reactor, 0.05)
        # The worker's file, or the ledger.
        assert "no room on the disk" in service.trouble or "cannot grow" in service.trouble
        answer = await service.store.query(Query(shape=Count()))
        # Of some hours there was room for the file.
        assert there <= answer.count < intake.records
        assert answer.count % 500 == 0
        filler.unlink()
        await all_there(service, intake)
        assert service.trouble == ""
        assert set(events) == {"LOG_INGEST_FAILED", "LOG_INGEST_WELL"}
    finally:
        await service.stop()
        ledger.close()


def start_parent(folder):
    return subprocess.Popen([sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, text=True)


@pytest_twisted.ensureDeferred
async def test_a_parent_killed_at_random_loses_and_doubles_nothing(folder):
    intake, chance = Intake(folder), random.Random(11)
    for _ in range(3):
        ledger = Ledger(folder / "ledger.db")
        for _ in range(20):
            intake.receive(ledger)
        ledger.close()
        parent = start_parent(folder)
        assert parent.stdout.readline() == "started\n"
        await deferLater(reactor, 0.3 + chance.random() * 1.2)
        parent.kill()
        parent.wait()
        parent.stdout.close()
    service, ledger = made(folder, [])
    try:
        await service.start()
        await all_there(service, intake)
    finally:
        await service.stop()
        ledger.close()
