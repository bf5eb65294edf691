"""Users, tokens and the audit of a real controller, by the ``avinet`` program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avinet.trust.files import write_private
from tests.integration.processes import Site

PASSWORD = "correct horse 7"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("operators"))
    try:
        yield site.start()
    finally:
        site.close()


def cli(site, *arguments, text=None, status=0, **environment):
    """The program over the UNIX socket, or as its options say; its stdout."""
    done = site.cli(*arguments, environment=environment, input=text)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def remote(site, user):
    return (
        *("--api", f"https://localhost:{site.ports.api}", "--ca", str(site.paths.root_pem)),
        *("--user", user),
    )


def test_roles_bound_what_a_user_may(site):
    cli(site, "user", "create", "olga", "--role", "operator", text=f"{PASSWORD}\n")
    cli(site, "user", "create", "rosa", "--new-password-file", "-", text=f"{PASSWORD}\n")
    pool = site.folder / "pool.yaml"
    pool.write_text("kind: Pool\nname: p\nservers: [{ip: 127.0.0.1, port: 9}]\n")
    apply = ("config", "apply", "-f", str(pool))
    cli(site, *remote(site, "olga"), *apply, AVINET_PASSWORD=PASSWORD)
    said = cli(site, *remote(site, "rosa"), *apply, AVINET_PASSWORD=PASSWORD, status=6)
    assert "operator" in said
    assert "rosa" in said
    cli(site, *remote(site, "olga"), "user", "list", AVINET_PASSWORD=PASSWORD, status=6)
    cli(site, "user", "role", "rosa", "operator")
    cli(site, *remote(site, "rosa"), *apply, AVINET_PASSWORD=PASSWORD)
    cli(site, "user", "disable", "rosa")
    cli(site, *remote(site, "rosa"), "status", AVINET_PASSWORD=PASSWORD, status=6)
    rows = {row["name"]: row for row in json.loads(cli(site, "user", "list", "--json"))["results"]}
    assert [rows[name]["role"] for name in ("admin", "olga", "rosa")] == ["admin", "operator", "operator"]


def test_the_initial_admin_changes_the_password_and_its_file_goes(site):
    initial = site.paths.admin_password
    old = initial.read_text().strip()
    new = site.folder / "new-password"
    write_private(new, f"{PASSWORD}!\n".encode())
    change = ("user", "password", "admin", "--new-password-file", str(new))
    cli(site, *remote(site, "admin"), *change, text=f"{old}\n", AVINET_PASSWORD=old)
    assert not initial.exists()
    cli(site, *remote(site, "admin"), "status", AVINET_PASSWORD=old, status=6)
    site.controller.stop()
    site.start()
    cli(site, *remote(site, "admin"), "status", AVINET_PASSWORD=f"{PASSWORD}!")
    said = cli(site, "user", "delete", "admin", "--yes", status=4)
    assert "last admin" in said


def test_a_token_works_from_curl_until_it_is_revoked(site):
    made = json.loads(cli(site, "access-token", "create", "--name", "ci", "--role", "read-only", "--json"))
    url = f"https://localhost:{site.ports.api}"

    def curl(*arguments):
        command = ("curl", "-sS", "--cacert", str(site.paths.root_pem), "-o", "-", "-w", "\n%{http_code}")
        bearer = ("-H", f"Authorization: Bearer {made['secret']}")
        done = subprocess.run(
            (*command, *bearer, *arguments), capture_output=True, text=True, timeout=20, check=False
        )
        return done.stdout.rpartition("\n")[::2]

    body, status = curl(f"{url}/api/pool")
    assert (status, json.loads(body)["results"][0]["name"]) == ("200", "p")
    body, status = curl("-X", "POST", "-H", "Content-Type: application/json", "-d", "{}", f"{url}/api/pool")
    assert (status, json.loads(body)["reason"]) == ("403", "role-needed")
    cli(site, "access-token", "revoke", "ci", "--yes")
    assert curl(f"{url}/api/pool")[1] == "401"
    for file in (site.controller.path, site.paths.audit, site.paths.store):
        assert made["secret"].encode() not in file.read_bytes()


def test_the_audit_names_who_did_what(site):
    found = json.loads(cli(site, "audit", "--user", "olga", "--json"))["results"]
    assert [(e["method"], e["path"], e["outcome"]) for e in found][:1] == [("POST", "/api/config", "done")]
    assert found[0]["object"].startswith("version ")
    refused = [e for e in json.loads(cli(site, "audit", "--json"))["results"] if e["reason"] == "role-needed"]
    assert {e["user"] for e in refused} >= {"rosa", "olga", "local"}
    assert "olga" in cli(site, "audit", "--since", "0")


def test_the_audit_follows(site):
    script = "from avinet.app.cli.main import main; main()"
    arguments = ("--state", str(site.state), "audit", "--follow", "--json")
    with subprocess.Popen(
        (sys.executable, "-c", script, *arguments), stdout=subprocess.PIPE, text=True
    ) as following:
        try:
            assert following.stdout.readline()
            cli(site, "user", "enable", "rosa")
            while (entry := json.loads(following.stdout.readline()))["path"] != "/api/user/rosa/enable":
                pass
            assert (entry["user"], entry["source"], entry["object"]) == ("local", "", "rosa")
        finally:
            following.kill()


class Away:
    """Somebody on another machine, who has a configuration folder and nothing else."""

    def __init__(self, site):
        self.site = site
        self.url = f"https://localhost:{site.ports.api}"
        self.config = site.folder / "away"
        self.file = self.config / "avinet" / "login.json"

    def cli(self, *arguments, **kwargs):
        return cli(
            self.site, *arguments, AVINET_STATE="", AVINET_API="", XDG_CONFIG_HOME=str(self.config), **kwargs
        )


def test_a_login_pins_the_root_and_keeps_a_token(site):
    away = Away(site)
    openssl = ("openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(site.paths.root_pem))
    shown = subprocess.run(openssl, capture_output=True, text=True, check=True).stdout.strip()
    fingerprint = shown.partition("=")[2]
    wrong = fingerprint[:-2] + ("00" if fingerprint[-2:] != "00" else "11")
    login = ("login", away.url, "--user", "olga")
    said = away.cli(*login, "--fingerprint", wrong, text=f"{PASSWORD}\n", status=6)
    assert fingerprint in said
    assert "--fingerprint" in away.cli(*login, text=f"{PASSWORD}\n", status=2)
    away.cli(*login, "--fingerprint", fingerprint, text="wrong password\n", status=6)
    assert not away.file.exists()
    said = away.cli(*login, "--fingerprint", fingerprint.replace(":", "").lower(), text=f"{PASSWORD}\n")
    assert "olga (operator)" in said
    assert away.file.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in away.file.read_text()
    assert json.loads(away.cli("status", "--json"))["name"] == site.name
    away.cli("user", "list", status=6)  # an operator's login


def test_another_root_later_is_refused_and_named(site):
    away = Away(site)
    other = site.folder / "other"
    made = json.loads(cli(site, "--state", str(other), "init", "--json"))
    login = json.loads(away.file.read_text())
    good = dict(login)
    login["root"], login["fingerprint"] = Path(made["root_ca"]).read_text(), made["root_fingerprint"]
    write_private(away.file, json.dumps(login).encode())
    said = away.cli("status", status=6)
    assert made["root_fingerprint"] in said
    assert "logout" in said
    write_private(away.file, json.dumps(good).encode())
    away.cli("status")


def test_a_logout_ends_the_token(site):
    away = Away(site)
    token = json.loads(away.file.read_text())["token_id"]
    away.cli("logout")
    assert not away.file.exists()
    rows = json.loads(cli(site, "access-token", "list", "--json"))["results"]
    assert token not in {row["uuid"] for row in rows}
    away.cli("logout", status=2)


def test_shells_are_told_how_to_complete(site):
    for shell in ("bash", "zsh", "fish"):
        assert "_AVINET_COMPLETE" in cli(site, "completion", shell)
    asked = {"_AVINET_COMPLETE": "bash_complete", "COMP_WORDS": "avinet access-token re", "COMP_CWORD": "2"}
    program = "import sys; sys.argv[0] = 'avinet'; from avinet.app.cli.main import main; main()"
    done = subprocess.run(
        (sys.executable, "-c", program),
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["plain,revoke"]
