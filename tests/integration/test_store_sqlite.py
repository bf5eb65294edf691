"""The embedded store with its real thread, and under kill -9."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import gatherResults

from avinet.store.interface import Put, StoreUnavailableError
from avinet.store.sqlite import open_sqlite_store

# Writes for ever, and says each key only once its transaction was acknowledged.
WRITER = """
import sys
from pathlib import Path
from twisted.internet import reactor
from avinet.store.interface import Put
from avinet.store.sqlite import open_sqlite_store

def write(store, n):
    done = store.transact((), [Put(f"k{n}", b"x" * 100)])
    done.addCallback(lambda outcome: (print(n, flush=True), write(store, n + 10)))

def go(store):
    for n in range(10):
        write(store, n)

open_sqlite_store(Path(sys.argv[1]), reactor).addCallback(go)
reactor.run()
"""


@pytest_twisted.ensureDeferred
async def test_many_transactions_at_once_are_all_done_and_in_order(tmp_path):
    store = await open_sqlite_store(tmp_path / "store.db", reactor)
    outcomes = await gatherResults([store.transact((), [Put(f"k{n:03}", b"")]) for n in range(300)])
    assert [outcome.revision for outcome in outcomes] == list(range(1, 301))
    assert len((await store.list("k")).entries) == 300
    await store.close()
    with pytest.raises(StoreUnavailableError):
        await store.get("k000")


def killed_writer(path):
    """Run the writer, kill it in the middle, and give the keys it was told are safe."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    said = [writer.stdout.readline() for _ in range(200)]
    os.kill(writer.pid, signal.SIGKILL)
    said += writer.stdout.readlines()
    writer.wait()
    writer.stdout.close()
    return {f"k{int(line)}" for line in said if line.endswith(b"\n")}


@pytest_twisted.ensureDeferred
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path):
    path = tmp_path / "store.db"
    for _ in range(3):
        acknowledged = killed_writer(path)
        assert len(acknowledged) >= 200
        store = await open_sqlite_store(path, reactor)
        kept = {entry.key for entry in (await store.list("k")).entries}
        await store.close()
        assert acknowledged <= kept
