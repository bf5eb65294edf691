"""What the OpenAPI document says, asked of a real controller by schemathesis: for every operation, requests that the
document allows and requests that it does not, with a bound on their number and on the time.

What is not asked of it: that whatever fits a schema is accepted.  Names must be free, references must exist, a key must
match its certificate; no schema says so.
"""

import http.client
import json
import ssl
import subprocess
import sys

import pytest

from tests.integration.processes import Site

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

LIMIT_S = 240
EXAMPLES = 4
"""An operation and phase.  Most of some 5,000 requests are the coverage phase's, whose number is the document's."""
TENANT = "X-Avi-Tenant"
SETTINGS = """
[checks]
positive_data_acceptance.enabled = false
# Each wrong login draws on this source's budget, after which it is told to wait; see the last test here.
ignored_auth.enabled = false
unsupported_method.enabled = true

# The router refuses them alike on every path.
[phases.coverage]
unexpected-methods = ["TRACE", "DELETE"]

# What is put has the schema of what is posted, and no object has the UUID that is made up here: it is not read.
[[operations]]
include-method = ["PUT", "PATCH"]
include-path-regex = "^/api/[a-z]+/[{]uuid[}]$"
phases.coverage.enabled = false

[checks.not_a_server_error]
# 503: a service engine that is asked is not connected.
expected-statuses = ["2xx", "3xx", "4xx", 503]

[checks.negative_data_rejection]
# That a version is gone or was overtaken is told before the rest is looked at.
expected-statuses = [400, 401, 403, 404, 405, 409, 410, 412, 413, 415, 428, 429]
"""
LEFT_OUT = (
    "/api/events",  # streams that never end, when they are asked to
    "/api/audit",
    "/api/logs/tail",
    "/logout",
    "/api/accesstoken/{uuid}",  # it finds its own in the list and revokes it; what it asks then is refused unread
    "/api/image",  # each builds one, which takes a second
)


def document_of(site):
    """What the controller says, with the header that all operations share on one path: it is read in one place."""
    document = site.client.get("/openapi.json")
    for path, methods in document["paths"].items():
        for operation in methods.values() if path != "/api/pool" else ():
            operation["parameters"] = [p for p in operation.get("parameters", ()) if p.get("name") != TENANT]
    return document


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("openapi"))
    settings = site.plan.settings("controller")
    text = settings.read_text().replace("[api]\n", "[api]\nrequests_burst = 100000\nrequests_per_s = 10000\n")
    settings.write_text(text)
    try:
        yield site.start()
    finally:
        site.close()


def test_a_real_controller_does_what_its_document_says(site):
    done = site.cli("access-token", "create", "--name", "fuzz", "--json")
    bearer = json.loads(done.stdout)["secret"]
    path = site.folder / "openapi.json"
    path.write_text(json.dumps(document_of(site)))
    settings = site.folder / "schemathesis.toml"
    settings.write_text(SETTINGS)
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    arguments = [
        *(sys.executable, "-c", program, "--config-file", str(settings), "run", str(path)),
        *("--url", f"https://localhost:{site.ports.api}", "--tls-verify", str(site.paths.root_pem)),
        *("--header", f"Authorization: Bearer {bearer}"),
        *("--max-examples", str(EXAMPLES), "--seed", "1"),
        *("--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color"),
    ]
    for left_out in LEFT_OUT:
        arguments += ["--exclude-path", left_out]
    run = subprocess.run(
        arguments, cwd=site.folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert run.returncode == 0, run.stdout[-12000:] + run.stderr[-2000:]
    assert "Rate limited" not in run.stdout, run.stdout[-12000:]
    assert "Unmatched filters" not in run.stdout, run.stdout[-12000:]
    assert site.controller.running


def test_the_document_names_every_operation_its_role_and_its_shapes(site):
    document = site.client.get("/openapi.json")
    assert site.client.get("/api/openapi.json") == document
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["security"]:
                assert operation["x-role"] in {"read-only", "operator", "admin"}, (method, path)
    pool = document["components"]["schemas"]["PoolInput"]
    assert pool["additionalProperties"] is False
    assert pool["required"] == ["name"]
    post = document["paths"]["/api/pool"]["post"]
    assert post["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/PoolInput")
    assert post["x-role"] == "operator"


def test_nothing_but_logins_and_health_is_for_everybody(site):
    document = site.client.get("/openapi.json")
    context = ssl.create_default_context(cafile=str(site.paths.root_pem))
    connection = http.client.HTTPSConnection("localhost", site.ports.api, context=context, timeout=10)
    for_everybody = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            connection.request(method.upper(), path.replace("{", "").replace("}", ""))
            answer = connection.getresponse()
            answer.read()
            assert (answer.status == 401) == bool(operation["security"]), (method, path, answer.status)
            if not operation["security"]:
                for_everybody.add(path)
    connection.close()
    assert for_everybody == {"/healthz", "/readyz", "/login", "/api/initial-data", "/root.pem"}
