"""A real Envoy: configuration switched under load, refused whole, adopted, restarted, ended."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.dataplane.envoy import EnvoyDataPlane, stop_data_plane
from avinet.dataplane.envoy_binary import EnvoyMissingError, EnvoyUnusableError, find_envoy
from avinet.dataplane.envoy_check import EnvoyCheck
from avinet.dataplane.envoy_settings import EnvoySettings
from avinet.dataplane.interface import DataPlaneDownError, RejectedError
from avinet.dataplane.processes import identify
from avinet.model.config import (
    HealthMonitor,
    HealthMonitorType,
    HttpMonitor,
    IpAddr,
    IpAddrType,
    Pool,
    Server,
    Service,
    Vip,
    VirtualService,
)
from avinet.model.fence import Fence
from avinet.model.ids import ConfigVersion
from avinet.model.resources import Resource, hashes_of, state_hash
from avinet.se.applier import Applier
from avinet.se.config_files import ConfigFiles
from avinet.wire.messages import Ack, ConfigEnd, ConfigPut, ConfigStart

SETTINGS = EnvoySettings(concurrency=2, drain_s=1, apply_timeout_s=20)

try:
    find_envoy()
except (EnvoyMissingError, EnvoyUnusableError) as why:
    pytest.skip(f"needs Envoy: {why}", allow_module_level=True)


def free_port():
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port >= 20000:
            return port


class Backend:
    """Answers with its name; can be told to fail its health check."""

    def __init__(self, name, port=0):
        backend = self
        self.healthy = True
        self.hosts = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                backend.hosts.append((self.path, self.headers["host"], self.headers.get("x-forwarded-for")))
                body = name.encode()
                self.send_response(500 if self.path == "/health" and not backend.healthy else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def resource(kind, thing):
    return Resource(f"{kind}/{thing.uuid}", msgspec.msgpack.encode(thing))


def make_state(
    vip_port, servers, *, monitor="http", vip="127.0.0.1", name="1", request="GET /health HTTP/1.1"
):
    """One virtual service with its pool and monitor; ``servers`` are ports or (address, port)."""
    found = []
    for server in servers:
        address, port = server if isinstance(server, tuple) else ("127.0.0.1", server)
        kind = IpAddrType.V4 if address[0].isdigit() else IpAddrType.DNS
        found.append(Server(ip=IpAddr(addr=address, type=kind), port=port))
    things = [
        resource(
            "virtualservice",
            VirtualService(
                uuid=f"virtualservice-{name}",
                name="v",
                vip=(Vip(ip_address=IpAddr(addr=vip)),),
                services=(Service(port=vip_port),),
                pool_ref=f"pool-{name}",
                se_group_ref="serviceenginegroup-1",
            ),
        ),
        resource(
            "pool",
            Pool(
                uuid=f"pool-{name}",
                name="p",
                servers=tuple(found),
                health_monitor_refs=(f"healthmonitor-{name}",) if monitor else (),
            ),
        ),
    ]
    if monitor:
        http = monitor == "http"
        things.append(
            resource(
                "healthmonitor",
                HealthMonitor(
                    uuid=f"healthmonitor-{name}",
                    name="h",
                    type=HealthMonitorType.HTTP if http else HealthMonitorType.TCP,
                    send_interval=0.2,
                    receive_timeout=1,
                    successful_checks=1,
                    failed_checks=1,
                    http_monitor=HttpMonitor(http_request=request) if http else None,
                ),
            )
        )
    return {thing.name: thing for thing in things}


def digests(state):
    return hashes_of(state.values())


def get(port, *, timeout=5.0):
    """(status, body) of one request on a connection of its own.  Blocking: for a thread."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def fetch(port):
    return deferToThread(get, port)


async def until(condition, seconds=10.0):
    """Wait for ``condition``, an async callable, to hold."""
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, "it did not come true in time"
        await deferLater(reactor, 0.05)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


