"""The main job with real processes: enrol, serve, lose one part after another, and go on."""

import os
import signal
import time

import pytest

from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_start import running
from tests.integration.processes import until

IN_SYNC_WITHIN_S = 15.0


def envoy_of(site, name):
    return running(EnvoyFiles(site.engine_state(name) / "data-plane"))


def test_a_machine_enrols_and_serves(shared):
    row = shared.row("se-0")
    assert (row["state"], row["in_sync"], row["version"]) == ("UP", True, shared.version)
    channel = row["secure_channel"]
    assert (channel["kex"], channel["strict"]) == ("mlkem768x25519-sha256", True)
    assert {channel["cipher_in"], channel["cipher_out"]} == {"aes256-gcm@openssh.com"}
    assert (channel["address"], channel["peer"], channel["mac_in"]) == (
        "127.0.0.1",
        "SSH-2.0-avinet",
        "implicit",
    )
    shown = shared.cli("se", "show", "se-0").stdout
    assert "mlkem768x25519-sha256" in shown
    servers = {shared.get() for _ in range(20)}
    assert servers == {"hello from backend-1", "hello from backend-2"}
    # What enrolment needed and nothing else does is gone from the machine.
    state = shared.engine_state("se-0")
    assert not (state / "image" / "image.key").exists()
    assert "avt1." not in (state / "enrolment" / "meta-info.json").read_text()


def test_the_controller_dies_and_traffic_goes_on_headless_until_it_is_back_in_sync(site):
    site.start()
    agent = site.add_engine("se-1")
    version = site.serve()["version"]
    site.until_up("se-1", agent, version=version)
    assert site.get().startswith("hello from"), "in sync means that it serves"
    site.controller.kill()
    assert site.get().startswith("hello from")
    # Restarted meanwhile, agent and data plane both: it serves what it had last.
    agent.kill()
    assert site.get().startswith("hello from")
    envoy = envoy_of(site, "se-1")
    os.kill(envoy.pid, signal.SIGKILL)
    agent = site.run_engine("se-1")
    site.until_served()
    assert envoy_of(site, "se-1") != envoy
    site.start()
    started = time.monotonic()
    row = site.until_up("se-1", agent, limit_s=IN_SYNC_WITHIN_S, version=version)
    assert time.monotonic() - started < IN_SYNC_WITHIN_S
    assert row["version"] == version
    assert site.get().startswith("hello from")


def test_an_agents_end_leaves_its_envoy_and_the_operator_ends_that_too(site):
    site.start()
    agent = site.add_engine("se-1")
    site.until_up("se-1", agent, version=site.serve()["version"])
    site.until_served()
    envoy = envoy_of(site, "se-1")
    refused = site.cli("se", "stop", "--data-plane", "--state", str(site.engine_state("se-1")))
    assert refused.returncode == 4
    assert str(agent.pid) in refused.stderr
    assert agent.stop() == -signal.SIGTERM  # as twistd ends once it has stopped in good order
    assert site.get().startswith("hello from")
    agent = site.run_engine("se-1")
    site.until_up("se-1", agent)
    assert envoy_of(site, "se-1") == envoy, "the next agent adopts it"
    assert agent.stop() == -signal.SIGTERM  # as twistd ends once it has stopped in good order
    ended = site.cli("se", "stop", "--data-plane", "--state", str(site.engine_state("se-1")))
    assert (ended.returncode, str(envoy.pid) in ended.stdout) == (0, True), ended.stderr
    assert envoy_of(site, "se-1") is None
    with pytest.raises(ConnectionError):
        site.get()


def test_a_silent_engine_is_down_within_its_heartbeats_and_up_again_when_it_answers(site):
    site.start()
    agent = site.add_engine("se-1")
    agent.signal(signal.SIGSTOP)
    started = time.monotonic()
    site.until_state("se-1", "DOWN", limit_s=5)
    # 0.2 s x 5, and as much again for a busy machine.
    assert time.monotonic() - started < 3
    site.until_event("SE_DOWN", "se-1")
    agent.signal(signal.SIGCONT)
    site.until_up("se-1", agent, limit_s=IN_SYNC_WITHIN_S)


def test_a_deleted_engine_is_cut_off_and_stays_out(site):
    site.start()
    agent = site.add_engine("se-1")
    uuid = site.row("se-1")["uuid"]
    until(lambda: uuid in site.paths.aviseuser_keys.read_text(), why="its key never was in the file")
    done = site.cli("se", "delete", "--yes", "se-1")
    assert done.returncode == 0, done.stderr
    assert site.cli("se", "show", "se-1").returncode == 3
    until(lambda: uuid not in site.paths.aviseuser_keys.read_text(), why="its key is still in the file")
    assert site.rows() == []
    agent.until_logged("is not reached", "deleted")
    # It comes back, knocks, and is nobody.
    site.until_event("SSH_LOGIN_REFUSED")
    agent.kill()
    agent = site.run_engine("se-1")
    agent.until_logged("is not reached")
    assert site.rows() == []
