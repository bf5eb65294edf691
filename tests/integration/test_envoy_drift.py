"""Changes made behind the agent's back to a real Envoy and its files: noticed, mended, told."""

import json
import os
import signal
import socket
from unittest.mock import patch

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.model.resources import hashes_of
from avinet.se import applier as applier_module
from avinet.se.applier import Applier
from avinet.se.config_files import ConfigFiles
from avinet.wire.messages import Ack
from tests.integration.pool_kit import Origin
from tests.integration.service_kit import NAME, certificate, curl, handshake, pool, rewrite, service
from tests.integration.test_envoy import answer_to, free_port, until
from tests.integration.test_envoy_services import Services

CERTIFICATE = "sslkeyandcertificate/sslkeyandcertificate-a"


class Watched(Services):
    """A bench with an agent's applier that looks every half second."""

    async def start(self):
        # The origin first: it would take a port that only seems free.
        pools = (pool("one", self.started(Origin, "one")),)
        self.plain, self.tls = free_port(), free_port()
        self.state = service(
            plain=(self.plain,), tls=(self.tls,), pools=pools, certificates=(certificate("a"),)
        )
        self.drifts = []
        self.files = EnvoyFiles(self.folder / "a")
        await self.applying()
        assert isinstance(await answer_to(self.applier, self.state, 1), Ack)

    async def applying(self):
        with patch.object(applier_module, "CHECK_INTERVAL_S", 0.5):
            self.applier = Applier(
                self.plane(),
                ConfigFiles(self.folder / "config"),
                reactor,
                in_thread=deferToThread,
                drifted=self.drifts.append,
            )
            await self.applier.start()

    async def told(self):
        """What the one drift was, once it is told."""

        async def one():
            return bool(self.drifts)

        await until(one)
        await deferLater(reactor, 1.2)  # and no other
        (drift,) = self.drifts
        self.drifts.clear()
        assert drift.mended
        await self.serves()
        return drift.differed

    async def serves(self):
        assert (await curl(f"http://127.0.0.1:{self.plain}/")).body == "one"
        assert (await curl(f"https://127.0.0.1:{self.tls}/")).body == "one"

    async def __aexit__(self, *raised):
        await self.applier.stop()
        await super().__aexit__(*raised)


@pytest_twisted.ensureDeferred
async def test_a_listener_changed_by_hand_is_put_right():
    async with Watched() as bench:
        await bench.start()
        elsewhere = free_port()

        def move(content):
            content["version_info"] = "mine"
            content["resources"][0]["address"]["socket_address"]["port_value"] = elsewhere

        rewrite(bench.files.xds("lds"), move)
        await until(lambda: deferToThread(_listens, elsewhere))
        assert await bench.told() == (NAME, "file/lds.json")
        await until(lambda: deferToThread(lambda: not _listens(elsewhere)))


def _listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest_twisted.ensureDeferred
async def test_a_listener_added_by_hand_is_removed():
    async with Watched() as bench:
        await bench.start()

        def add(content):
            stranger = json.loads(json.dumps(content["resources"][0]))
            stranger["name"] = "mine"
            stranger["address"]["socket_address"]["port_value"] = free_port()
            del stranger["metadata"]
            content["resources"].append(stranger)

        rewrite(bench.files.xds("lds"), add)
        differed = await bench.told()
        assert "file/lds.json" in differed
        assert NAME not in differed


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("kind", ["lds", "cds"])
@pytest.mark.parametrize("damage", ["half", "empty", "gone"])
async def test_a_damaged_file_is_written_again(kind, damage):
    async with Watched() as bench:
        await bench.start()
        path = bench.files.xds(kind)
        whole = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
        differed = await bench.told()
        assert f"file/{kind}.json" in differed
        assert json.loads(path.read_bytes())["resources"] == json.loads(whole)["resources"]


