"""A controller, put together: each part made from the parts below it, started in order, undone in reverse."""

import contextlib
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from avinet.app.channel_surface import ChannelSurface
from avinet.app.cluster import Cluster
from avinet.app.controller_fleet import ControllerFleet, Ground
from avinet.app.controller_logs import ControllerLogs, LogSurroundings
from avinet.app.controller_peers import ControllerPeers
from avinet.app.facts import facts_of
from avinet.app.garbage import Garbage
from avinet.app.image_sources import image_sources
from avinet.app.listening import awaited
from avinet.app.local_machines import local_cloud, require_local_envoy
from avinet.app.operator_api import OperatorApi
from avinet.app.operator_logs import log_routes
from avinet.app.operator_surface import OperatorSurface
from avinet.app.records import Records
from avinet.app.renewal import Renewal, Shown
from avinet.app.seats import seat_of
from avinet.app.settings import ControllerSettings
from avinet.app.software import software_version
from avinet.app.state_store import StateStore, StateStores
from avinet.app.watchdog import Watchdog
from avinet.controller.api_status import Lead, Whole, resident_kib
from avinet.controller.enrolment import Enrolment
from avinet.controller.events import GATHER_S, Events
from avinet.controller.expiry import CertificateExpiry
from avinet.controller.failure_budget import FailureBudget
from avinet.controller.forwarding import Forwarding
from avinet.controller.images import Images
from avinet.controller.machines import Machines
from avinet.controller.peer_other import Lists, PeerAbout
from avinet.controller.registration_api import RegistrationApi
from avinet.controller.reports import ChannelEvents, ControllerEvents
from avinet.controller.seat import Duty, OwnSeat, Seat
from avinet.errors import AvinetError
from avinet.model.ids import new_boot_id
from avinet.rest.listen import Place, listen_tls
from avinet.rest.route import Route
from avinet.rest.router import Router
from avinet.rest.site import BoundedSite
from avinet.ssh.scheduler import Priority
from avinet.ssh.services import ServiceTable
from avinet.store.eventlog import open_event_log
from avinet.trust.node import ControllerIdentity
from avinet.wire.messages import CONTROL_SERVICE
from avinet.wire.registration import MetaInfo, registration_addresses


