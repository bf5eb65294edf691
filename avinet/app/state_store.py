"""The controller's store, opened: the embedded file, its own etcd, or an etcd that others run.

What the state folder says counts more than the setting: once the state engine is in use it stays so, since the file
that the other engine would open is gone, and an empty store would forget every service engine.
"""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from avinet.app.listening import awaited
from avinet.app.restore import begin_if_marked
from avinet.app.role import notify_service_manager
from avinet.app.settings import ControllerSettings
from avinet.app.store_settings import StoreSection
from avinet.controller.growth import NoGrowth, OutsideGrowth, StateEngineGrowth
from avinet.controller.peers import Peers
from avinet.controller.state_copy import TwoStoresError, move_in
from avinet.controller.state_engine import StateEngine
from avinet.controller.state_engine_config import EnginePlan
from avinet.controller.state_engine_files import EngineFiles, Progress, engine_files
from avinet.controller.state_engine_health import EMBEDDED, Emit, EngineHealth, EngineWatch
from avinet.controller.state_engine_timing import TimingFollower
from avinet.errors import AvinetError, Kind, error
from avinet.store.etcd import etcd_store, open_etcd_store
from avinet.store.etcd_gateway import Gateway
from avinet.store.etcd_http import EtcdAccess, TreqHttp
from avinet.store.interface import Store
from avinet.store.patient import PatientStore
from avinet.store.sqlite import open_sqlite_store
from avinet.trust.files import private_dir, read_private
from avinet.trust.node import ControllerIdentity
from avinet.units import MIB

WAITING_WORD_S = 60.0
"""Between words about a store that waits for other controllers; below the unit's TimeoutStartSec by far."""

_log = Logger()


@error
class EndpointsGoneError(AvinetError):
    """This controller's state is in an etcd that others run, and [store] endpoints does not say where. Set it as it was ({folder} says that it is so)."""

    kind: ClassVar[Kind] = Kind.INVALID
    folder: Path


@error
class EndpointsLateError(AvinetError):
    """This controller's state is in an etcd of its own ({folder}), and [store] endpoints names another. Take endpoints out of the settings."""

    kind: ClassVar[Kind] = Kind.INVALID
    folder: Path


@attrs.frozen
class StateStore:
    """The store, how its engine is, and who may be let in."""

    store: Store
    health: Callable[[], EngineHealth] = lambda: EMBEDDED
    growth: StateEngineGrowth = attrs.field(factory=NoGrowth)

    @property
    def lack(self) -> str:
        """Why no work should be given to this controller; empty when it may be."""
        health = self.health()
        return "" if health.has_leader else f"its store: {health.why}"