class Load(threading.Thread):
    """Requests one after another until told to stop: alternately on new and kept connections."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.stopping = False
        self.answers = 0
        self.bad = []

    def run(self):
        kept = None
        while not self.stopping:
            try:
                status, _ = get(self.port)
                if status != 200:
                    self.bad.append(status)
                kept = kept or HTTPConnection("127.0.0.1", self.port, timeout=5)
                kept.request("GET", "/kept")
                response = kept.getresponse()
                response.read()
                if response.status != 200:
                    self.bad.append(response.status)
                self.answers += 2
            except (OSError, HTTPException) as failure:
                self.bad.append(repr(failure))
                kept = None
        if kept is not None:
            kept.close()

    async def finish(self):
        self.stopping = True
        await deferToThread(self.join)


class Bench:
    """What a test has started, and how it ends."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="avinet-test-"))
        self.planes = []
        self.backends = []

    def plane(self, name="a", settings=SETTINGS):
        plane = EnvoyDataPlane(reactor, self.folder / name, settings, deferToThread)
        self.planes.append(plane)
        return plane

    def backend(self, name, port=0):
        backend = Backend(name, port)
        self.backends.append(backend)
        return backend

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for plane in self.planes:
            await plane.stop()
        for name in {p.name for p in self.folder.iterdir()}:
            note = self.folder / name / "runtime"
            if note.exists():
                shutil.rmtree(note.read_text().strip(), ignore_errors=True)
        for backend in self.backends:
            await deferToThread(backend.close)
        shutil.rmtree(self.folder)


@pytest_twisted.ensureDeferred
async def test_a_state_is_served_reported_and_counted():
    async with Bench() as bench:
        one, two = bench.backend("one"), bench.backend("two")
        plane, port = bench.plane(), free_port()
        await plane.start()
        assert plane.description.startswith("envoy 1.")
        assert await plane.in_force() == {}
        state = make_state(port, [one.port, two.port])
        await plane.apply(state)
        answers = {(await fetch(port))[1] for _ in range(8)}
        assert answers == {"one", "two"}
        assert await plane.in_force() == digests(state)
        status = await plane.status()
        assert abs(status.started_at - time.time()) < 60
        assert {(s.pool, s.server, s.up) for s in status.servers} == {
            ("pool/pool-1", f"127.0.0.1:{one.port}", True),
            ("pool/pool-1", f"127.0.0.1:{two.port}", True),
        }
        (counters,) = status.services
        assert (counters.service, counters.requests, counters.errors_5xx) == (
            "virtualservice/virtualservice-1",
            8,
            0,
        )
        assert counters.bytes_in > 0
        assert counters.bytes_out > 0
        asked = [host for host in one.hosts if host[0] == "/"]
        assert asked[0][1] == f"127.0.0.1:{port}"
        assert asked[0][2]  # X-Forwarded-For; for a client on loopback Envoy writes the host's own address


@pytest_twisted.ensureDeferred
async def test_files_are_for_their_owner_only_and_the_socket_path_is_short():
    async with Bench() as bench:
        plane = bench.plane("a" * 90)
        await plane.start()
        folder = bench.folder / ("a" * 90)
        for path in folder.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0 or path.name == "envoy.log", path
        runtime = Path((folder / "runtime").read_text().strip())
        assert (mode_of(runtime), mode_of(runtime / "admin.sock")) == (0o700, 0o600)


@pytest_twisted.ensureDeferred
async def test_no_request_is_lost_while_the_configuration_changes():
    async with Bench() as bench:
        backends = [bench.backend(str(i)) for i in range(3)]
        plane, port = bench.plane(), free_port()
        await plane.start()
        await plane.apply(make_state(port, [backends[0].port]))
        load = Load(port)
        load.start()
        for turn in range(6):
            some = [backends[turn % 3].port, backends[(turn + 1) % 3].port]
            state = make_state(port, some)
            await plane.apply(state)
            assert await plane.in_force() == digests(state)
        await deferLater(reactor, 1.5)  # the old listeners' drain ends
        await load.finish()
        assert load.answers > 100
        assert load.bad == []


@pytest_twisted.ensureDeferred
async def test_new_servers_get_no_request_before_they_were_checked():
    async with Bench() as bench:
        good, sick = bench.backend("good"), bench.backend("sick")
        sick.healthy = False
        plane, port = bench.plane(), free_port()
        await plane.start()
        await plane.apply(make_state(port, [good.port]))
        await plane.apply(make_state(port, [good.port, sick.port]))
        assert {(await fetch(port))[1] for _ in range(10)} == {"good"}


@pytest_twisted.ensureDeferred
async def test_a_pool_without_a_healthy_server_answers_503_at_once_and_says_why():
    async with Bench() as bench:
        backend = bench.backend("one")
        backend.healthy = False
        plane, port = bench.plane(), free_port()
        await plane.start()
        await plane.apply(make_state(port, [backend.port]))
        began = time.monotonic()
        assert (await fetch(port))[0] == 503
        assert time.monotonic() - began < 1
        status = await plane.status()
        assert [(s.up, s.reason) for s in status.servers] == [(False, "fails its health check")]
        assert status.services[0].errors_5xx == 1
        backend.healthy = True

        async def serves():
            return (await fetch(port))[0] == 200

        await until(serves)