@attrs.define(eq=False)
class Controller:
    """One controller.  ``start`` gets an exit stack for what undoes each step."""

    reactor: Any
    settings: ControllerSettings
    identity: ControllerIdentity
    removed: Callable[[AvinetError], None]
    cluster: Cluster = attrs.field(init=False)
    state: StateStore = attrs.field(init=False)
    seat: Seat = attrs.field(init=False)
    events: Events = attrs.field(init=False)
    records: Records = attrs.field(init=False)
    images: Images = attrs.field(init=False)
    machines: Machines = attrs.field(init=False)
    fleet: ControllerFleet = attrs.field(init=False)
    logs: ControllerLogs = attrs.field(init=False)
    services: ServiceTable = attrs.field(factory=ServiceTable, init=False)
    channels: ChannelSurface = attrs.field(init=False)
    peers: ControllerPeers = attrs.field(init=False)
    forwarding: Forwarding = attrs.field(init=False)
    watchdog: Watchdog = attrs.field(init=False)
    _shown: Shown = attrs.field(init=False)
    started_at: float = attrs.field(default=0.0, init=False)
    _lack: str = attrs.field(default="it is starting", init=False)
    """Why no work should be given to it."""

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Store and memory first, then what listens, the operator's socket last."""
        self.started_at = self.reactor.seconds()
        self._shown = Shown.of(self.identity)
        await self._open_events(stack)
        self._open_channels(stack)
        await self._open_store(stack)
        await self.cluster.open(self.state.store, self.state.growth)
        self.watchdog = Watchdog(self.reactor, ControllerEvents(self.events.emit).blocked)
        self.watchdog.start()
        stack.callback(self.watchdog.stop)
        paths = self.identity.paths
        emit, seat = self.events.emit, self.seat
        self.records = await Records.load(seat.store, self.settings, paths, emit, self.reactor)
        stack.callback(self.records.stop)
        seat.follow(self.cluster.members)
        await self.records.follow(seat)
        self.forwarding = Forwarding(self.seat, self.peers.links, self.reactor)
        self._make_machines()
        self._open_fleet(stack)
        # Before the fleet comes: it looks at all that there is.
        garbage = Garbage(self.reactor, resident_kib)
        stack.callback(garbage.stop)
        garbage.start()
        around = LogSurroundings(emit, self.records.name_of, self.peers.links)
        self.logs = await ControllerLogs.open(self.settings.logs, paths.logs, self.reactor, around, stack)
        self.records.engines.listen(self.logs.record_changed)
        self._listen_ssh(stack)
        registration = await self._listen_registration(stack)
        await self._start_machines(stack)
        stack.push_async_callback(self.seat.stop)
        await self._listen_api(registration, stack)
        self._renew_in_time(stack)
        await self._watch_expiry()
        stack.push_async_callback(self.seat.hand_over)
        await self.seat.sit()
        # While it hands over it still answers.
        stack.callback(self._stops)
        self._lack = ""
        ControllerEvents(self.events.emit).started(self.identity.name)

    # Steps

    async def _open_events(self, stack: contextlib.AsyncExitStack) -> None:
        log = await open_event_log(self.identity.paths.events, self.reactor)
        stack.push_async_callback(awaited(log.close))
        self.events = Events(log, self.reactor, GATHER_S)
        stack.push_async_callback(self.events.stop)
        emit, facts = self.events.emit, facts_of(self.settings)
        self.cluster = Cluster(self.identity, facts, self.reactor, emit, self.removed)
        self.cluster.watch(stack)

    def _open_channels(self, stack: contextlib.AsyncExitStack) -> None:
        """SSH and the links to other controllers come before the store, which may need them to find a quorum."""
        identity, settings, emit = self.identity, self.settings, self.events.emit
        members = self.cluster.members
        membership = members.current
        self.peers = ControllerPeers.make(
            about=PeerAbout(identity.name, identity.cluster, new_boot_id(), software_version()),
            key=identity.id_controller,
            lists=Lists(
                lambda: (members.current.number, members.document),
                lambda document: Deferred.fromCoroutine(members.take(document)),
            ),
            paths=identity.paths,
            section=settings.peers,
            ssh=settings.ssh,
            emit=emit,
            reactor=self.reactor,
        )
        events = ChannelEvents(emit, lambda se: self.records.name_of(se))  # noqa: PLW0108 - loaded later
        self.channels = ChannelSurface(
            self.reactor, settings.ssh, identity.host_key, self.services, events, self.peers.accounts
        )
        self.channels.open(stack)
        if len(membership.controllers) > 1:
            self.channels.listen(stack)
        self.peers.start(membership, self.channels, stack)
        members.listen(lambda before, after: self.peers.update(after))
        self.peers.links.listen(self.cluster.lookout)

    async def _open_store(self, stack: contextlib.AsyncExitStack) -> None:
        stores = StateStores(self.reactor, self.settings, self.identity, self.events.emit, self.peers.links)
        self.state = await stores.open(stack)
        self.seat = seat_of(self.state.store, self.peers.links, self.reactor, self.events.emit)

    def _make_machines(self) -> None:
        identity, cluster = self.identity, self.cluster
        sources = image_sources(identity, cluster.sign, lambda: cluster.members.document)
        self.images = Images(self.records.image_keys, sources, identity.paths.state / "images")
        self.machines = Machines(
            self.records.engines,
            {"local": local_cloud(self.reactor, identity.paths.local_cloud)},
            self.images.cloud_file,
            self._meta,
            {"local": require_local_envoy},
            alone=isinstance(self.seat, OwnSeat),
            leads=lambda: self.seat.role.leads,
        )

    def _open_fleet(self, stack: contextlib.AsyncExitStack) -> None:
        ground = Ground(
            self.identity,
            self.settings,
            self.cluster.members,
            self.peers.links,
            self.seat,
            self.records,
            self.machines,
            self.channels,
            self.events.emit,
            self.reactor,
        )
        self.fleet = ControllerFleet.open(ground, stack)

    def _listen_ssh(self, stack: contextlib.AsyncExitStack) -> None:
        records, settings = self.records, self.settings
        self.services.register(
            CONTROL_SERVICE, settings.control.port, self.fleet.sessions.build, Priority.CONTROL
        )
        self.logs.offer(self.services, settings.logs)
        self.channels.let_in(records.engines, stack)
        # Goodbyes go over channels that are still open, while nobody new comes.
        stack.push_async_callback(awaited(self.fleet.sessions.stop))
        self.channels.listen(stack)
        self.fleet.returns.open()

    async def _listen_registration(self, stack: contextlib.AsyncExitStack) -> tuple[Route, ...]:
        settings, records = self.settings.registration, self.records
        enrolment = Enrolment(
            self.identity.cluster,
            records.engines,
            records.image_keys,
            records.config.group,
            FailureBudget(self.reactor),
        )
        members = self.cluster.members
        forwarding = attrs.evolve(self.forwarding)  # with bounds of its own: strangers call here
        joining = self.cluster.joining(forwarding.ask).routes()
        routes = RegistrationApi(
            enrolment, lambda: members.document, self.settings.services, joining
        ).routes()
        router = Router(routes, self.reactor, elsewhere=forwarding)
        site = BoundedSite(router, self.reactor)
        place = Place(settings.port, "[registration] port", settings.bind)
        port = listen_tls(self.reactor, place, site, self._shown.registration)
        stack.push_async_callback(awaited(port.stopListening))
        return routes

    async def _start_machines(self, stack: contextlib.AsyncExitStack) -> None:
        stack.push_async_callback(self.machines.stop)
        await self.machines.start()
        for duty in self.fleet.duties():
            await self.seat.duty(duty)

    def _meta(self, token: str) -> MetaInfo:
        addresses = registration_addresses(self.cluster.members.current)
        return MetaInfo(cluster=self.identity.cluster, controllers=addresses, token=token)

    async def _listen_api(self, more: tuple[Route, ...], stack: contextlib.AsyncExitStack) -> None:
        surface = OperatorSurface(self.reactor, self.settings.api, self.identity, self.events.emit)
        await surface.open(self.seat, stack)
        routes = self._routes(surface)
        self.peers.api.serve((*routes, *more), self.seat, surface.audit.ended)
        await surface.listen(routes, self.forwarding, self._shown.api, stack)

    def _renew_in_time(self, stack: contextlib.AsyncExitStack) -> None:
        renewal = Renewal(
            self.identity.paths.state,
            facts_of(self.settings),
            self._shown,
            self.cluster.entry.agree,
            self._renewed,
            self.events.emit,
            self.reactor,
            deferToThread,
        )
        stack.callback(renewal.stop)
        renewal.start()

    async def _watch_expiry(self) -> None:
        config, store = self.records.config, self.seat.store
        expiry = CertificateExpiry(config, store, self.events.emit, self.reactor, config.clock.seconds)
        await self.seat.duty(Duty("expiry", expiry.start, expiry.stop))

    def _stops(self) -> None:
        self._lack = "it is stopping"

    def _renewed(self, identity: ControllerIdentity) -> None:
        self.identity = identity

    def _routes(self, surface: OperatorSurface) -> tuple[Route, ...]:
        whole = Whole(
            cluster=self.identity.cluster,
            name=self.identity.name,
            software=software_version(),
            started_at=self.started_at,
            membership=lambda: self.cluster.members.current.number,
            engines=self.records.engines,
            sessions=self.fleet.sessions,
            is_up=self.fleet.attendance.is_up,
            config=self.records.config,
            sync=self.fleet.sync,
            lead=lambda: Lead.of(self.seat),
            not_ready=lambda: self._lack or self.state.lack,
            reactor=self.watchdog.health,
            logins=self.channels.counts,
            store=self.state.health,
        )
        api = OperatorApi(
            whole,
            self.fleet.commands,
            self.machines,
            self.images,
            self.events,
            self._meta,
            self.fleet.traffic,
            self.fleet.departures,
        )
        more = (
            *surface.routes(),
            *self.cluster.api(self.peers.links, self.forwarding).routes(),
            *log_routes(self.logs, self.records, self.peers, self.forwarding, self.reactor),
        )
        return api.routes(self.reactor, more)
