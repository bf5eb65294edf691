"""The controller's store in an etcd that others run: what was in a file moves in, and the folder says where it is."""

import contextlib
import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from avinet.app.facts import facts_of
from avinet.app.settings import ControllerSettings
from avinet.app.state_store import EndpointsGoneError, EndpointsLateError, StateStores
from avinet.app.store_settings import StoreSection
from avinet.controller.peers import NoPeers
from avinet.controller.state_copy import TwoStoresError
from avinet.controller.state_engine_binary import EtcdMissingError
from avinet.controller.state_engine_files import Progress, engine_files
from avinet.model.ids import ControllerName
from avinet.store.copying import Content, write_file
from avinet.store.interface import Entry
from avinet.trust.files import FileExposedError
from avinet.trust.node import ControllerIdentity
from tests.integration.etcd_kit import USER, Cluster, needs_etcd
from tests.integration.processes import free_port

needs_etcd()


def settings_for(etcd, password):
    store = StoreSection(
        engine="etcd",
        endpoints=tuple(member.url for member in etcd.members),
        ca=str(etcd.folder / "ca.pem"),
        certificate=str(etcd.folder / "node.pem"),
        key=str(etcd.folder / "node.key"),
        user=USER,
        password_file=str(password),
        namespace="/avinet/",
    )
    return msgspec.structs.replace(ControllerSettings(), store=store)


def made(folder, settings):
    """A controller with something in its file."""
    identity = ControllerIdentity.init(folder, facts_of(settings))
    write_file(identity.paths.store, Content((Entry("a", b"1", 1, 1),), {}, 1))
    return identity


async def contents(settings, identity):
    async with contextlib.AsyncExitStack() as stack:
        stores = StateStores(reactor, settings, identity, lambda *a, **b: None, NoPeers(ControllerName("c1")))
        state = await stores.open(stack)
        return {entry.key: entry.value for entry in (await state.store.list("")).entries}


@pytest_twisted.ensureDeferred
async def test_a_state_engine_that_never_started_binds_nobody_to_it():
    base = Path(tempfile.mkdtemp(prefix="avinet-store-"))
    try:
        missing = StoreSection(
            engine="etcd", etcd="/nowhere/etcd", client_port=free_port(), peer_port=free_port()
        )
        wish = msgspec.structs.replace(ControllerSettings(), store=missing)
        identity = await deferToThread(made, base / "c1", wish)
        with pytest.raises(EtcdMissingError):
            await contents(wish, identity)
        assert await contents(ControllerSettings(), identity) == {"a": b"1"}
    finally:
        shutil.rmtree(base)


@pytest_twisted.ensureDeferred
async def test_what_was_in_a_file_moves_into_an_etcd_that_others_run():
    base = Path(tempfile.mkdtemp(prefix="avinet-store-"))
    etcd = await deferToThread(Cluster)
    try:
        password = base / "password"
        shutil.copy(etcd.folder / "password", password)
        settings = settings_for(etcd, password)
        identity = await deferToThread(made, base / "c1", settings)
        with pytest.raises(FileExposedError):
            await contents(settings, identity)
        password.chmod(0o600)
        for _ in range(2):
            assert await contents(settings, identity) == {"a": b"1"}
        assert not identity.paths.store.exists()

        other = await deferToThread(made, base / "c2", settings)
        with pytest.raises(TwoStoresError):
            await contents(settings, other)
        with pytest.raises(EndpointsGoneError):
            await contents(ControllerSettings(), identity)
        files = engine_files(identity.paths.state)
        files.reached(Progress(phase="serving", initial_cluster=""))
        with pytest.raises(EndpointsLateError):
            await contents(settings, identity)
    finally:
        etcd.close()
        shutil.rmtree(base)
