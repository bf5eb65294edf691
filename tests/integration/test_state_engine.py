"""The state engine on real etcds: who is let in, how it grows and shrinks, how it comes back, when it is full."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import ssl
import tempfile
from pathlib import Path

import attrs
import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.controller.state_copy import move_in
from avinet.controller.state_engine import EngineWentBackError, MemberPortError, StateEngine
from avinet.controller.state_engine_config import EnginePlan, Timing
from avinet.controller.state_engine_failure import EngineDataDamagedError
from avinet.controller.state_engine_files import ROOT_USER, USER, EngineDataLostError, EngineFiles
from avinet.controller.state_engine_health import make_room
from avinet.model.ids import ControllerName
from avinet.model.membership import Controller
from avinet.ports import PortTakenError
from avinet.store.copying import read_file, take, write_file
from avinet.store.etcd import open_etcd_store
from avinet.store.interface import Delete, Put, StoreFullError, StoreUnavailableError
from avinet.trust.files import private_dir
from avinet.units import MIB
from tests.integration.etcd_kit import needs_etcd
from tests.integration.processes import free_port
from tests.unit.trust_kit import CLUSTER

needs_etcd()
LIMIT_S = 40.0


async def until(what, limit_s=LIMIT_S):
    end = reactor.seconds() + limit_s
    while not what():
        assert reactor.seconds() < end, "it did not happen"
        await deferLater(reactor, 0.05, lambda: None)


@attrs.define(eq=False)
class Controllers:
    """The engines of some controllers on this machine, whose peer links are direct."""

    folder: Path
    told: list = attrs.field(factory=list)
    engines: dict = attrs.field(factory=dict)

    def make(self, name, **facts):
        plan = EnginePlan(
            cluster=CLUSTER,
            name=ControllerName(name),
            client_port=free_port(),
            peer_port=free_port(),
            timing=Timing(50),
            **facts,
        )
        return self.of(plan)

    def of(self, plan):
        files = EngineFiles(private_dir(self.folder / plan.name) / "etcd")
        emit = lambda code, *rest, **facts: self.told.append((plan.name, code))
        engine = StateEngine(plan, files, reactor, emit, deferToThread)
        self.engines[plan.name] = engine
        return engine

    async def first(self, **facts):
        engine = self.make("c1", **facts)
        engine.files.make_first(engine.plan.cluster, engine.plan.name, engine.plan.peer_url)
        await self.up(engine)
        return engine

    async def up(self, engine):
        progress = await engine.start()
        await engine.ready()
        progress = await engine.secure(progress)
        engine.reached(msgspec.structs.replace(progress, phase="serving"))
        engine.watch_it()

    async def join(self, name):
        """As a controller does that was let in by the first."""
        engine = self.make(name)
        engine.files.admitted(await self.engines["c1"].admit(listed(engine), engine.files.key()))
        await self.up(engine)
        return engine

    async def all_count(self):
        """Every member is known to count."""
        while any(member.learner for member in await self.engines["c1"].members_of.all()):
            await deferLater(reactor, 0.1, lambda: None)

    def well(self, *names):
        return all(self.engines[name].health.well for name in names)

    async def close(self):
        for engine in reversed(self.engines.values()):
            if engine.process.pid is not None:
                os.kill(engine.process.pid, signal.SIGKILL)  # nothing here is worth a leader's farewell
            await engine.stop()
        shutil.rmtree(self.folder)


def listed(engine):
    return Controller(
        name=engine.plan.name,
        addresses=("127.0.0.1",),
        node_certificate="",
        ssh_host_key="",
        id_se="",
        state_client_port=engine.plan.client_port,
        state_peer_port=engine.plan.peer_port,
    )


@contextlib.asynccontextmanager
async def controllers():
    made = Controllers(Path(tempfile.mkdtemp(prefix="avinet-engine-")))
    try:
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def store_of(engine):
    store = await open_etcd_store(engine.access, reactor)
    try:
        yield store
    finally:
        await store.close()


async def written(store, value):
    """What is written while another member begins to lead may have to be written again."""
    while True:
        with contextlib.suppress(StoreUnavailableError):
            await store.transact((), [Put("a", value)])
            return


@pytest_twisted.ensureDeferred
async def test_members_come_and_go_and_all_of_them_killed_come_back():
    async with controllers() as site:
        first = await site.first()
        async with store_of(first) as store:
            await written(store, b"1")
            second = await site.join("c2")
            twin = msgspec.structs.replace(listed(second), name=ControllerName("c9"))
            with pytest.raises(MemberPortError):
                await first.admit(twin, second.files.key())
            await site.join("c3")
            await site.all_count()
            assert await first.members() == ("c1", "c2", "c3")

            for _ in range(2):
                await first.dismiss(ControllerName("c3"))
            assert await first.members() == ("c1", "c2")
            await until(lambda: "removed" in site.engines["c3"].health.why)
            await written(store, b"2")

            for name in ("c1", "c2"):
                os.kill(site.engines[name].process.pid, signal.SIGKILL)
            await until(lambda: not site.well("c1") and not site.well("c2"))
            await until(lambda: site.well("c1", "c2"))
            assert (await store.get("a")).value == b"2"
            told = {code for name, code in site.told if name == "c1"}
            assert told == {"STATE_ENGINE_DOWN", "STATE_ENGINE_UP"}


def read_process(pid, name):
    return Path(f"/proc/{pid}/{name}").read_bytes()


def ask(engine, path, *, certificate, token="", request=None):
    """(status, body) as any user of the machine asks, with curl say; status 0 when TLS refused."""
    context = ssl.create_default_context(cafile=str(engine.files.ca_pem))
    if certificate:
        context.load_cert_chain(engine.files.certificate, engine.files.key_file)
    asked = http.client.HTTPSConnection("127.0.0.1", engine.plan.client_port, timeout=10, context=context)
    try:
        asked.request(
            "POST", f"/v3/{path}", json.dumps(request or {}), {"Authorization": token} if token else {}
        )
        answer = asked.getresponse()
        return answer.status, json.loads(answer.read())
    except OSError as why:
        return 0, str(why)
    finally:
        asked.close()


@pytest_twisted.ensureDeferred
async def test_strangers_and_too_weak_users_are_refused_and_no_secret_is_shown():
    async with controllers() as site:
        engine = await site.first()
        key = {"key": "YQ=="}
        status, _ = await deferToThread(ask, engine, "kv/range", certificate=False, request=key)
        assert status == 0
        status, said = await deferToThread(ask, engine, "kv/range", certificate=True, request=key)
        assert (status, said["error"]) == (403, "etcdserver: permission denied")
        wrong = {"name": ROOT_USER, "password": "guess"}
        status, said = await deferToThread(ask, engine, "auth/authenticate", certificate=True, request=wrong)
        assert status == 400
        own = {"name": USER, "password": engine.files.password(USER).read_text()}
        _, said = await deferToThread(ask, engine, "auth/authenticate", certificate=True, request=own)
        token = said["token"]
        status, _ = await deferToThread(ask, engine, "kv/range", certificate=True, token=token, request=key)
        assert status == 200
        peer = {"peerURLs": ["https://127.0.0.1:1"]}
        status, said = await deferToThread(
            ask, engine, "cluster/member/add", certificate=True, token=token, request=peer
        )
        assert (status, said["error"]) == (403, "etcdserver: permission denied")

        shown = [read_process(engine.process.pid, name) for name in ("cmdline", "environ")]
        shown += [engine.files.log.read_bytes(), engine.files.configuration.read_bytes()]
        for user in (ROOT_USER, USER):
            secret = engine.files.password(user).read_bytes()
            assert not any(secret in text for text in shown)
        for path in engine.files.secrets:
            assert path.stat().st_mode & 0o077 == 0, path

        await engine.retime(Timing(100))
        await engine.ready()
        assert json.loads(engine.files.configuration.read_bytes())["election-timeout"] == 1000

        other = site.of(attrs.evolve(engine.plan, name=ControllerName("c2")))
        other.files.make_first(CLUSTER, other.plan.name, other.plan.peer_url)
        with pytest.raises(PortTakenError, match="etcd"):
            await other.start()


@pytest_twisted.ensureDeferred
async def test_data_that_is_lost_or_damaged_is_said_to_be_and_a_snapshot_brings_it_back():
    async with controllers() as site:
        engine = await site.first()
        copy = site.folder / "copy.db"
        async with store_of(engine) as store:
            lease = await store.grant_lease(1000)
            await store.transact((), [Put("a", b"1"), Put("token", b"2", lease)])
            await deferToThread(write_file, copy, await take(store))
        assert 900 < next(iter(read_file(copy).rests.values())) <= 1000
        await engine.stop()

        whole = engine.files.folder.with_name("whole")
        shutil.copytree(engine.files.data, whole)
        (engine.files.data / "member/snap/db").write_bytes(os.urandom(32768))
        again = site.of(engine.plan)
        await again.start()
        with pytest.raises(EngineDataDamagedError, match="cluster replace"):
            await again.ready()
        await again.stop()
        shutil.rmtree(engine.files.data)
        with pytest.raises(EngineDataLostError, match="restore a backup"):
            await site.of(engine.plan).start()
        whole.rename(engine.files.data)
        engine.files.keep_mark(engine.files.mark() + 1000)
        again = site.of(engine.plan)
        await again.start()
        with pytest.raises(EngineWentBackError, match="lost what it knew"):
            await again.ready()
        engine.files.mark_file.unlink()
        await again.ready()
        await again.stop()

        engine.files.folder.rename(site.folder / "lost")
        fresh = site.of(engine.plan)
        fresh.files.make_first(CLUSTER, fresh.plan.name, fresh.plan.peer_url)
        progress = await fresh.start()
        await fresh.ready()
        progress = await fresh.secure(progress)
        async with store_of(fresh) as store:
            await move_in(fresh.files, progress, store, copy, deferToThread)
            found = {entry.key: entry.value for entry in (await store.list("")).entries}
            assert found == {"a": b"1", "token": b"2"}
        assert not copy.exists()


async def fill_up(store):
    for number in range(20):
        await store.transact((), [Put(f"k/{number}", os.urandom(900_000))])


@pytest_twisted.ensureDeferred
async def test_a_full_one_refuses_writes_until_there_is_room_again():
    async with controllers() as site:
        engine = await site.first(quota_bytes=4 * MIB)
        async with store_of(engine) as store:
            with pytest.raises(StoreFullError):
                await fill_up(store)
            await until(lambda: "NOSPACE" in engine.health.alarms)
            assert "quota_mib" in engine.health.why
            keys = [entry.key for entry in (await store.list("k/")).entries]
            assert len(keys) > 2
            deletion = await store.transact((), [Delete(key) for key in keys])
            assert deletion.succeeded
            assert await make_room(engine.gateway, engine.plan.quota_bytes)
            assert (await store.transact((), [Put("a", b"1")])).succeeded
            await until(lambda: engine.health.well)
