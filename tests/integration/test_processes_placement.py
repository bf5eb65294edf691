"""Who serves what when SEs come, go and are sent away, with real processes: moves without loss, and headless for days."""

import http.client
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_start import running
from tests.integration.processes import until
from tests.integration.test_processes_clock_and_disk import YEARS_20_S, wrong_clock  # noqa: F401 - a fixture

GROUP = """\
kind: ServiceEngineGroup
name: Default-Group
max_scaleout_per_vs: 1
down_delay_s: 0
drain_s: 1
"""


def files_of(site, name):
    return EnvoyFiles(site.engine_state(name) / "data-plane")


def envoy_of(site, name):
    return running(files_of(site, name))


def kill_machine(site, name, agent):
    """As a machine that loses its power."""
    os.kill(envoy_of(site, name).pid, signal.SIGKILL)
    agent.kill()


def stages(site):
    row = site.client.get("/api/placement/demo-web", timeout_s=5)
    return {on["name"]: on["stage"] for on in row["engines"]}


def until_placed(site, **wanted):
    wanted = {name.replace("_", "-"): stage for name, stage in wanted.items()}
    until(lambda: stages(site) == wanted, why=lambda: f"it is not {wanted} but {stages(site)}")


def serves(site, name):
    """Whether this SE's Envoy listens, whatever its controller believes."""
    lds = files_of(site, name).xds("lds").read_text()
    return str(site.ports.service) in lds


RESETS = 2
"""Engines of one machine share a port, and a connection that waits to be accepted goes down with the socket it waits at
(but with net.ipv4.tcp_migrate_req): of each socket that closes here, one at most, and only with a machine that is busy."""


class Traffic:
    """Requests on new connections, one after another, until it is ended; what failed is kept."""

    def __init__(self, site):
        self.site, self.failed, self.sent, self.reset = site, [], 0, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self._ended.is_set():
            self.sent += 1
            try:
                answer = self.site.get()
                if not answer.startswith("hello from"):
                    self.failed.append(answer)
            except ConnectionResetError as why:
                self.reset += 1
                if self.reset > RESETS:
                    self.failed.append(repr(why))
            except OSError as why:
                self.failed.append(repr(why))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._ended.set()
        self._thread.join(10)


@pytest.fixture
def pair(site):
    """Two SEs, one virtual service on one of them: (site, agents by name, holder, other)."""
    site.start()
    agents = {name: site.add_engine(name) for name in ("se-1", "se-2")}
    site.apply(GROUP)
    version = site.serve()["version"]
    for name, agent in agents.items():
        site.until_up(name, agent, version=version)
    until(lambda: "serving" in stages(site).values(), why=lambda: stages(site))
    [holder] = stages(site)
    other = next(name for name in agents if name != holder)
    return site, agents, holder, other


def test_one_that_is_gone_is_stood_in_for_and_takes_its_share_again_without_loss(pair):
    site, agents, holder, other = pair
    kill_machine(site, holder, agents[holder])
    # How soon is a figure of benchmarks.config; here it is long before a machine could be back.
    site.until_served(limit_s=10)
    until(lambda: stages(site).get(other) == "serving", why=lambda: stages(site))
    agents[holder] = site.run_engine(holder)
    site.until_state(holder, "UP")
    with Traffic(site) as traffic:
        # It settles for ten seconds; then it serves, and only then the stand-in drains and lets go.
        until(lambda: stages(site) == {holder: "serving", other: "draining"}, why=lambda: stages(site))
        until_placed(site, **{holder.replace("-", "_"): "serving"})
        until(lambda: not serves(site, other), why="the stand-in kept it")
    assert not traffic.failed, traffic.failed[:5]


def test_one_that_is_disabled_hands_over_without_a_failed_request_and_a_quarantined_one_at_once(pair):
    site, agents, holder, other = pair
    with Traffic(site) as traffic:
        done = site.cli("se", "disable", holder)
        assert "drains 1 virtual service" in done.stdout, done.stderr
        until(lambda: stages(site) == {other: "serving"}, why=lambda: stages(site))
        until(lambda: not serves(site, holder), why="it kept it")
        assert site.row(holder)["state"] == "DISABLED"
        done = site.cli("se", "enable", holder)
        assert done.returncode == 0, done.stderr
        until(lambda: stages(site) == {holder: "serving"}, why=lambda: stages(site))
        until(lambda: not serves(site, other), why="it kept it")
    assert traffic.sent > 50
    assert not traffic.failed, traffic.failed[:5]
    # Emptied and cut off.
    done = site.cli("se", "quarantine", holder, "--yes")
    assert done.returncode == 0, done.stderr
    until(lambda: stages(site) == {other: "serving"}, limit_s=3, why=lambda: stages(site))
    site.until_served(limit_s=3)
    until(lambda: not serves(site, holder), why="it serves on")
    agents[holder].until_logged("quarantined")
    assert site.row(holder)["state"] == "QUARANTINED"


