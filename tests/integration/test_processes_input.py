"""Bad input to processes as operators start them: each with one clear line and exit status 1, nothing half done."""

import os
import re
import shutil
import socket
import time

import pytest

from avinet.trust.image import open_image
from tests.integration.processes import free_port, until

# What else may be wrong in a file is for unit tests.
SETTINGS = [
    ("[sssh]\nport = 5\n", "[sssh]", "no such section"),
    ("[ssh]\nport = 70000\n", "[ssh] port", "65535"),
    ("[ssh\nport = 22\n", "the file", "not valid TOML"),
]
SE_SETTINGS = [
    ("[uplink]\nbackoff = 1\n", "[uplink] backoff", "no such setting"),
    ("\x00", "the file", "not valid TOML"),
]


def failed(process, *words, status=1):
    """It ended with this status and said so in words, without a traceback."""
    assert process.wait() == status, process.log[-2000:]
    for word in words:
        assert word in process.log, process.log[-2000:]
    assert "Traceback" not in process.log, process.log[-3000:]


def test_wrong_settings_are_refused_by_file_section_and_key(site):
    site.plan.folder.joinpath("bad.toml").touch()
    started = []
    for number, (text, where, why) in enumerate(SETTINGS):
        path = site.folder / f"bad-{number}.toml"
        path.write_text(text)
        started.append((site.run_controller(config=path, name=f"bad-{number}"), path, where, why))
    for number, (text, where, why) in enumerate(SE_SETTINGS):
        path = site.folder / f"bad-se-{number}.toml"
        path.write_text(text)
        started.append((site.run_engine(f"bad-se-{number}", config=path), path, where, why))
    for process, path, where, why in started:
        failed(process, str(path), where, why)
    missing = site.run_controller(config=site.folder / "nowhere.toml", name="missing")
    failed(missing, "nowhere.toml", "No such file")
    assert not site.state.exists(), "a refused start has made something"


def test_what_cannot_be_listened_on_is_named_with_its_setting_and_its_holder(site):
    for which in ("ssh", "registration", "api"):
        port = getattr(site.ports, which)
        with socket.create_server(("127.0.0.1", port)):
            process = site.run_controller(name=which)
            failed(process, f"Port {port}", f"[{which}] port", "in use by pid")
            assert re.search(rf"Port {port} .* pid \d+ \(.*python", process.log)
    reverse = site.ports.reverse
    with socket.create_server(("127.1.77.7", reverse)):
        process = site.run_controller(name="reverse")
        failed(process, f"Port {reverse} ", "[ssh] reverse_port", f"pid {os.getpid()} ", "on 127.1.77.7")
    path = site.write_settings()
    path.write_text(path.read_text().replace('bind = "127.0.0.1"', 'bind = "192.0.2.1"', 1))
    failed(site.run_controller(name="bind"), "192.0.2.1", "[ssh]")
    site.write_settings()
    site.start()  # nothing of the failed starts is in the way
    agent = site.add_engine("se-1")
    with pytest.raises(OSError, match="in use"):
        socket.create_server((site.row("se-1")["loopback"], reverse))
    until(lambda: site.cli("se", "exec", "se-1", "true").returncode == 0, why=lambda: agent.log[-2000:])


def test_a_second_controller_on_one_state_folder_is_refused(shared):
    second = shared.run_controller(name="second")
    failed(second, f"pid {shared.controller.pid}", str(shared.state), "must not share a state folder")
    assert shared.controller.running
    assert shared.client.get("/readyz")["status"] == "ok"


def test_a_second_agent_on_one_state_folder_is_refused_and_the_first_goes_on(shared):
    second = shared.run_engine("twin", state=shared.engine_state("se-0"))
    failed(
        second, f"pid {shared.agent.pid}", str(shared.engine_state("se-0")), "must not share a state folder"
    )
    assert shared.agent.running
    assert shared.row("se-0")["state"] == "UP"
    pid = (shared.engine_state("se-0") / "se.pid").read_text()
    assert int(pid) == shared.agent.pid, "the refused one took the first one's pid file"


def test_a_stale_pid_file_keeps_nobody_from_starting(site):
    """As a power cut leaves it: its number is another process's now, or it was cut short."""
    site.start()
    agent = site.add_engine("se-1")
    for text in ("1\n", ""):
        agent.kill()
        site.controller.kill()
        site.paths.pid.write_text(text)
        (site.engine_state("se-1") / "se.pid").write_text(text)
        agent = site.run_engine("se-1")
        site.start()
        site.until_up("se-1", agent)


def test_two_machines_with_copies_of_one_state_folder_are_quarantined_until_an_operator_looks(site):
    site.start()
    agent = site.add_engine("se-1")
    copy = site.engine_state("se-1-copy")
    shutil.copytree(site.engine_state("se-1"), copy, ignore=shutil.ignore_patterns("data-plane"))
    twin = site.run_engine("twin", state=copy)
    site.until_state("se-1", "QUARANTINED")
    event = site.until_event("SE_QUARANTINED", "se-1")
    assert "two machines" in event["text"]
    assert twin.running
    assert agent.running
    twin.kill()
    agent.kill()
    assert site.cli("se", "enable", "se-1").returncode == 0
    agent = site.run_engine("se-1")
    site.until_up("se-1", agent)


