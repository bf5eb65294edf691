"""Request logs with real processes: errors are on the controller within seconds, whoever was killed meanwhile, once."""

import http.client
import random
import time
import uuid

from avinet.model.logs import LogClass, piece_name
from avinet.units import MIB
from tests.integration.processes import until
from tests.unit.log_lines import line


def failed(site, path):
    """One request that nobody answers; its status."""
    connection = http.client.HTTPConnection("127.0.0.1", site.ports.service, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def counted(site):
    """How many records of each path the store has."""
    answer = site.client.get("/api/logs/query", {"q": "status>=500", "top": "path", "limit": 500})
    return {row["path"]: row["count"] for row in answer["results"]}


def test_errors_come_within_seconds_and_once_whoever_is_killed(site):
    site.start()
    agent = site.add_engine("se-1")
    site.until_up("se-1", agent, version=site.serve()["version"])
    site.until_served()
    for backend in site.backends:
        backend.close()
    until(lambda: failed(site, "/until-down") >= 500, why="the servers are still served")
    wanted = set()

    def send(name, count=5):
        for number in range(count):
            path = f"/{name}/{number}"
            assert failed(site, path) >= 500
            wanted.add(path)

    def all_here():
        found = counted(site)
        assert all(found.get(path, 0) <= 1 for path in wanted), found
        return all(path in found for path in wanted)

    def missing():
        return f"{wanted - counted(site).keys()} of {len(wanted)}\n{agent.log[-3000:]}\n{site.controller.log[-2000:]}"

    send("first")
    until(all_here, 20, missing)
    site.controller.kill()
    send("headless")
    # The list of all logs is damaged meanwhile.
    for ledger in (site.state / "logs").glob("ledger.db*"):
        ledger.write_bytes(bytes(ledger.stat().st_size))
    site.start()
    until(all_here, 40, missing)
    assert site.events("LOG_LEDGER_MENDED")
    assert "was damaged" in site.client.get("/api/logs/status")["store"]["mended"]
    agent.kill()
    send("orphaned")
    agent = site.run_engine("se-1")
    until(all_here, 40, missing)
    assert not site.events("LOG_CHANNEL_CUT")


LINES = 12_000
"""Of 4 KB, half of which does not compress: 24 MB on the wire, three seconds at the rate of the pull."""


def logged(site, name):
    """As if Envoy had written them lately: a piece of full logs for the agent of that name."""
    service = site.client.get("/api/virtualservice")["results"][0]["uuid"].removeprefix("virtualservice-")
    began_us = int((time.time() - 600) * 1e6)
    chance = random.Random(7)
    lines = [
        line(
            uuid.UUID(service).int,
            began_us + number,
            path=f"/bulk/{number}",
            user_agent=chance.randbytes(2_000).hex(),
        )
        for number in range(LINES)
    ]
    folder = site.engine_state(name) / "data-plane" / "logs"
    whole = folder / "coming"
    whole.write_bytes(b"".join(lines))
    whole.rename(folder / piece_name(LogClass.FULL, 99))


def test_a_pull_goes_on_after_its_agent_and_its_controller_were_killed(site):
    site.start()
    agent = site.add_engine("se-1")
    site.until_up("se-1", agent, version=site.serve()["version"])
    site.until_served()
    logged(site, "se-1")
    pull = site.client.post("/api/logs/pull", {"since": "1h", "rate": 8 * MIB})["id"]

    def row():
        return site.client.get(f"/api/logs/pull/{pull}", timeout_s=5)

    def got(share):
        def enough():
            now = row()
            assert now["state"] not in {"failed", "cancelled"}, now
            return now["bytes_total"] and now["bytes"] >= share * now["bytes_total"]

        return until(enough, 40, lambda: f"{row()}\n{agent.log[-3000:]}")

    got(0.15)
    agent.kill()
    agent = site.run_engine("se-1")
    got(0.45)
    site.controller.kill()
    site.start()
    got(0.7)
    agent.kill()
    agent = site.run_engine("se-1")
    until(lambda: row()["state"] == "done" and row()["stored"], 60, lambda: f"{row()}\n{agent.log[-3000:]}")
    answer = site.client.get("/api/logs/query", {"q": "path~^/bulk/ since 1h", "count": "true"})
    assert answer["count"] == LINES
    found = row()
    assert found["records"] >= LINES
    assert found["bytes"] == found["bytes_total"]
    heartbeat = site.row("se-1")
    assert heartbeat["state"] == "UP"
    assert not site.events("LOG_CHANNEL_CUT")
