"""kill -9 at moments nobody chose: an SE is enrolled exactly once, and a configuration version is whole."""

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from avinet.app.cli.errors import RefusedError
from avinet.errors import AvinetError
from tests.integration.processes import until
from tests.integration.registering import Machine

ROUNDS = 5
MACHINES = 100
SEED = int(os.environ.get("AVINET_SEED", random.SystemRandom().randrange(2**31)))
"""Told when a test fails; give it back to have the same moments again."""


@pytest.fixture
def moment():
    print(f"AVINET_SEED={SEED}")
    return random.Random(SEED)


def fingerprint(site_state):
    from avinet.se.identity import SeIdentity
    from avinet.se.paths import SePaths

    return SeIdentity.load_or_create(SePaths(site_state)).fingerprint


def test_a_controller_killed_while_machines_enrol_enrols_each_once(site, moment):
    site.start()
    image = site.image()
    meta, token = site.token(count=MACHINES)
    machines = [Machine(site, image, meta["token"]) for _ in range(MACHINES)]
    left = {machine: machine.body() for machine in machines}
    answered = {}
    for _ in range(ROUNDS):
        with ThreadPoolExecutor(4) as pool:
            asked = {pool.submit(machine.enrol, body): machine for machine, body in left.items()}
            time.sleep(moment.uniform(0.01, 0.15))
            site.controller.kill()
        for one, machine in asked.items():
            if one.exception() is None and one.result().status == 200:
                answered[machine] = one.result().body
                del left[machine]
        site.start()
    for machine, body in left.items():
        answer = machine.enrol(body)
        assert answer.status == 200, answer
        answered[machine] = answer.body
    rows = {row["fingerprint"]: row for row in site.rows()}
    assert len(rows) == len(site.rows()) == MACHINES, "one record a machine"
    assert len({row["loopback"] for row in rows.values()}) == MACHINES
    for machine, told in answered.items():
        row = rows[machine.fingerprint]
        assert (row["uuid"], row["loopback"]) == (told["se"], told["loopback"]), "an answer was forgotten"
    [mine] = [t for t in site.client.get("/api/setoken")["results"] if t["uuid"] == token["uuid"]]
    assert (mine["used"], mine["state"]) == (MACHINES, "spent")


def test_an_agent_whose_controller_dies_before_the_answer_asks_again(site, moment):
    site.start()
    agent = site.run_engine("se-1", image=site.image(), meta=site.create("se-1"))
    request = site.engine_state("se-1") / "enrolment" / "request.jws"
    until(request.exists, why=lambda: agent.log, poll_s=0.001)
    time.sleep(moment.uniform(0.0, 0.03))
    site.controller.kill()
    time.sleep(0.3)
    assert agent.running
    site.start()
    site.until_up("se-1", agent)
    assert len(site.rows()) == 1


def pools(number):
    """A version's documents: 40 objects that all name it."""
    return "\n---\n".join(
        f"kind: Pool\nname: pool-{n}\ndescription: v{number}\nservers: [{{ip: 127.0.0.1, port: 80}}]"
        for n in range(40)
    )


def test_a_controller_killed_during_an_apply_has_the_old_version_or_the_new_whole(site, moment):
    site.start()
    acknowledged = 0
    version = site.version
    for number in range(1, ROUNDS + 1):
        outcome = {}

        def apply(number=number, outcome=outcome):
            try:
                outcome["version"] = site.apply(pools(number))["version"]
            except AvinetError as why:
                outcome["failed"] = str(why)

        work = threading.Thread(target=apply)
        work.start()
        time.sleep(moment.uniform(0.0, 0.25))
        site.controller.kill()
        work.join(20)
        assert outcome, "neither an answer nor an error came"
        site.start()
        found = {row.get("description", "") for row in all_pools(site)}
        assert len(found) <= 1, f"a version in part: {found}"
        now = int(found.pop().removeprefix("v")) if found else 0
        assert now in {number, acknowledged}, (now, number, acknowledged)
        if "version" in outcome:
            assert now == number, "an acknowledged version was lost"
        assert site.version == version + (now == number)
        acknowledged, version = now, site.version
    assert site.apply(pools(99))["version"] == version + 1
    assert {row["description"] for row in all_pools(site)} == {"v99"}


def all_pools(site):
    return site.client.get("/api/pool", {"page_size": 1000})["results"]


def test_an_agent_killed_at_any_moment_of_its_first_boot_comes_up_enrolled_once(shared, moment):
    image, meta = shared.image(), shared.create("se-killed")
    for _ in range(ROUNDS):
        agent = shared.run_engine("se-killed", image=image, meta=meta)
        time.sleep(moment.uniform(0.2, 1.6))
        agent.kill()
    agent = shared.run_engine("se-killed", image=image, meta=meta)
    row = shared.until_up("se-killed", agent)
    mine = fingerprint(shared.engine_state("se-killed"))
    assert [r["name"] for r in shared.rows() if r["fingerprint"] == mine] == ["se-killed"]
    assert row["fingerprint"] == mine
    # Its bytes were sent again and again; with another key the same token is of no use.
    thief = shared.run_engine("thief", image=image, meta=meta)
    assert thief.wait() == 1
    assert "HTTP 409" in thief.log
    assert agent.running
    shared.stop_engine("se-killed")
    shared.client.delete(f"/api/serviceengine/{row['uuid']}")
    with pytest.raises(RefusedError):
        shared.row("se-killed")


def test_a_controller_and_an_agent_killed_over_and_over_end_in_sync(site, moment):
    site.start()
    agent = site.add_engine("se-1")
    version = site.serve()["version"]
    for number in range(4):
        agent.kill()
        site.controller.kill()
        agent = site.run_engine("se-1")
        site.start()
        time.sleep(moment.uniform(0.0, 0.8))
        version = site.apply(pools(number))["version"]
    site.until_up("se-1", agent, version=version)
    site.until_served()
    assert len(site.rows()) == 1
