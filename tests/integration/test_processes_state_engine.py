"""A controller whose state is in an etcd of its own: real processes."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.integration.processes import free_port, until

pytestmark = pytest.mark.skipif(
    shutil.which("etcd") is None, reason="no etcd: apt-get install etcd-server (make test-deps)"
)


def children_of(pid):
    """Of a process, by name."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found[Path(f"/proc/{child}/comm").read_text().strip()] = int(child)
    return found


def with_engine(site):
    """Its settings, with a state engine."""
    path = site.write_settings()
    site.client_url = f"https://127.0.0.1:{(port := free_port())}"
    path.write_text(
        path.read_text() + f'\n[store]\nengine = "etcd"\nclient_port = {port}\npeer_port = {free_port()}\n'
    )
    return site


def create(site, name):
    return site.client.post("/api/serviceengine", {"name": name, "cloud": "manual"})


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_controllers_state_moves_into_etcd_and_outlives_every_kill(site):
    site.start()
    assert create(site, "before")
    assert site.client.get("/api/status")["store"]["engine"] == "sqlite"
    site.controller.stop()

    with_engine(site).start()
    names = lambda: {row["name"] for row in site.client.get("/api/serviceengine")["results"]}
    assert names() == {"before"}
    agent = until(lambda: site.add_engine("se-0"))  # once it leads
    site.until_up("se-0", agent, version=site.serve()["version"])
    site.until_served()
    store = site.client.get("/api/status")["store"]
    assert (store["engine"], store["well"], store["is_leader"]) == ("etcd", True, True)
    kept = [one.name for one in site.state.iterdir() if one.name.startswith("store.db")]
    assert [name[:18] for name in kept] == ["store.db.migrated-"]

    # etcd alone
    os.kill(children_of(site.controller.pid)["etcd"], signal.SIGKILL)
    until(lambda: site.client.get("/api/status")["store"]["well"] is False)
    until(lambda: create(site, "after"))
    site.until_served()
    codes = lambda: {event["code"] for event in site.client.get("/api/events")["results"]}
    until(lambda: {"STATE_ENGINE_DOWN", "STATE_ENGINE_UP"} <= codes())
    assert "SE_DOWN" not in codes()

    # the controller: nobody is left behind, and nothing is lost
    engine = children_of(site.controller.pid)["etcd"]
    site.controller.kill()
    until(lambda: not alive(engine))
    site.start()
    assert names() == {"before", "after", "se-0"}
    site.until_up("se-0", agent)