def test_a_machine_without_image_or_meta_info_says_what_it_needs(shared):
    failed(shared.run_engine("bare"), "--image")
    failed(shared.run_engine("bare-2", image=shared.folder / "nowhere.tar"), "nowhere.tar")
    wrong = shared.folder / "wrong.json"
    for text, why in (
        ("{}", "cluster"),
        ("[", "wrong.json"),
        ('{"cluster": 7, "controllers": []}', "cluster"),
    ):
        wrong.write_text(text)
        failed(shared.run_engine("bare-3", image=shared.image(), meta=wrong), "wrong.json", why)
    good = shared.token()[0]
    other = shared.write_meta("other", {**good, "cluster": "00000000-0000-4000-8000-000000000000"})
    failed(
        shared.run_engine("bare-4", image=shared.image(), meta=other), "00000000-0000-4000-8000-000000000000"
    )


def test_a_corrupt_image_is_refused_and_the_whole_one_then_enrols(shared):
    whole = shared.image().read_bytes()
    meta = shared.create("se-corrupt")
    middle = len(whole) // 2
    damaged = {"empty": b"", "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]}
    started = []
    for name, data in damaged.items():
        path = shared.folder / f"{name}.tar"
        path.write_bytes(data)
        started.append((path, shared.run_engine("se-corrupt", image=path, meta=meta)))
        started[-1][1].wait()
    for path, process in started:
        assert process.wait() == 1, path
    assert shared.row("se-corrupt")["state"] == "CREATING"
    log = started[0][1].log
    for path in damaged:
        assert f"{path}.tar" in log
    assert "Traceback" not in log
    agent = shared.run_engine("se-corrupt", image=shared.image(), meta=meta)
    shared.until_up("se-corrupt", agent)
    shared.stop_engine("se-corrupt")
    shared.client.delete("/api/serviceengine/se-corrupt")


def test_the_controller_of_another_cluster_or_another_root_is_not_believed(shared, sites):
    """An image of one cluster, sent to the address of another: the SE says what answers there."""
    other = sites().start()
    path = shared.create("se-astray")
    meta = shared.token(se="se-astray")[0]
    meta["controllers"] = [f"127.0.0.1:{other.ports.registration}"]
    shared.write_meta("se-astray", meta)
    agent = shared.run_engine("se-astray", image=shared.image(), meta=path)
    agent.until_logged("does not come from this cluster's root")
    assert other.rows() == []
    agent.kill()
    meta["controllers"] = [f"127.0.0.1:{shared.ports.registration}"]
    shared.write_meta("se-astray", meta)
    agent = shared.run_engine("se-astray", image=shared.image(), meta=path)
    shared.until_up("se-astray", agent)
    shared.stop_engine("se-astray")
    shared.client.delete("/api/serviceengine/se-astray")


def test_a_controllers_new_addresses_and_keys_reach_an_engine_by_the_next_list(site):
    """The list's number rises; an image with the older one still enrols and learns the newer."""
    site.start()
    image = site.image()
    old = open_image(image)
    agent = site.add_engine("se-1")
    site.controller.stop()
    # As after the loss of a node key, and on another port.
    (site.state / "trust" / "node.key").unlink()
    text = site.plan.settings("controller").read_text()
    other = free_port()
    site.plan.settings("controller").write_text(
        text.replace(f"port = {site.ports.ssh}\n", f"port = {other}\n")
    )
    site.start()
    assert site.client.get("/api/status")["membership"] > 1
    fresh = site.run_engine("se-2", image=image, meta=site.create("se-2"))
    site.until_up("se-2", fresh)
    # The one that enrolled long ago knocks at the old port, finds nobody, and asks 8443 for the list.
    site.until_up("se-1", agent, limit_s=60)
    assert open_image(image).image_id == old.image_id


def test_an_older_list_is_refused_by_an_engine_that_saw_a_newer_one(site):
    site.start()
    old = site.folder / "old-c1"
    agent = site.add_engine("se-1")
    site.controller.stop()
    shutil.copytree(site.state, old)
    path = site.plan.settings("controller")
    path.write_text(
        path.read_text().replace('addresses = ["127.0.0.1"]', 'addresses = ["127.0.0.1", "127.0.0.2"]')
    )
    site.start()
    site.until_up("se-1", agent)
    number = site.client.get("/api/status")["membership"]
    listed = site.engine_state("se-1") / "image" / "membership.jws"
    until(
        lambda: listed.read_bytes() == site.paths.membership.read_bytes(), why="it never got the newer list"
    )
    newer = listed.read_bytes()
    site.controller.stop()
    # A controller restored from an old copy serves the old list.
    shutil.rmtree(site.state)
    shutil.copytree(old, site.state)
    path.write_text(
        path.read_text().replace('addresses = ["127.0.0.1", "127.0.0.2"]', 'addresses = ["127.0.0.1"]')
    )
    site.start()
    assert site.client.get("/api/status")["membership"] < number
    site.until_state("se-1", "UP")
    time.sleep(0.5)
    assert listed.read_bytes() == newer
    agent.kill()
    agent = site.run_engine("se-1")
    site.until_up("se-1", agent)
    assert listed.read_bytes() == newer
