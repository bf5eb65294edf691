"""The published Avi SDK against a real controller, over TLS, with the cluster's root as its only CA."""

import json

import pytest

from avinet.trust.files import read_private
from tests.integration.processes import Site

avi_api = pytest.importorskip("avi.sdk.avi_api", reason="avisdk is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("sdk"))
    try:
        yield site.start()
    finally:
        site.close()


@pytest.fixture(autouse=True)
def no_other_roots(monkeypatch):
    """requests prefers these to the SDK's own ``verify`` for everything but the login."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def api(site):
    avi_api.ApiSession.clear_cached_sessions()
    return session(site)


def session(site, **given):
    password = read_private(site.paths.admin_password).decode().strip()
    wish = {"tenant": "admin", "verify": str(site.paths.root_pem), "api_version": "22.1.3", **given}
    return avi_api.ApiSession.get_session(f"https://localhost:{site.ports.api}", "admin", password, **wish)


POOL = {"name": "sdk-pool", "servers": [{"ip": {"addr": "127.0.0.1", "type": "V4"}, "port": 9}]}


def test_a_pool_is_made_read_changed_listed_and_deleted(api):
    made = api.post("pool", POOL)
    assert made.status_code in {200, 201}, made.text
    pool = api.get_object_by_name("pool", "sdk-pool")
    assert pool["servers"][0]["ip"]["addr"] == "127.0.0.1"
    assert api.get_obj_ref(pool).endswith(pool["uuid"])
    pool["servers"][0]["enabled"] = False
    assert api.put("pool/" + pool["uuid"], pool).status_code == 200
    assert api.get("pool/" + pool["uuid"]).json()["servers"][0]["enabled"] is False
    stale = api.put("pool/" + pool["uuid"], pool)
    assert stale.status_code == 412
    assert api.get("pool?name=sdk-pool").json()["count"] == 1
    assert api.get("pool", params={"name": "no-such"}).json() == {"count": 0, "results": []}
    assert api.put_by_name("pool", "sdk-pool", api.get_object_by_name("pool", "sdk-pool")).status_code == 200
    assert api.delete_by_name("pool", "sdk-pool").status_code in {200, 204}
    assert api.get_object_by_name("pool", "sdk-pool") is None


def test_a_virtual_service_refers_to_its_pool_as_playbooks_write_it(api):
    assert api.post("pool", {**POOL, "name": "sdk-web"}).status_code == 201
    wish = {
        "name": "sdk-vs",
        "vip": [{"ip_address": {"addr": "127.0.0.1", "type": "V4"}}],
        "services": [{"port": 18080}],
        "pool_ref": "/api/pool?name=sdk-web",
    }
    made = api.post("virtualservice", wish)
    assert made.status_code == 201, made.text
    assert "sdk-web" in made.json()["pool_ref"]
    in_use = api.delete_by_name("pool", "sdk-web")
    assert in_use.status_code == 409
    assert "sdk-vs" in in_use.text
    assert api.delete_by_name("virtualservice", "sdk-vs").status_code == 200
    assert api.delete_by_name("pool", "sdk-web").status_code == 200


def test_what_is_wrong_is_told_as_the_sdk_expects(api):
    bad = api.post("pool", {"name": "sdk-bad", "servers": [{"ip": {"addr": "non sense"}}], "surprise": 1})
    assert 400 <= bad.status_code < 500
    assert "surprise" in bad.text
    assert "servers[0].ip.addr" in bad.text
    with pytest.raises(avi_api.APIError):
        bad.json()
    with pytest.raises(avi_api.ObjectNotFound):
        api.get("pool/no-such").json()
    with pytest.raises(avi_api.ObjectNotFound):
        api.delete_by_name("pool", "no-such")
    assert api.get("pool", tenant="finance").status_code == 400


def test_a_wrong_password_is_an_api_error_at_once(site):
    with pytest.raises(avi_api.APIError, match="401"):
        avi_api.ApiSession(
            f"https://localhost:{site.ports.api}", "admin", "wrong", verify=str(site.paths.root_pem)
        )


def test_a_session_that_ended_is_begun_anew_by_the_sdk(site, api):
    assert api.get("pool").status_code == 200
    site.controller.stop()  # sessions live in memory
    site.start()
    assert api.post("pool", {**POOL, "name": "sdk-after"}).status_code == 201
    assert api.delete_by_name("pool", "sdk-after").status_code == 200


def test_a_logout_ends_the_cookie(site, api):
    before = dict(api.cookies)
    assert api.post("logout").status_code == 200
    cookies = "; ".join(f"{name}={value}" for name, value in before.items())
    import http.client
    import ssl

    context = ssl.create_default_context(cafile=str(site.paths.root_pem))
    connection = http.client.HTTPSConnection("localhost", site.ports.api, context=context, timeout=10)
    connection.request("GET", "/api/pool", headers={"Cookie": cookies})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["reason"]) == (401, "session-ended")
    assert "Basic" not in answer.headers["WWW-Authenticate"]
    connection.close()