@pytest_twisted.ensureDeferred
async def test_a_pool_without_servers_and_one_whose_server_is_gone_answer_503():
    async with Bench() as bench:
        plane, port, other = bench.plane(), free_port(), free_port()
        await plane.start()
        state = make_state(port, [], monitor=None) | make_state(other, [free_port()], monitor=None, name="2")
        await plane.apply(state)
        assert (await fetch(port))[0] == 503
        assert (await fetch(other))[0] == 503


@pytest_twisted.ensureDeferred
async def test_a_tcp_monitor_and_a_server_by_name_work():
    async with Bench() as bench:
        backend = bench.backend("named")
        plane, port = bench.plane(), free_port()
        await plane.start()
        state = make_state(port, [("localhost", backend.port), ("no-such-host.invalid", 80)], monitor="tcp")
        await plane.apply(state)

        async def serves():
            return await fetch(port) == (200, "named")

        await until(serves)
        servers = {s.server: s for s in (await plane.status()).servers}
        assert servers[f"localhost:{backend.port}"].up
        assert servers["no-such-host.invalid:80"].reason == "its name does not resolve"


@pytest_twisted.ensureDeferred
async def test_a_port_held_by_a_stranger_is_refused_by_name_and_nothing_changes():
    async with Bench() as bench:
        backend = bench.backend("one")
        plane, port = bench.plane(), free_port()
        await plane.start()
        good = make_state(port, [backend.port])
        await plane.apply(good)
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.listen()
            taken = stranger.getsockname()[1]
            bad = good | make_state(taken, [backend.port], name="2")
            with pytest.raises(RejectedError) as refused:
                await plane.apply(bad)
        assert refused.value.resource == "virtualservice/virtualservice-2"
        assert str(taken) in refused.value.detail
        assert f"pid {os.getpid()} " in refused.value.detail
        assert await plane.in_force() == digests(good)
        assert await fetch(port) == (200, "one")
        await plane.apply(bad)  # the stranger is gone


@pytest_twisted.ensureDeferred
async def test_what_envoy_itself_refuses_is_rolled_back_and_confirmed():
    async with Bench() as bench:
        backend = bench.backend("one")
        plane, port, other = bench.plane(), free_port(), free_port()
        await plane.start()
        good = make_state(port, [backend.port])
        await plane.apply(good)
        bad = make_state(other, [backend.port]) | make_state(free_port(), [backend.port], name="2")

        # Somebody takes the port between our check and Envoy's bind.
        with socket.socket() as stranger:
            original = EnvoyCheck.check

            async def check_then_lose(self, wanted, binary):
                await original(self, wanted, binary)
                stranger.bind(("127.0.0.1", other))
                stranger.listen()

            with patch.object(EnvoyCheck, "check", check_then_lose), pytest.raises(RejectedError) as refused:
                await plane.apply(bad)
        assert refused.value.resource == "virtualservice/virtualservice-1"
        assert await plane.in_force() == digests(good)
        assert await fetch(port) == (200, "one")
        await plane.apply(bad)
        assert await plane.in_force() == digests(bad)


@pytest_twisted.ensureDeferred
async def test_what_validation_refuses_names_the_resource():
    async with Bench() as bench:
        backend = bench.backend("one")
        plane, port = bench.plane(), free_port()
        await plane.start()
        good = make_state(port, [backend.port])
        await plane.apply(good)
        with pytest.raises(RejectedError) as refused:
            await plane.apply(good | make_state(free_port(), [1], request="GET /\0 HTTP/1.1", name="2"))
        assert refused.value.resource == "pool/pool-2"
        assert "HttpHealthCheck" in refused.value.detail
        assert await plane.in_force() == digests(good)


@pytest_twisted.ensureDeferred
async def test_two_engines_on_one_host_share_an_address():
    async with Bench() as bench:
        one, two = bench.backend("one"), bench.backend("two")
        first, second, port = bench.plane("a"), bench.plane("b"), free_port()
        await first.start()
        await second.start()
        await first.apply(make_state(port, [one.port]))
        await second.apply(make_state(port, [two.port]))
        answers = {(await fetch(port))[1] for _ in range(60)}
        assert answers == {"one", "two"}
        await first.apply(make_state(port, [one.port, two.port]))


@pytest_twisted.ensureDeferred
async def test_an_agent_that_comes_back_adopts_envoy_and_no_request_is_lost():
    async with Bench() as bench:
        backend = bench.backend("one")
        plane, port = bench.plane(), free_port()
        await plane.start()
        state = make_state(port, [backend.port])
        await plane.apply(state)
        load = Load(port)
        load.start()
        pid = plane.pid
        await plane.detach()
        again = bench.plane()
        await again.start()
        assert again.pid == pid
        assert await again.in_force() == digests(state)
        await again.apply(make_state(port, [backend.port, backend.port + 0], monitor=None))
        await load.finish()
        assert load.bad == []


