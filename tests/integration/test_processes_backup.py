"""A controller is backed up while it runs, lost, and restored into an empty folder, with real processes."""

import json

from avinet.app.cli.client import Client
from avinet.trust.files import write_private
from avinet.trust.node import ControllerPaths

PASSPHRASE = b"correct horse battery staple\n"


def test_a_restored_controller_has_its_engines_back_and_none_loses_what_it_had(site):
    site.start()
    agent = site.add_engine("se-1")
    old = site.serve()["version"]
    row = site.until_up("se-1", agent, version=old)
    site.until_served()
    secret, file = site.folder / "pass", site.folder / "c1.backup"
    write_private(secret, PASSPHRASE)
    with_secret = ("--passphrase-file", str(secret))
    made = site.cli(
        "backup", "--json", *with_secret, "--config", str(site.plan.settings("controller")), str(file)
    )
    assert made.returncode == 0, made.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(made.stdout)["root_key"] is True
    site.until_event("BACKUP_TAKEN")

    # What comes after the backup reaches the engine.
    newer = site.apply(site.plan.configuration().replace("send_interval: 2", "send_interval: 3"))["version"]
    site.until_up("se-1", agent, version=newer)
    site.controller.kill()
    assert site.get().startswith("hello from")

    state = site.folder / "restored"
    done = site.cli("restore", "--json", "--state", str(state), *with_secret, str(file))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] > newer
    assert (state / "controller.toml").read_bytes() == site.plan.settings("controller").read_bytes()

    site.state, site.paths = state, ControllerPaths(state)
    site.client = Client.unix(site.paths.api_socket)
    site.start()
    came = site.until_state("se-1", "UP")
    assert came["uuid"] == row["uuid"]
    site.until_event("RESTORED_BEHIND", "se-1")
    assert site.row("se-1")["restored_behind"] is True
    assert site.client.get("/api/status")["restored"]["version"] == old
    listed = site.engine_state("se-1") / "image" / "membership.jws"
    assert site.get().startswith("hello from")

    accepted = site.cli("config", "accept-restored", "--yes", "--wait")
    assert accepted.returncode == 0, accepted.stderr
    site.until_up("se-1", agent, version=json.loads(done.stdout)["version"] + 1)
    assert listed.read_bytes() == site.paths.membership.read_bytes()
    assert site.get().startswith("hello from")
