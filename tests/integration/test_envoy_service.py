"""Envoy as a service of its own: a launcher that a service manager (here the test) starts, and agents that adopt it."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.dataplane import envoy_process
from avinet.dataplane.envoy import EnvoyDataPlane, service_of_data_plane, stop_data_plane
from avinet.dataplane.envoy_binary import EnvoyMissingError, EnvoyUnusableError, find_envoy
from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_settings import EnvoySettings
from avinet.dataplane.envoy_start import running
from avinet.dataplane.interface import DataPlaneDownError
from avinet.dataplane.processes import command_of
from tests.integration.processes import Process, until
from tests.integration.test_envoy import Load

BY_AGENT = EnvoySettings(concurrency=1, drain_s=1)
BY_SERVICE = EnvoySettings(concurrency=1, drain_s=1, started_by="service")

try:
    find_envoy()
except (EnvoyMissingError, EnvoyUnusableError) as why:
    pytest.skip(f"needs Envoy: {why}", allow_module_level=True)


def launch(state, *options, name="envoy", folder=None):
    """What ``avinet-envoy.service`` does."""
    command = (sys.executable, "-m", "avinet.app.envoy_launch", "--state", str(state), *options)
    return Process(name, folder or state.parent, command)


def envoys_of(state):
    """Every process that is an Envoy on this state folder."""
    bootstrap = str(EnvoyFiles(state / "data-plane").bootstrap)
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if "--drain-strategy" in (words := command_of(pid)) and bootstrap in words]


def until_runs(state, process):
    def runs():
        assert process.running, process.log
        found = running(EnvoyFiles(state / "data-plane"))
        return found and found.pid == process.pid

    until(runs, why=lambda: f"it does not run: {process.log}")


def end(process):
    process.signal(signal.SIGCONT)
    process.kill()


@pytest.fixture
def state():
    folder = Path(tempfile.mkdtemp(prefix="avinet-it-"))
    state = folder / "se"
    state.mkdir(mode=0o700)
    yield state
    stop_data_plane(state / "data-plane")
    runtime = EnvoyFiles(state / "data-plane").socket.parent
    if runtime.name.startswith("avinet-"):
        shutil.rmtree(runtime, ignore_errors=True)
    shutil.rmtree(folder)


@pytest.fixture
def served(sites):
    """A site whose SE's Envoy was started by the service manager, and serves."""
    site = sites().start()
    site.write_se_settings(more='started_by = "service"\n')
    site.envoys = []

    def boot():
        """The service manager starts Envoy."""
        site.envoys.append(
            launch(site.engine_state("se-1"), "--config", str(site.plan.settings("se")), folder=site.folder)
        )
        site.processes.append(site.envoys[-1])
        return site.envoys[-1]

    site.boot = boot
    envoy = boot()
    site.agent = site.add_engine("se-1", wait=False)
    site.until_up("se-1", site.agent, version=site.serve()["version"])
    site.until_served()
    assert f"adopted Envoy, process {envoy.pid}" in site.agent.log
    assert "started Envoy" not in site.agent.log
    return site


def test_no_request_is_lost_when_the_agent_is_killed_and_the_next_one_adopts(served):
    envoy = served.envoys[0]
    load = Load(served.ports.service)
    load.start()
    for _ in range(2):
        served.agent.kill()
        served.agent = served.run_engine("se-1")
        served.until_up("se-1", served.agent)
    version = served.apply("kind: Pool\nname: another\nservers: []\n")["version"]
    served.until_up("se-1", served.agent, version=version)
    load.stopping = True
    load.join()
    assert load.answers > 10
    assert load.bad == []
    assert envoys_of(served.engine_state("se-1")) == [envoy.pid]
    assert served.agent.log.count(f"adopted Envoy, process {envoy.pid}") == 3


def test_the_agent_adopts_the_next_envoy_and_confirms_the_state_in_force(served):
    state = served.engine_state("se-1")
    served.envoys[0].kill()
    served.agent.until_logged("looking for the service manager's next one")
    # So that nothing but the agent can put the configuration in force again.
    for kind in ("lds", "cds"):
        (state / "data-plane" / kind / f"{kind}.json").unlink()
    assert envoys_of(state) == []
    second = served.boot()
    served.agent.until_logged(f"adopted Envoy, process {second.pid}")
    served.until_served()
    served.until_up("se-1", served.agent)
    assert envoys_of(state) == [second.pid]


def test_the_last_good_configuration_serves_at_a_boot_without_the_agent(served):
    served.agent.kill()
    served.controller.kill()
    served.envoys[0].kill()
    second = served.boot()
    served.until_served()
    assert envoys_of(served.engine_state("se-1")) == [second.pid]


def test_the_operator_is_told_whose_envoy_it_is_and_nothing_is_ended(served):
    envoy = served.envoys[0]
    for what in (("--data-plane",), ("--agent", "--data-plane")):
        said = served.cli("se", "stop", *what, "--state", str(served.engine_state("se-1")))
        assert said.returncode == 4
        assert "systemctl stop avinet-envoy" in said.stderr
        assert len(said.stderr.splitlines()) <= 2
    assert envoy.running
    assert served.agent.running
    assert envoy.stop() in {0, -signal.SIGTERM}
    assert service_of_data_plane(served.engine_state("se-1") / "data-plane") is None


def test_of_launchers_that_start_at_once_one_becomes_envoy_and_the_others_say_why_not(state):
    launchers = [launch(state, name=f"envoy-{number}") for number in range(4)]
    try:
        until(lambda: sum(one.running for one in launchers) == 1, why="not exactly one is left")
        (winner,) = (one for one in launchers if one.running)
        until_runs(state, winner)
        assert envoys_of(state) == [winner.pid]
        for loser in set(launchers) - {winner}:
            assert loser.wait() == 1
            (line,) = loser.log.splitlines()
            assert f"(process {winner.pid})" in line or "holds the lock" in line
    finally:
        for one in launchers:
            end(one)