@pytest_twisted.ensureDeferred
async def test_a_pool_and_a_key_changed_by_hand_are_put_right():
    async with Watched() as bench:
        await bench.start()

        def misdirect(content):
            (cluster,) = [c for c in content["resources"] if c["name"] == "pool-one"]
            endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            endpoints[0]["endpoint"]["address"]["socket_address"]["port_value"] = 1

        rewrite(bench.files.xds("cds"), misdirect)
        assert await bench.told() == ("pool/pool-one", "file/cds.json")

        other = certificate("a", "mine.test")

        def exchange(content):
            found = content["resources"][0]["tls_certificate"]
            found["certificate_chain"]["inline_string"] = other.certificate.certificate
            found["private_key"]["inline_string"] = other.key

        path = bench.files.secrets.folder / "sslkeyandcertificate-a.json"
        rewrite(path, exchange)
        assert await bench.told() == (CERTIFICATE, "file/secrets")
        assert (await handshake(bench.tls, "a.test"))[0] == "a.test"
        path.unlink()
        assert await bench.told() == (CERTIFICATE, "file/secrets")
        assert path.exists()


@pytest_twisted.ensureDeferred
async def test_an_envoy_that_comes_back_with_old_files_is_put_right():
    async with Watched() as bench:
        await bench.start()
        old = {kind: bench.files.xds(kind).read_bytes() for kind in ("lds", "cds")}
        extra = free_port()
        state = bench.state | service(plain=(extra,), pools=(pool("one", bench.backends[0]),), name="2")
        assert isinstance(await answer_to(bench.applier, state, 2), Ack)
        plane = bench.planes[-1]
        for kind, content in old.items():
            bench.files.xds(kind).write_bytes(content)
        os.kill(plane.pid, signal.SIGKILL)
        differed = await bench.told()
        assert "virtualservice/virtualservice-2" in differed
        assert (await curl(f"http://127.0.0.1:{extra}/")).body == "one"


@pytest_twisted.ensureDeferred
async def test_what_was_changed_while_no_agent_ran_is_put_right_by_the_next():
    async with Watched() as bench:
        await bench.start()
        await bench.applier.stop()

        def no_retries(content):
            content["resources"][0]["per_connection_buffer_limit_bytes"] = 1024

        rewrite(bench.files.xds("lds"), no_retries)
        await bench.applying()
        found = json.loads(bench.files.xds("lds").read_bytes())["resources"]
        assert found[0]["per_connection_buffer_limit_bytes"] == 65536
        assert await bench.told() == ("file/lds.json",)


@pytest_twisted.ensureDeferred
async def test_what_an_older_agent_wrote_otherwise_is_written_anew_and_is_no_drift():
    async with Watched() as bench:
        await bench.start()
        await bench.applier.stop()
        kept = bench.files.read_xds("lds")
        older = tuple({**one, "per_connection_buffer_limit_bytes": 1024} for one in kept)
        bench.files.write_xds("lds", "older", older)
        await bench.applying()
        assert bench.files.read_xds("lds") == kept
        assert bench.drifts == []
        await bench.serves()


@pytest_twisted.ensureDeferred
async def test_a_change_of_a_pool_writes_no_listeners_unless_somebody_else_has():
    async with Services() as bench:
        one, two = (bench.pool("one"), pool("one", bench.started(Origin, "two")))
        port = free_port()
        first, second = (service(plain=(port,), pools=(found,)) for found in (one, two))
        plane = await bench.serving(first)
        lds = EnvoyFiles(bench.folder / "a").xds("lds")
        whole = lds.read_bytes()
        await plane.apply(second)
        assert lds.read_bytes() == whole
        assert (await curl(f"http://127.0.0.1:{port}/")).body == "two"
        rewrite(lds, lambda content: content.update(version_info="mine", resources=[]))
        await until(lambda: deferToThread(lambda: not _listens(port)))
        await plane.apply(first)
        assert json.loads(lds.read_bytes())["resources"] == json.loads(whole)["resources"]
        assert await plane.in_force() == hashes_of(first.values())
        assert (await curl(f"http://127.0.0.1:{port}/")).body == "one"