AGENT = """
import sys
from pathlib import Path
from twisted.internet import reactor, defer
from twisted.internet.threads import deferToThread
from avinet.dataplane.envoy import EnvoyDataPlane
from tests.integration.test_envoy import SETTINGS, make_state

async def main():
    plane = EnvoyDataPlane(reactor, Path(sys.argv[1]), SETTINGS, deferToThread)
    await plane.start()
    await plane.apply(make_state(int(sys.argv[2]), [int(sys.argv[3])]))
    print(plane.pid, flush=True)

reactor.callWhenRunning(lambda: defer.Deferred.fromCoroutine(main()))
reactor.run()
"""


def start_agent(folder, port, backend_port):
    return subprocess.Popen(
        [sys.executable, "-c", AGENT, folder, str(port), str(backend_port)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


@pytest_twisted.ensureDeferred
async def test_an_agent_killed_at_once_leaves_envoy_serving_for_the_next_one():
    async with Bench() as bench:
        backend, port = bench.backend("one"), free_port()
        with start_agent(bench.folder / "a", port, backend.port) as agent:
            pid = int(await deferToThread(agent.stdout.readline))
            load = Load(port)
            load.start()
            await deferLater(reactor, 0.2)
            agent.kill()
        plane = bench.plane()
        await plane.start()
        assert plane.pid == pid
        assert await plane.in_force() == digests(make_state(port, [backend.port]))
        await load.finish()
        assert load.answers > 2
        assert load.bad == []


@pytest_twisted.ensureDeferred
async def test_five_hundred_virtual_services_are_applied_together():
    async with Bench() as bench:
        backend = bench.backend("one")
        plane = bench.plane()
        ports = set()
        while len(ports) < 500:
            ports.add(free_port())
        state = {}
        for number, port in enumerate(sorted(ports)):
            state |= make_state(port, [backend.port], monitor=None, name=str(number))
        await plane.start()
        await plane.apply(state)
        assert await plane.in_force() == digests(state)
        assert len((await plane.status()).services) == 500
        assert (await fetch(max(ports)))[1] == "one"


@pytest_twisted.ensureDeferred
async def test_envoy_is_adopted_by_its_socket_when_the_record_is_lost():
    async with Bench() as bench:
        plane = bench.plane()
        await plane.start()
        pid = plane.pid
        await plane.detach()
        (bench.folder / "a" / "envoy.json").unlink()
        again = bench.plane()
        await again.start()
        assert again.pid == pid


@pytest_twisted.ensureDeferred
async def test_a_strangers_process_number_is_never_adopted_nor_ended():
    async with Bench() as bench:
        plane = bench.plane()
        await plane.start()
        await plane.stop()
        me = identify(os.getpid())
        stale = msgspec.structs.replace(me, started_ticks=me.started_ticks + 1)
        (bench.folder / "a" / "envoy.json").write_bytes(msgspec.json.encode(stale))
        assert stop_data_plane(bench.folder / "a") is None
        again = bench.plane()
        await again.start()
        assert again.pid != os.getpid()


@pytest_twisted.ensureDeferred
async def test_a_killed_envoy_comes_back_with_the_last_good_files_and_tells_it():
    async with Bench() as bench:
        backend = bench.backend("one")
        plane, port = bench.plane(), free_port()
        told = []
        plane.on_restart(lambda: told.append(plane.pid))
        await plane.start()
        state = make_state(port, [backend.port])
        await plane.apply(state)
        pid = plane.pid
        os.kill(pid, signal.SIGKILL)

        async def restarted():
            return bool(told)

        await until(restarted)
        assert told[0] not in (None, pid)
        assert await plane.in_force() == digests(state)
        assert await fetch(port) == (200, "one")


@pytest_twisted.ensureDeferred
async def test_a_hanging_envoy_is_reported_down_in_bounded_time():
    async with Bench() as bench:
        plane = bench.plane(settings=EnvoySettings(concurrency=1, admin_timeout_s=0.5, apply_timeout_s=5))
        await plane.start()
        os.kill(plane.pid, signal.SIGSTOP)
        try:
            with pytest.raises(DataPlaneDownError):
                await plane.status()
        finally:
            os.kill(plane.pid, signal.SIGCONT)


@pytest_twisted.ensureDeferred
async def test_a_hanging_envoy_is_replaced_by_the_next_agent_rather_than_waited_for():
    async with Bench() as bench:
        settings = EnvoySettings(concurrency=1, admin_timeout_s=0.5, apply_timeout_s=5)
        first, second = bench.plane(settings=settings), bench.plane(settings=settings)
        await first.start()
        pid = first.pid
        await first.detach()
        os.kill(pid, signal.SIGSTOP)
        with patch("avinet.dataplane.envoy_process.ADOPT_TIMEOUT_S", 1.0):
            await second.start()
        assert second.pid not in (None, pid)
        assert identify(pid) is None


@pytest_twisted.ensureDeferred
async def test_the_data_plane_can_be_ended_without_an_agent():
    async with Bench() as bench:
        plane = bench.plane()
        await plane.start()
        pid = plane.pid
        await plane.detach()
        assert await deferToThread(stop_data_plane, bench.folder / "a") == pid
        assert identify(pid) is None
        assert not (bench.folder / "a" / "runtime").exists()
        assert await deferToThread(stop_data_plane, bench.folder / "a") is None


@pytest_twisted.ensureDeferred
async def test_old_clusters_go_once_nothing_can_need_them():
    async with Bench() as bench:
        one, two = bench.backend("one"), bench.backend("two")
        plane, port = bench.plane(), free_port()
        await plane.start()
        await plane.apply(make_state(port, [one.port]))
        await plane.apply(make_state(port, [two.port], name="2"))

        async def clusters():
            return len((await plane._switch.read_back()).clusters)

        assert await clusters() == 3  # two pools and the carrier
        await deferLater(reactor, SETTINGS.drain_s + 1.2)
        await plane._sweep()
        assert await clusters() == 2
        assert await fetch(port) == (200, "two")


@pytest_twisted.ensureDeferred
async def test_an_empty_state_takes_everything_down():
    async with Bench() as bench:
        backend = bench.backend("one")
        plane, port = bench.plane(), free_port()
        await plane.start()
        await plane.apply(make_state(port, [backend.port]))
        await plane.apply({})
        assert await plane.in_force() == {}
        with pytest.raises(ConnectionRefusedError):
            await fetch(port)


@pytest_twisted.ensureDeferred
async def test_a_binary_that_is_no_envoy_is_refused_with_its_path():
    async with Bench() as bench:
        plane = bench.plane(settings=EnvoySettings(binary=Path("/bin/true")))
        with pytest.raises(EnvoyUnusableError, match="/bin/true"):
            await plane.start()
        missing = bench.plane(settings=EnvoySettings(binary=Path("/no/such/envoy")))
        with pytest.raises(EnvoyMissingError, match="/no/such/envoy"):
            await missing.start()


def push_of(state, version):
    """A snapshot as its messages."""
    sizes = sum(len(r.body) for r in state.values())
    fence = Fence(0, 1, ConfigVersion(version))
    wanted = state_hash(digests(state))
    yield ConfigStart(
        push=version, fence=fence, base=None, hash=wanted, puts=len(state), removes=0, size=sizes
    )
    for thing in state.values():
        yield ConfigPut(push=version, name=thing.name, body=thing.body)
    yield ConfigEnd(push=version)


async def answer_to(applier, state, version):
    answered = Deferred()
    for message in push_of(state, version):
        applier.received(message, answered.callback)
    return await answered


@pytest_twisted.ensureDeferred
async def test_an_engine_without_controllers_serves_its_last_good_configuration_again():
    async with Bench() as bench:
        backend, port = bench.backend("one"), free_port()
        files = ConfigFiles(bench.folder / "config")
        plane = bench.plane()
        applier = Applier(plane, files, reactor, in_thread=deferToThread)
        await applier.start()
        state = make_state(port, [backend.port])
        assert isinstance(await answer_to(applier, state, 1), Ack)
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.listen()
            taken = make_state(stranger.getsockname()[1], [backend.port], name="2")
            nack = await answer_to(applier, state | taken, 2)
        assert (nack.reason, nack.resource) == ("rejected", "virtualservice/virtualservice-2")
        assert await fetch(port) == (200, "one")
        await applier.stop()
        assert await fetch(port) == (200, "one")  # the agent is gone, Envoy is not
        assert await deferToThread(stop_data_plane, bench.folder / "a")  # as if the machine had rebooted
        for kind in ("lds", "cds"):
            (bench.folder / "a" / kind / f"{kind}.json").unlink()
        again = Applier(bench.plane(), files, reactor, in_thread=deferToThread)
        await again.start()
        assert (again.version, again.hash) == (1, state_hash(digests(state)))
        assert await fetch(port) == (200, "one")
        assert (await again.report()).health[0].up
        await again.stop()