@attrs.frozen(eq=False)
class StateStores:
    """Opens it.  ``emit`` is told when its engine is not well."""

    reactor: Any
    settings: ControllerSettings
    identity: ControllerIdentity
    emit: Emit
    peers: Peers
    """The other controllers, as far as they are there: the state engine waits for them as long as they are away."""

    async def open(self, stack: contextlib.AsyncExitStack) -> StateStore:
        """Whichever it is; what was in the embedded one moves in first."""
        files = engine_files(self.identity.paths.state)
        progress = files.progress()
        if self.settings.store.engine == "sqlite" and not (progress and progress.binding):
            store = await open_sqlite_store(self.identity.paths.store, self.reactor)
            stack.push_async_callback(awaited(store.close))
            return StateStore(store)
        external = self.settings.store.endpoints
        if progress is not None and progress.external and not external:
            raise EndpointsGoneError(folder=files.folder)
        if progress is not None and external and not progress.external:
            raise EndpointsLateError(folder=files.folder)
        return await (self._open_external(files, stack) if external else self._open_own(files, stack))

    async def _open_own(self, files: EngineFiles, stack: contextlib.AsyncExitStack) -> StateStore:
        identity = self.identity
        plan = plan_of(self.settings.store, identity)
        if files.progress() is None:
            files.make_first(plan.cluster, plan.name, plan.peer_url)
        engine = StateEngine(plan, files, self.reactor, self.emit, deferToThread)
        stack.push_async_callback(engine.stop)
        progress = await engine.start()
        engine.watch_it()
        await self._ready(engine)
        progress = await engine.secure(progress)
        store = await self._opened(engine)
        stack.push_async_callback(awaited(store.close))
        await move_in(files, progress, store, identity.paths.store, deferToThread)
        await begin_if_marked(identity.paths.state, store)
        timing = TimingFollower(engine, self._longest_rtt_s, self.reactor)
        stack.callback(timing.stop)
        timing.start()
        return StateStore(store, lambda: engine.health, engine)

    @property
    def _alone(self) -> bool:
        return len(self.identity.membership.controllers) == 1

    async def _opened(self, engine: StateEngine) -> Store:
        """Alone it answers in time or never; in a cluster the quorum may go again while all of them start."""
        if self._alone:
            return await open_etcd_store(engine.access, self.reactor)
        return PatientStore(etcd_store(engine.access, self.reactor), self.reactor, _say_that_it_waits)

    async def _ready(self, engine: StateEngine) -> None:
        """Alone it is up in time or never; in a cluster the others may be up hours later."""
        if self._alone:
            await engine.ready()
            return
        saying = LoopingCall(lambda: _say_that_it_waits(engine.health.why))
        saying.clock = self.reactor
        saying.start(WAITING_WORD_S, now=False)
        try:
            await engine.ready(math.inf)
        finally:
            saying.stop()

    def _longest_rtt_s(self) -> float | None:
        return max(
            (rtt for name in self.peers.live if (rtt := self.peers.rtt_s(name)) is not None), default=None
        )

    async def _open_external(self, files: EngineFiles, stack: contextlib.AsyncExitStack) -> StateStore:
        access = access_of(self.settings.store)
        if access.password_file is not None:
            read_private(access.password_file)
        store = await open_etcd_store(access, self.reactor)
        stack.push_async_callback(awaited(store.close))
        old = self.identity.paths.store
        progress = files.progress()
        if progress is None:
            if (await store.list("")).entries and old.exists():
                raise TwoStoresError(store=old, engine=Path(access.endpoints[0]))
            private_dir(files.folder)
            progress = Progress(phase="copying", initial_cluster="", external=True)
            files.reached(progress)
        await move_in(files, progress, store, old, deferToThread)
        await begin_if_marked(self.identity.paths.state, store)
        gateway = Gateway(access, TreqHttp(self.reactor, access), self.reactor)
        stack.push_async_callback(awaited(gateway.close))
        watch = EngineWatch(gateway, self.reactor, self.emit)
        stack.push_async_callback(watch.stop)
        watch.start()
        return StateStore(store, lambda: watch.health, OutsideGrowth())


def _say_that_it_waits(why: str) -> None:
    """To systemd, too, which would take a start for failed that lasts so long."""
    notify_service_manager(
        f"EXTEND_TIMEOUT_USEC={WAITING_WORD_S * 5_000_000:.0f}\nSTATUS=The store waits: {why}"
    )
    _log.warn("the store waits: {why}", why=why)


def plan_of(store: StoreSection, identity: ControllerIdentity) -> EnginePlan:
    """What the settings say about this controller's own etcd."""
    return EnginePlan(
        cluster=identity.cluster,
        name=identity.name,
        client_port=store.client_port,
        peer_port=store.peer_port,
        binary=Path(store.etcd) if store.etcd else None,
        quota_bytes=store.quota_mib * MIB,
    )


def access_of(store: StoreSection) -> EtcdAccess:
    """What the settings say about an etcd that others run."""
    path = {name: Path(text) for name in ("ca", "certificate", "key") if (text := getattr(store, name))}
    return EtcdAccess(
        endpoints=store.endpoints,
        ca_file=path.get("ca"),
        certificate_file=path.get("certificate"),
        key_file=path.get("key"),
        user=store.user,
        password_file=Path(store.password_file) if store.password_file else None,
        namespace=store.namespace,
    )
