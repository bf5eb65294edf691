"""A controller, put together: each part made from the parts below it, started in order, undone in reverse."""

import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from avinet.app.facts import facts_of
from avinet.app.garbage import Garbage
from avinet.app.listening import awaited, listen_plain
from avinet.app.local_machines import require_local_envoy
from avinet.app.operator_api import OperatorApi
from avinet.app.operator_surface import OperatorSurface
from avinet.app.renewal import Renewal, Shown
from avinet.app.secure_channel import secure_channel_server
from avinet.app.settings import ControllerSettings
from avinet.app.software import software_version
from avinet.app.steady import WallClock
from avinet.app.watchdog import Watchdog
from avinet.cloud.local import LocalCloud, LocalSettings
from avinet.controller.api_status import StrangerCounts, Whole, resident_kib
from avinet.controller.candidates import Candidates
from avinet.controller.command_classes import ClassTeller
from avinet.controller.config_store import ConfigStore, HistoryLimits
from avinet.controller.configuration import ConfigService
from avinet.controller.departures import Departures
from avinet.controller.engine_commands import EngineCommands
from avinet.controller.engine_index import EngineIndex
from avinet.controller.engines import Engines
from avinet.controller.enrolment import Enrolment
from avinet.controller.events import Events
from avinet.controller.expiry import CertificateExpiry
from avinet.controller.failure_budget import FailureBudget
from avinet.controller.groups import Groups
from avinet.controller.image_keys import ImageKeys
from avinet.controller.images import Images, ImageSources
from avinet.controller.machines import Machines
from avinet.controller.permits import LOGS_IN, PermitFiles, PermitRules, Permits
from avinet.controller.placement_view import PlacementView
from avinet.controller.registration_api import RegistrationApi
from avinet.controller.reports import ChannelEvents, ConfigEvents, ControllerEvents, SessionEvents
from avinet.controller.session import SeSession, SessionSettings
from avinet.controller.sessions import About, CurrentList, Knowledge, SessionListener, Sessions
from avinet.controller.sync import Sync
from avinet.controller.tokens import Tokens
from avinet.controller.traffic import FleetTraffic
from avinet.controller.traffic_places import Places, fleet_of
from avinet.dataplane.envoy import stop_data_plane
from avinet.model.configuration import Configuration
from avinet.model.engine import Lifecycle, SeRecord
from avinet.model.ids import SeId
from avinet.rest.listen import Place, listen_tls
from avinet.rest.route import Route
from avinet.rest.router import Router
from avinet.rest.site import BoundedSite
from avinet.ssh.login import Access
from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.reverse_socket import shared_socket
from avinet.ssh.scheduler import Priority
from avinet.ssh.server import SecureChannelServer
from avinet.ssh.services import ServiceTable
from avinet.store.eventlog import open_event_log
from avinet.store.interface import Store
from avinet.store.sqlite import open_sqlite_store
from avinet.trust.authorized_keys import AuthorizedKeys
from avinet.trust.files import write_public
from avinet.trust.node import ControllerIdentity
from avinet.units import MIB
from avinet.wire.messages import CONTROL_SERVICE
from avinet.wire.registration import MetaInfo, registration_addresses

GOODBYE_S = 1.0
"""For an SE to take its goodbye, which says why and when to come back, before its connections are cut."""

_log = Logger()


def image_package() -> Mapping[str, tuple[bytes, int]]:
    """Software, requirements, unit and install script for an SE image; blocks for a second."""
    from avinet.app.package import image_files

    return image_files()