def test_the_last_one_serves_on_when_it_is_disabled_and_drains_before_it_is_deleted(pair):
    site, _, holder, other = pair
    site.cli("se", "disable", other, "--now")
    site.cli("se", "disable", holder)
    until(lambda: stages(site) == {holder: "held"}, why=lambda: stages(site))
    assert "no other service engine" in site.cli("se", "show", holder).stdout
    site.until_event("VS_SHORT_OF_ENGINES", "demo-web")
    # A controller that starts meanwhile finds it so.
    site.controller.kill()
    site.start()
    site.until_state(holder, "DISABLED")
    until(lambda: stages(site) == {holder: "held"}, why=lambda: stages(site))
    assert site.get().startswith("hello from")
    with Traffic(site) as traffic:
        site.cli("se", "enable", other)
        until(lambda: stages(site) == {other: "serving"}, why=lambda: stages(site))
        until(lambda: not serves(site, holder), why="it kept it")
        site.cli("se", "enable", holder)
        until(lambda: stages(site) == {holder: "serving"}, why=lambda: stages(site))
        until(lambda: not serves(site, other), why="it kept it")

        done = site.cli("se", "delete", holder, "--yes")
    assert done.returncode == 0, done.stderr
    assert "drains 1 virtual service" in done.stderr
    assert not traffic.failed, traffic.failed[:5]
    assert [row["name"] for row in site.rows()] == [other]
    # Emptied before it was cut off: nobody answers beside the one that has it now.
    assert not serves(site, holder)
    assert holder in site.cli("se", "list", "--state", "deleted").stdout
    # The last one is not deleted behind anybody's back.
    done = site.cli("se", "delete", other, "--yes")
    assert done.returncode == 4
    assert "demo-web" in done.stderr
    site.until_served()
    done = site.cli("se", "delete", other, "--yes", "--now")
    assert done.returncode == 0, done.stderr
    assert not serves(site, other)


def test_headless_it_serves_what_it_had_whatever_restarts_and_when_every_certificate_is_over(
    site,
    wrong_clock,  # noqa: F811 - the fixture
):
    site.start()
    agent = site.add_engine("se-1")
    version = site.serve()["version"]
    site.until_up("se-1", agent, version=version)
    site.controller.kill()
    runtime = files_of(site, "se-1").socket.parent
    for _ in range(2):
        kill_machine(site, "se-1", agent)
        shutil.rmtree(runtime)
        agent = site.run_engine("se-1")
        site.until_served()
    # The agent alone, then Envoy alone.
    agent.kill()
    assert site.get().startswith("hello from")
    agent = site.run_engine("se-1")
    os.kill(envoy_of(site, "se-1").pid, signal.SIGKILL)
    time.sleep(0.2)
    site.until_served()
    # By its clock the node's certificate, the root and the list are long over.
    kill_machine(site, "se-1", agent)
    shutil.rmtree(runtime)
    agent = site.run_engine("se-1", environment=wrong_clock(YEARS_20_S))
    site.until_served()
    site.start()
    site.until_up("se-1", agent, version=version)
    version = site.apply(GROUP)["version"]
    site.until_up("se-1", agent, version=version)
    assert site.get().startswith("hello from")


@pytest.fixture
def interface():
    """One of this machine's own, which leads nowhere."""
    name = f"avt{os.getpid() % 100_000}"
    pair = ("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    made = subprocess.run(pair, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot make an interface: {made.stderr.decode()}")
    for end in (name, f"{name}p"):
        subprocess.run(("ip", "link", "set", end, "up"), check=True)
    yield name
    subprocess.run(("ip", "link", "del", name), check=True)


def addresses_of(interface):
    shown = subprocess.run(
        ("ip", "-br", "address", "show", "dev", interface), capture_output=True, check=True
    )
    return {word for word in shown.stdout.decode().split() if word.startswith(("198.51.100.", "2001:db8:"))}


def reached(site, address):
    connection = http.client.HTTPConnection(address, site.ports.service, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode().startswith("hello from")
    except OSError:
        return False
    finally:
        connection.close()


def test_an_engine_adds_the_addresses_of_its_services_and_takes_back_its_own(site, interface):
    site.start()
    agent = site.add_engine("se-1")
    subprocess.run(("ip", "address", "add", "198.51.100.9/32", "dev", interface), check=True)
    site.apply(f"{GROUP}vip_interface: {interface}\n")
    site.serve()
    vips = ("198.51.100.7", "198.51.100.9", "2001:db8::7")
    listed = ", ".join(f'{{ip_address: "{address}"}}' for address in vips)
    text = site.plan.configuration().replace("[{ip_address: 127.0.0.1}]", f"[{listed}]")
    site.until_up("se-1", agent, version=site.apply(text)["version"])
    mine = {"198.51.100.7/32", "2001:db8::7/128"}
    assert addresses_of(interface) == mine | {"198.51.100.9/32"}
    for address in vips:
        until(lambda address=address: reached(site, address), why=f"{address} does not answer")
    # Somebody takes one away: it is noticed and put back. A machine that boots has none: they come before Envoy.
    site.controller.kill()
    kill_machine(site, "se-1", agent)
    subprocess.run(("ip", "address", "del", "198.51.100.7/32", "dev", interface), check=True)
    agent = site.run_engine("se-1")
    until(lambda: reached(site, "198.51.100.7"), why="a restarted engine has no address")
    site.start()
    site.until_up("se-1", agent)
    # An interface that there is not is refused, and what served serves.
    site.apply(f"{GROUP}vip_interface: nowhere0\n")
    new = text.replace("198.51.100.9", "198.51.100.8")
    site.apply(new)
    site.until_event("CONFIG_NACKED", "no such interface")
    assert reached(site, "198.51.100.7")
    version = site.apply(f"{GROUP}vip_interface: {interface}\n")["version"]
    site.until_up("se-1", agent, version=version)
    assert addresses_of(interface) == mine | {"198.51.100.8/32", "198.51.100.9/32"}
    # What it put there goes with it; what an administrator put there stays.
    done = site.cli("se", "disable", "se-1", "--now")
    assert done.returncode == 0, done.stderr
    until(lambda: addresses_of(interface) == {"198.51.100.9/32"}, why=lambda: addresses_of(interface))
