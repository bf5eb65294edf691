"""Request logs with real processes: errors are on the controller within seconds, whoever was killed meanwhile, once."""

import http.client

from tests.integration.processes import until


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
    site.start()
    until(all_here, 40, missing)
    agent.kill()
    send("orphaned")
    agent = site.run_engine("se-1")
    until(all_here, 40, missing)
    assert not site.events("LOG_CHANNEL_CUT")