def test_a_launcher_beside_an_envoy_that_forgot_its_record_and_socket_starts_none(state):
    first = launch(state)
    try:
        until_runs(state, first)
        files = EnvoyFiles(state / "data-plane")
        files.record.unlink()
        files.socket.unlink()
        second = launch(state, name="second")
        assert second.wait() == 1
        (line,) = second.log.splitlines()
        assert "holds the lock" in line
        assert envoys_of(state) == [first.pid]
    finally:
        end(first)


@pytest_twisted.ensureDeferred
async def test_an_agent_that_starts_envoy_itself_beside_a_launcher_ends_in_one_envoy(state):
    plane = EnvoyDataPlane(reactor, state / "data-plane", BY_AGENT, deferToThread)
    launchers = [launch(state, name="envoy-1")]
    told = []
    plane.on_restart(lambda: told.append(plane.pid))
    try:
        await plane.start()
        assert envoys_of(state) == [plane.pid]
        for turn in (2, 3):
            # A service manager starts its own again at the same moment.
            os.kill(plane.pid, signal.SIGKILL)
            launchers.append(launch(state, name=f"envoy-{turn}"))
            await deferToThread(until, lambda turn=turn: len(told) == turn - 1)
            assert envoys_of(state) == [told[-1]]
        beside = launch(state, name="beside")
        assert await deferToThread(beside.wait) == 1
        assert f"(process {plane.pid})" in beside.log
    finally:
        await plane.stop()
        for one in launchers:
            await deferToThread(end, one)


@pytest_twisted.ensureDeferred
async def test_an_agent_waits_for_the_service_manager_and_starts_none_itself(state):
    plane = EnvoyDataPlane(reactor, state / "data-plane", BY_SERVICE, deferToThread)
    starting = plane.start()
    await deferLater(reactor, 1.0)
    assert not starting.called
    assert envoys_of(state) == []
    envoy = launch(state)
    try:
        await starting
        assert plane.pid == envoy.pid
        assert await plane.in_force() == {}
        await plane.detach()
        assert envoy.running
    finally:
        await deferToThread(end, envoy)


@pytest_twisted.ensureDeferred
async def test_an_agent_for_whom_no_envoy_is_started_says_so_and_one_that_stops_waits_no_longer(state):
    with patch.object(envoy_process, "SERVICE_TIMEOUT_S", 0.3):
        plane = EnvoyDataPlane(reactor, state / "data-plane", BY_SERVICE, deferToThread)
        with pytest.raises(DataPlaneDownError, match="systemctl status avinet-envoy"):
            await plane.start()
    envoy = launch(state)
    try:
        await plane.start()
        await deferToThread(end, envoy)
        await deferLater(reactor, 0.5)
        assert plane.pid is None
        await plane.detach()
        envoy = launch(state, name="later")
        await deferToThread(until_runs, state, envoy)
        await deferLater(reactor, 0.5)
        assert plane.pid is None
    finally:
        await deferToThread(end, envoy)


@pytest_twisted.ensureDeferred
async def test_an_envoy_that_hangs_is_ended_and_the_next_one_adopted(state):
    plane = EnvoyDataPlane(reactor, state / "data-plane", BY_SERVICE, deferToThread)
    first = launch(state)
    try:
        await deferToThread(until_runs, state, first)
        first.signal(signal.SIGSTOP)
        # Ending it takes longer than the service manager may take.
        with patch.multiple(
            envoy_process,
            SOCKET_TIMEOUT_S=0.2,
            ADOPT_TIMEOUT_S=7.0,
            SERVICE_TIMEOUT_S=6.0,
            TERM_TIMEOUT_S=0.5,
        ):
            starting = plane.start()
            assert await deferToThread(first.wait) == -signal.SIGKILL
            second = launch(state, name="second")
            await starting
        assert plane.pid == second.pid
        await plane.stop()
        await deferToThread(end, second)
    finally:
        await deferToThread(end, first)


@pytest_twisted.ensureDeferred
async def test_a_data_plane_that_is_ended_lets_the_service_manager_start_the_next(state):
    plane = EnvoyDataPlane(reactor, state / "data-plane", BY_SERVICE, deferToThread)
    envoy = launch(state)
    try:
        await plane.start()
        await plane.stop()
        assert await deferToThread(envoy.wait) in {0, -signal.SIGTERM}
        envoy = launch(state, name="next")
        await deferToThread(until_runs, state, envoy)
    finally:
        await deferToThread(end, envoy)


def test_what_keeps_a_launcher_from_starting_is_told_in_one_line(state):
    settings = state.parent / "se.toml"
    for text, words in (
        ("[data_plane]\nstarted_by = 'me'\n", "started_by"),
        ("[data_plane]\nbinary = '/no/such/envoy'\n", "no Envoy at /no/such/envoy"),
    ):
        settings.write_text(text)
        refused = launch(state, "--config", str(settings), name="refused")
        assert refused.wait() == 1
        (line,) = refused.log.splitlines()
        assert words in line
        refused.path.unlink()
    wrong = launch(state, "--nonsense", name="wrong")
    assert wrong.wait() == 2
    (line,) = wrong.log.splitlines()
    assert "--nonsense" in line
    (state.parent / "file").touch()
    nowhere = launch(state.parent / "file", name="nowhere", folder=state.parent)
    assert nowhere.wait() == 1
    assert len(nowhere.log.splitlines()) == 1
