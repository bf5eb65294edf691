"""Controllers that join a cluster, leave it, and learn that they were removed: real processes, each with its own etcd."""

import shutil

import pytest

from avinet.app.cli.errors import CONFLICT, RefusedError
from avinet.app.role import REMOVED
from tests.integration.processes import free_port, until

pytestmark = pytest.mark.skipif(
    shutil.which("etcd") is None, reason="no etcd: apt-get install etcd-server (make test-deps)"
)


def with_engine(site):
    path = site.write_settings()
    path.write_text(
        path.read_text()
        + f'\n[store]\nengine = "etcd"\nclient_port = {free_port()}\npeer_port = {free_port()}\n'
    )
    return site


def members(site):
    return {row["name"]: row["role"] for row in site.client.get("/api/cluster")["members"]}


def create(site, name):
    """A record, as soon as somebody leads."""
    return until(lambda: site.client.post("/api/serviceengine", {"name": name, "cloud": "manual"}))


def audited(site, **facts):
    """The newest row of the audit with these facts; None while there is none."""
    rows = site.client.get("/api/audit")["results"]
    return next((row for row in rows if facts.items() <= row.items()), None)


def test_a_controller_joins_serves_what_the_cluster_knows_and_is_removed(sites):
    c1, c2 = (with_engine(sites(name=name)) for name in ("c1", "c2"))
    c1.start()
    create(c1, "before")
    bundle = c2.folder / "bundle"
    made = c1.cli("cluster", "bundle", "--out", str(bundle))
    assert made.returncode == 0, made.stderr
    join = ("cluster", "join", str(bundle), "--config", str(c2.plan.settings("controller")))
    joined = c2.cli(*join)
    assert joined.returncode == 0, joined.stderr
    spent = c2.cli(*join, "--state", str(c2.folder / "other"))
    assert (spent.returncode, "used already" in spent.stderr) == (CONFLICT, True), spent.stderr
    c2.start()
    assert {row["name"] for row in c2.rows()} == {"before"}
    assert set(members(c1)) == set(members(c2)) == {"c1", "c2"}

    # What the other one must do is handed on to it, with who asks; and whoever asked reads it where it was asked.
    create(c2, "by-the-other")
    assert "by-the-other" in {row["name"] for row in c2.rows()}
    # An audit is written a moment after its answer, and a create that was tried before somebody led is in it, too.
    asked = until(lambda: audited(c2, done_by="c1"))
    done = until(lambda: audited(c1, request_id=asked["request_id"]))
    assert (asked["done_by"], done["asked_at"], done["user"]) == ("c1", "c2", "local")
    assert c2.client.get("/api/status")["lead"]["leader"] == "c1"

    old = c2.paths.membership.read_bytes()
    with pytest.raises(RefusedError):
        c2.client.delete("/api/cluster/controller/c1")
    c1.client.delete("/api/cluster/controller/c2")
    assert c2.controller.wait() == REMOVED
    assert "was removed from the cluster by membership list 3" in c2.controller.log
    assert set(members(c1)) == {"c1"}
    create(c1, "after")
    # As if it had been away: its state engine hears nothing any more, but the other controller tells it the list.
    c2.paths.membership.write_bytes(old)
    away = c2.run_controller(name="away")
    assert away.wait() == REMOVED
    assert "was removed from the cluster by membership list 3" in away.log