@attrs.define(eq=False)
class Controller(SessionListener):
    """One controller.  ``start`` gets an exit stack for what undoes each step."""

    reactor: Any
    settings: ControllerSettings
    identity: ControllerIdentity
    store: Store = attrs.field(init=False)
    events: Events = attrs.field(init=False)
    config: ConfigService = attrs.field(init=False)
    engines: Engines = attrs.field(init=False)
    groups: Groups = attrs.field(init=False)
    commands: EngineCommands = attrs.field(init=False)
    image_keys: ImageKeys = attrs.field(init=False)
    images: Images = attrs.field(init=False)
    machines: Machines = attrs.field(init=False)
    local: LocalCloud = attrs.field(init=False)
    sessions: Sessions = attrs.field(init=False)
    candidates: Candidates = attrs.field(init=False)
    sync: Sync = attrs.field(init=False)
    departures: Departures = attrs.field(init=False)
    traffic: FleetTraffic = attrs.field(init=False)
    ssh: SecureChannelServer = attrs.field(init=False)
    channel_events: ChannelEvents = attrs.field(init=False)
    watchdog: Watchdog = attrs.field(init=False)
    _shown: Shown = attrs.field(init=False)
    started_at: float = attrs.field(default=0.0, init=False)
    _ready: bool = attrs.field(default=False, init=False)

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Store and memory first, then what listens, the operator's socket last."""
        self.started_at = self.reactor.seconds()
        self._shown = Shown.of(self.identity)
        await self._open_stores(stack)
        self.watchdog = Watchdog(self.reactor, ControllerEvents(self.events.emit).blocked)
        self.watchdog.start()
        stack.callback(self.watchdog.stop)
        await self._load()
        self._make_sessions(stack)
        # Before the fleet comes: it looks at all that there is.
        garbage = Garbage(self.reactor, resident_kib)
        stack.callback(garbage.stop)
        garbage.start()
        await self._listen_ssh(stack)
        await self._listen_registration(stack)
        await self._start_machines(stack)
        await self._listen_api(stack)
        self._renew_in_time(stack)
        await self._watch_expiry(stack)
        self._ready = True
        ControllerEvents(self.events.emit).started(self.identity.name)

    # Steps

    async def _open_stores(self, stack: contextlib.AsyncExitStack) -> None:
        paths = self.identity.paths
        log = await open_event_log(paths.events, self.reactor)
        stack.push_async_callback(awaited(log.close))
        self.events = Events(log, self.reactor)
        stack.push_async_callback(self.events.stop)
        self.store = await open_sqlite_store(paths.store, self.reactor)
        stack.push_async_callback(awaited(self.store.close))

    async def _load(self) -> None:
        settings, identity, emit = self.settings, self.identity, self.events.emit
        wall = WallClock(self.reactor)
        self.config = ConfigService(
            ConfigStore(
                self.store,
                HistoryLimits(settings.config.history_versions, settings.config.history_mib * MIB),
            ),
            wall,
            lambda thing: self.groups.why_needed(thing),  # noqa: PLW0108 - groups are made from this, a moment later
            ConfigEvents(self.events.emit).committed,
            deferToThread,
        )
        await self.config.load()
        permits = Permits(
            PermitRules(
                settings.ssh.reverse_port,
                permit_open=(("localhost", settings.control.port),),
                networks=lambda group: self.groups.networks(group),  # noqa: PLW0108 - and the engines from this
            ),
            PermitFiles(identity.paths.aviseuser_keys, identity.paths.known_hosts),
            self.reactor,
            in_thread=deferToThread,
        )
        tokens = Tokens(self.store, wall, ttl_s=settings.registration.token_lifetime_s)
        index = EngineIndex(prefix=settings.controller.loopback_prefix)
        self.engines = Engines(self.store, wall, emit, tokens, permits, index)
        self.groups = Groups(self.config, self.engines)
        self.image_keys = ImageKeys(self.store, wall)
        await self.engines.load()
        await self.image_keys.load()
        self.commands = EngineCommands(self.engines)
        self.config.listen(self._groups_changed)
        self.engines.listen(self._record_changed)
        # Controllers of the same cluster will log in as avictlruser; alone there is none.
        write_public(identity.paths.avictlruser_keys, b"")

    def _groups_changed(self, configuration: Configuration) -> None:
        self.engines.permits.update_all(self.engines.all())

    def _make_sessions(self, stack: contextlib.AsyncExitStack) -> None:
        settings, identity = self.settings, self.identity
        control = settings.control
        self.sessions = Sessions(
            self.reactor,
            About(identity.name, identity.cluster, software_version()),
            Knowledge(
                membership=self._current_list,
                fence=lambda: self.config.fence,
                quarantine=self._quarantine,
            ),
            SessionSettings(
                heartbeat_interval_s=control.heartbeat_interval_s,
                heartbeat_misses=control.heartbeat_misses,
                report_interval_s=control.report_interval_s,
                rtt_high_s=control.rtt_warning_ms / 1000,
                rtt_clear_s=control.rtt_warning_ms / 1000 * 6 / 7,
            ),
        )
        self.candidates = Candidates(self.engines, self.reactor, self.groups.down_delay_s)
        self.engines.listen(self.candidates.record_changed)
        self.sync = Sync(
            self.config,
            lambda: self.candidates,
            self._name_of,
            self.reactor,
            self.events.emit,
            settings.config.straggler_s,
        )
        self.candidates.changed = self.sync.engines_changed
        self.config.listen(lambda _: self.candidates.groups_changed())
        fleet = fleet_of(self.config, self.engines, self.sync, self.sessions)
        self.traffic = FleetTraffic(Places(fleet, self.reactor), self.reactor, self.events.emit)
        classes = ClassTeller(self.groups.command_classes)
        self.config.listen(lambda _: classes.groups_changed())
        for listener in (
            self,
            self.candidates,
            self.sync,
            self.traffic,
            classes,
            SessionEvents(self.events.emit, self._name_of, self.reactor, self._sent_away),
        ):
            self.sessions.add_listener(listener)
        self.sync.start()
        stack.callback(self.sync.stop)
        view = PlacementView(self.config, self.engines, self.sync, self.reactor)
        self.departures = Departures(self.commands, view, self._delete_machine, self._send_away, self.reactor)
        self.traffic.start()
        stack.callback(self.traffic.stop)
        stack.callback(self.candidates.stop)
        self.sessions.expect(record.uuid for record in self.engines.all() if record.connected_once)

    def _name_of(self, se: SeId) -> str:
        record = self.engines.find(se)
        return se if record is None else record.name

    def _sent_away(self, se: SeId) -> bool:
        record = self.engines.find(se)
        return record is not None and record.lifecycle in {Lifecycle.DELETED, Lifecycle.QUARANTINED}

    async def _listen_ssh(self, stack: contextlib.AsyncExitStack) -> None:
        self.channel_events = ChannelEvents(self.events.emit, self._name_of)
        settings = self.settings.ssh
        services = ServiceTable()
        services.register(CONTROL_SERVICE, self.settings.control.port, self.sessions.build, Priority.CONTROL)
        reverse = ReverseListeners(
            self.reactor, self.reactor, partial(shared_socket, port=settings.reverse_port)
        )
        stack.push_async_callback(reverse.stop)
        users = {"aviseuser": self.engines.permits.keys, "avictlruser": AuthorizedKeys()}
        self.ssh = secure_channel_server(
            settings,
            self.identity.host_key,
            partial(Access, users, services, reverse),
            self.channel_events,
            self.reactor,
        )
        # After a start nobody has logged in yet, and the whole fleet comes at once.
        for record in self.engines.all():
            self._expect(None, record)
        self.engines.listen(self._expect)
        self.engines.permits.start()
        stack.push_async_callback(self.engines.permits.stop)
        port = listen_plain(self.reactor, settings.port, settings.bind, "[ssh] port", self.ssh)
        stack.callback(self.ssh.drop_all, "the controller stops")
        stack.push_async_callback(awaited(self.sessions.stop))
        stack.push_async_callback(awaited(port.stopListening))

    def _expect(self, before: SeRecord | None, after: SeRecord) -> None:
        """Its network is an SE's from now on, as far as the SSH server's bounds go."""
        if after.lifecycle in LOGS_IN and after.source and (before is None or before.source != after.source):
            self.ssh.gate.know(after.source)

    async def _listen_registration(self, stack: contextlib.AsyncExitStack) -> None:
        settings, identity = self.settings.registration, self.identity
        enrolment = Enrolment(
            identity.cluster, self.engines, self.image_keys, self.config.group, FailureBudget(self.reactor)
        )
        api = RegistrationApi(
            enrolment,
            lambda: self._current_list().document,
            {CONTROL_SERVICE: self.settings.control.port},
        )
        site = BoundedSite(Router(api.routes(), self.reactor), self.reactor)
        place = Place(settings.port, "[registration] port", settings.bind)
        port = listen_tls(self.reactor, place, site, self._shown.registration)
        stack.push_async_callback(awaited(port.stopListening))

    async def _start_machines(self, stack: contextlib.AsyncExitStack) -> None:
        identity = self.identity
        sources = ImageSources(
            identity.root,
            identity.cluster,
            lambda: self._current_list().document,
            software_version(),
            lambda: deferToThread(image_package),
        )
        self.images = Images(self.image_keys, sources, identity.paths.state / "images")
        self.local = LocalCloud(
            LocalSettings(base=identity.paths.local_cloud), self.reactor, self.reactor, self._end_data_plane
        )
        self.machines = Machines(
            self.engines,
            {"local": self.local},
            self.images.cloud_file,
            self._meta,
            {"local": require_local_envoy},
        )
        await self.machines.start()
        stack.push_async_callback(self.machines.stop)
        self.departures.start()
        stack.callback(self.departures.stop)

    def _meta(self, token: str) -> MetaInfo:
        addresses = registration_addresses(self.identity.membership)
        return MetaInfo(cluster=self.identity.cluster, controllers=addresses, token=token)

    def _end_data_plane(self, state: Path) -> Deferred[None]:
        return deferToThread(stop_data_plane, state / "data-plane").addCallback(lambda _: None)

    async def _listen_api(self, stack: contextlib.AsyncExitStack) -> None:
        surface = OperatorSurface(self.reactor, self.settings.api, self.identity, self.events.emit)
        await surface.open(self.store, stack)
        await surface.listen(self._routes(surface), self._shown.api, stack)

    def _renew_in_time(self, stack: contextlib.AsyncExitStack) -> None:
        renewal = Renewal(
            self.identity.paths.state,
            facts_of(self.settings),
            self._shown,
            self._renewed,
            self.events.emit,
            self.reactor,
            deferToThread,
        )
        stack.callback(renewal.stop)
        renewal.start()

    async def _watch_expiry(self, stack: contextlib.AsyncExitStack) -> None:
        wall = self.config.clock.seconds
        expiry = CertificateExpiry(self.config, self.store, self.events.emit, self.reactor, wall)
        stack.callback(expiry.stop)
        await expiry.start()

    def _renewed(self, identity: ControllerIdentity) -> None:
        before, self.identity = self.identity, identity
        if identity.membership.number > before.membership.number:
            self.sessions.publish_membership()

    def _current_list(self) -> CurrentList:
        return CurrentList(self.identity.membership.number, self.identity.membership_document)

    def _routes(self, surface: OperatorSurface) -> tuple[Route, ...]:
        whole = Whole(
            cluster=self.identity.cluster,
            name=self.identity.name,
            software=software_version(),
            started_at=self.started_at,
            membership=lambda: self.identity.membership.number,
            engines=self.engines,
            sessions=self.sessions,
            config=self.config,
            sync=self.sync,
            not_ready=lambda: "" if self._ready else "it is starting",
            reactor=self.watchdog.health,
            logins=self._logins,
        )
        api = OperatorApi(
            whole,
            self.commands,
            self.machines,
            self.images,
            self.events,
            self._meta,
            self.traffic,
            self.departures,
        )
        return api.routes(self.reactor, surface.routes())

    # What the parts ask and tell

    def _logins(self) -> StrangerCounts:
        gate = self.ssh.gate
        return StrangerCounts(
            in_progress=gate.total,
            turned_away=gate.turned_away,
            logged_in=self.channel_events.logged_in,
            refused=self.channel_events.refused_logins,
            login_ms=round(gate.rate.interval_s * 1000, 2),
        )

    def attached(self, session: SeSession) -> None:
        """An SE that has been here once may serve from now on, and needs its token and image no more."""
        self._do(self.commands.connected(session.se), "noting that {se} connected", se=session.se)

    def _quarantine(self, se: SeId, why: str) -> None:
        self._do(self.commands.quarantine(se, why), "quarantining {se}", se=se)

    def _do(self, work: Any, what: str, **facts: Any) -> None:
        doing: Deferred[Any] = Deferred.fromCoroutine(work)
        doing.addErrback(lambda f: _log.failure(what + " failed", f, **facts))

    def _record_changed(self, before: SeRecord | None, after: SeRecord) -> None:
        if after.lifecycle is Lifecycle.DELETED:
            self._send_away(after.uuid)
            self.sessions.forget(after.uuid)
        elif after.lifecycle is Lifecycle.QUARANTINED:
            self.departures.cut_off(after.uuid)
        elif before is not None and before.lifecycle is Lifecycle.QUARANTINED:
            self.sessions.pardon(after.uuid)

    async def _delete_machine(self, se: str) -> SeRecord:
        return await self.machines.delete(se)

    def _send_away(self, se: SeId) -> None:
        """End the sessions of one that is quarantined or deleted, which its record says."""
        record = self.engines.find(se)
        word = "deleted" if record is None else record.lifecycle.lower()
        self.sessions.close(se, word, f"this service engine is {word}")
        self.reactor.callLater(GOODBYE_S, self._cut_off, se)

    def _cut_off(self, se: SeId) -> None:
        """End whatever an SE without rights still has open, unless it was pardoned meanwhile."""
        record = self.engines.find(se)
        if record is None or record.lifecycle in {Lifecycle.QUARANTINED, Lifecycle.DELETED}:
            self.ssh.drop(se)
