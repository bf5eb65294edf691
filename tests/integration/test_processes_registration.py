"""8443 as strangers, liars and the unlucky meet it; and what the operator reads about each."""

import json
import socket
import ssl
import subprocess
import time

import pytest

from avinet.app.cli.errors import RefusedError
from avinet.model.ids import new_cluster_id
from avinet.trust import keys
from avinet.trust.registration import sign_request
from avinet.trust.tokens import new_token
from avinet.wire.log_messages import BULK_PORT, BULK_SERVICE, LIVE_PORT, LIVE_SERVICE
from avinet.wire.registration import ENROL_PATH, MEMBERSHIP_PATH
from tests.integration.processes import until
from tests.integration.registering import Machine, ask


@pytest.fixture
def group(shared):
    """A group's token for as many machines as a test wants."""
    return shared.token(count=50)[0]["token"]


def refused(site, answer, status, *words):
    """The caller learns little, the operator why."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == "application/problem+json"
    for word in words:
        assert word not in json.dumps(answer.body), "the caller learns the reason"
    return site.until_event("ENROLMENT_REFUSED", *words)


def test_an_honest_machine_enrols_and_may_ask_again(shared, group):
    machine = Machine(shared, shared.image(), group)
    body = machine.body()
    first, again = machine.enrol(body), machine.enrol(body)
    assert (first.status, again.status) == (200, 200)
    assert first.body["se"] == again.body["se"]
    assert first.body["services"] == {
        "control": shared.control_port,
        LIVE_SERVICE: LIVE_PORT,
        BULK_SERVICE: BULK_PORT,
    }


def test_a_request_signed_by_the_wrong_image_key_is_refused(shared, group):
    machine = Machine(shared, shared.image(), group)
    machine.image_key = keys.generate()
    refused(shared, machine.enrol(), 403, "signer", "not signed by the image key")


def test_a_request_of_an_image_that_is_not_ours_is_refused(shared, group):
    machine = Machine(shared, shared.image(), group)
    answer = machine.enrol(image="img-00000000-0000-4000-8000-000000000000")
    refused(shared, answer, 403, "img-00000000")


def test_a_request_with_one_signature_taken_away_is_refused(shared, group):
    machine = Machine(shared, shared.image(), group)
    for number in (0, 1):
        document = json.loads(machine.body())
        del document["signatures"][number]
        refused(shared, machine.enrol(json.dumps(document).encode()), 403, "bears 1 signatures")


def test_a_request_with_a_signature_twice_or_a_third_one_is_refused(shared, group):
    machine = Machine(shared, shared.image(), group)
    document = json.loads(machine.body())
    document["signatures"][1] = document["signatures"][0]
    refused(shared, machine.enrol(json.dumps(document).encode()), 403, "own key", machine.source)
    document["signatures"].append(document["signatures"][0])
    refused(shared, machine.enrol(json.dumps(document).encode()), 403, "bears 3 signatures")


def test_a_request_altered_after_signing_is_refused(shared, group):
    machine = Machine(shared, shared.image(), group)
    document = json.loads(machine.body())
    other = json.loads(machine.body(nonce="another"))
    document["payload"] = other["payload"]
    refused(shared, machine.enrol(json.dumps(document).encode()), 403, "altered after signing")


def test_a_request_that_proves_another_key_than_it_asks_for_is_refused(shared, group):
    machine, victim = Machine(shared, shared.image(), group), keys.generate()
    body = sign_request(
        machine.claims(se_key=keys.public_line(victim.public_key())), machine.image_key, machine.se_key
    )
    refused(shared, machine.enrol(body), 403, "own key")


def test_a_request_for_another_cluster_is_refused(shared, group):
    cluster = new_cluster_id()
    machine = Machine(shared, shared.image(), group)
    refused(shared, machine.enrol(cluster=cluster), 403, cluster)


def test_what_is_no_request_is_refused(shared):
    for body in (b"", b"{}", b"[]", b"null", b"\xff\xfe", b"{" * 5000, b'{"payload": 7, "signatures": []}'):
        answer = ask(shared, "POST", ENROL_PATH, body)
        assert answer.status == 400, (body[:20], answer)
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert ask(shared, "POST", ENROL_PATH, b"x" * (64 * 1024 + 1)).status == 413
    assert ask(shared, "POST", ENROL_PATH, b"{}", content_type="text/plain").status == 415
    wrong = ask(shared, "PUT", ENROL_PATH, b"{}")
    assert wrong.status == 405
    assert "POST" in wrong.headers["Allow"]
    assert ask(shared, "GET", "/api/serviceengine").status == 404, "operators' routes are not here"


def test_a_spent_token_with_a_new_key_is_a_conflict(shared):
    image, (meta, token) = shared.image(), shared.token()
    first = Machine(shared, image, meta["token"])
    assert first.enrol().status == 200
    event = refused(shared, Machine(shared, image, meta["token"]).enrol(), 409, token["uuid"])
    assert meta["token"] not in json.dumps(event), "a secret in an event"
    assert first.enrol().status == 200, "the machine that spent it may go on asking"


def test_a_foreign_a_false_and_a_missing_token_are_refused(shared):
    image = shared.image()
    _, foreign = new_token()
    refused(shared, Machine(shared, image, foreign).enrol(), 403)
    real = shared.token()[0]["token"]
    prefix, identity, secret = real.split(".")
    false = f"{prefix}.{identity}.{secret[::-1]}"
    refused(shared, Machine(shared, image, false).enrol(), 403, identity)
    refused(shared, Machine(shared, image, "nonsense").enrol(), 403)
    refused(shared, Machine(shared, image, None).enrol(), 403, "has no token")
    assert Machine(shared, image, real).enrol().status == 200, "the real one lost nothing"


def test_a_revoked_token_and_a_revoked_image_are_refused(shared):
    meta, token = shared.token()
    assert shared.cli("se", "token", "revoke", token["uuid"]).returncode == 0
    refused(shared, Machine(shared, shared.image(), meta["token"]).enrol(), 403, "revoked")
    lost = shared.image("lost-image")
    machine = Machine(shared, lost, shared.token()[0]["token"])
    first = machine.body()
    assert machine.enrol(first).status == 200
    assert shared.cli("image", "revoke", machine.image.image_id).returncode == 0
    refused(
        shared,
        Machine(shared, lost, shared.token()[0]["token"]).enrol(),
        403,
        "revoked",
        machine.image.image_id,
    )
    assert machine.enrol(first).status == 200, "what enrolled from it is not touched"


def test_an_expired_token_is_refused(site):
    text = site.plan.settings("controller").read_text()
    site.plan.settings("controller").write_text(
        text.replace("[registration]", "[registration]\ntoken_lifetime_s = 1")
    )
    site.start()
    meta, token = site.token()
    image = site.image()
    time.sleep(1.3)
    refused(site, Machine(site, image, meta["token"]).enrol(), 403, token["uuid"])
    [row] = site.client.get("/api/setoken")["results"]
    assert row["state"] == "expired"
    # The machine itself ends and says where to look.
    agent = site.run_engine("se-1", image=image, meta=site.write_meta("se-1", meta))
    assert agent.wait() == 1
    assert "HTTP 403" in agent.log
    assert "avinet events" in agent.log


def test_a_deleted_engine_asks_in_vain(shared, group):
    machine = Machine(shared, shared.image(), group)
    body = machine.body()
    uuid = machine.enrol(body).body["se"]
    shared.client.delete(f"/api/serviceengine/{uuid}")
    assert machine.enrol(body).status == 410


def test_a_machine_waits_for_approval_and_comes_up_after_it(site):
    site.start()
    site.apply("kind: ServiceEngineGroup\nname: careful\nenrolment_policy: approve\n")
    machine = Machine(site, site.image(), site.token(group="careful", count=2)[0]["token"])
    body = machine.body()
    pending = machine.enrol(body)
    assert (pending.status, pending.body["fingerprint"]) == (202, machine.fingerprint)
    assert int(pending.headers["Retry-After"]) > 0
    name = pending.body["name"]
    assert site.row(name)["state"] == "PENDING"
    wrong = site.cli("se", "approve", name, "--fingerprint", "SHA256:" + "A" * 43)
    assert (wrong.returncode, site.row(name)["state"]) == (4, "PENDING")
    # A real machine, approved before it asks for the second time, so that the test need not wait for that.
    agent = site.run_engine(
        "se-2", image=site.image(), meta=site.write_meta("se-2", site.token(group="careful")[0])
    )
    agent.until_logged("waits for approval", "SHA256:")
    shown = next(line for line in agent.log.splitlines() if "waits for approval" in line)
    second = next(r for r in site.rows() if r["state"] == "PENDING" and r["name"] != name)
    assert second["fingerprint"] in shown
    assert site.cli("se", "approve", name, "--fingerprint", machine.fingerprint).returncode == 0
    assert site.cli("se", "approve", second["name"]).returncode == 0
    assert machine.enrol(body).status == 200
    agent.kill()
    agent = site.run_engine("se-2")
    site.until_up(second["name"], agent)


def test_an_image_alone_enrols_as_many_as_its_group_says_and_none_is_placed(site):
    site.start()
    site.apply(
        "kind: ServiceEngineGroup\nname: open\nenrolment_policy: image\n"
        "enrolment_networks: [127.0.0.0/8]\nenrolment_count: 2\n"
        "---\nkind: ServiceEngineGroup\nname: elsewhere\nenrolment_policy: image\n"
        "enrolment_networks: [10.0.0.0/8]\nenrolment_count: 2\n"
    )
    image = site.image("open", group="open")
    agent = site.run_engine("se-1", image=image)
    row = site.until_state(until(site.rows)[0]["name"], "UP")
    assert not row["placeable"]
    version = site.apply(
        site.plan.configuration().replace("pool_ref: demo-pool", "pool_ref: demo-pool\nse_group_ref: open")
    )["version"]
    time.sleep(0.5)
    with pytest.raises(ConnectionError):
        site.get()
    assert site.cli("se", "place", row["name"]).returncode == 0
    site.serve()
    site.apply(
        site.plan.configuration().replace("pool_ref: demo-pool", "pool_ref: demo-pool\nse_group_ref: open")
    )
    site.until_up(row["name"], agent, version=version)
    site.until_served()
    assert Machine(site, image).enrol().status == 200
    refused(site, Machine(site, image).enrol(), 403, "has them all")
    refused(
        site,
        Machine(site, site.image("elsewhere", group="elsewhere")).enrol(),
        403,
        "in none of the networks",
    )


def test_the_list_and_the_description_are_there_for_all(shared):
    document = ask(shared, "GET", MEMBERSHIP_PATH)
    assert document.status == 200
    assert document.body["text"].count(b".") == 2
    described = ask(shared, "GET", "/v1/openapi.json")
    assert ENROL_PATH in described.body["paths"]


def test_only_tls_1_3_and_only_this_clusters_name(shared):
    out = subprocess.run(
        ("openssl", "s_client", "-connect", f"127.0.0.1:{shared.ports.registration}", "-tls1_2"),
        input=b"",
        capture_output=True,
        timeout=10,
        check=False,
    )
    assert b"Cipher is (NONE)" in out.stdout, out.stdout[-300:]
    context = ssl.create_default_context(cafile=str(shared.paths.root_pem))
    with (
        socket.create_connection(("127.0.0.1", shared.ports.registration), 5) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname="controller.elsewhere.avinet")


def test_a_source_that_fails_again_and_again_is_slowed_but_not_its_neighbours_with_tokens(site):
    site.start()
    image = site.image()
    bad, good = Machine(site, image, None), Machine(site, image, site.token()[0]["token"])
    good.source = bad.source
    statuses = [bad.enrol().status]
    while statuses[-1] == 403 and len(statuses) < 400:
        statuses.append(bad.enrol().status)
    assert statuses[-1] == 429, len(statuses)
    assert good.enrol().status == 200
    # Coalesced: hundreds of refusals are a few events with a count.
    assert len(site.events("ENROLMENT_REFUSED")) < 10


def test_a_token_of_an_engine_that_is_gone_is_gone_too(shared):
    made = shared.client.post("/api/serviceengine", {"name": "short-lived", "cloud": "manual"})
    shared.client.delete("/api/serviceengine/short-lived")
    answer = Machine(shared, shared.image(), made["meta_info"]["token"]).enrol()
    assert answer.status in {403, 410}, answer
    with pytest.raises(RefusedError):
        shared.row("short-lived")
