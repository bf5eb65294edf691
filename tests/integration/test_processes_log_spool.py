"""The main job with real processes: request logs go from Envoy into the spool of the agent."""

import json
import time
import urllib.error
import urllib.request

import zstandard

from avinet.dataplane.envoy_files import FLUSH_INTERVAL_MS
from avinet.logs.spool import Spool
from avinet.model.logs import LogClass, Selection
from tests.integration.processes import until


def paths_in(state):
    """What was asked for, of each segment's lines, in the spool of an agent that does not run."""
    spool = Spool.open(state / "logs", state / "data-plane" / "logs", time.time)
    try:
        found = []
        for head in spool.pending(Selection(classes=(LogClass.SIGNIFICANT,)), None, 0, 1000):
            place = spool.lending.place(head.name)
            with place.path.open("rb") as file:
                file.seek(place.offset)
                text = zstandard.ZstdDecompressor().decompress(file.read(place.size))
            found += [json.loads(line)["path"] for line in text.splitlines()]
        return found
    finally:
        spool.close()


def _size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def until_spooled(state):
    """All that was logged so far; Envoy writes what it has in memory each second."""
    time.sleep(2 * FLUSH_INTERVAL_MS / 1000)
    logs = state / "data-plane" / "logs"
    until(lambda: all(_size(path) == 0 for path in logs.glob("significant.*")), limit_s=15)


def test_failed_requests_are_in_the_spool_within_seconds_and_outlive_the_agent(site):
    site.start()
    agent = site.add_engine("se-1")
    site.until_up("se-1", agent, version=site.serve()["version"])
    site.until_served()
    site.controller.kill()  # nobody takes them
    for backend in site.backends:
        backend.close()
    asked = []

    def failed():
        asked.append(f"/{len(asked)}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{site.ports.service}{asked[-1]}", timeout=8)
        except urllib.error.HTTPError as why:
            return why.code == 503
        return False

    for _ in range(5):
        until(failed)
    state = site.engine_state("se-1")
    until_spooled(state)
    agent.stop()
    first = paths_in(state)
    assert set(asked[-5:]) <= set(first) <= set(asked), (asked, first)
    agent = site.run_engine("se-1")
    until(failed)
    until((state / "logs" / "spool.db-wal").exists)  # it has opened its spool
    until_spooled(state)
    agent.kill()
    found = paths_in(state)
    assert found == [*first, asked[-1]]
