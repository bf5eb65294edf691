"""The service engines of a controller, put together: who is here, what they should have, who serves, who leaves."""

import contextlib
from collections.abc import Coroutine
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from avinet.app.channel_surface import ChannelSurface
from avinet.app.records import Records
from avinet.app.seats import soon, while_leading
from avinet.app.session_terms import session_settings
from avinet.app.settings import ControllerSettings
from avinet.app.software import software_version
from avinet.controller.attendance import Attendance
from avinet.controller.candidates import Candidates
from avinet.controller.command_classes import ClassTeller
from avinet.controller.departures import Departures
from avinet.controller.engine_commands import EngineCommands
from avinet.controller.engines import Emit
from avinet.controller.goodbyes import Goodbyes
from avinet.controller.machines import Machines
from avinet.controller.members import Members
from avinet.controller.peers import Peers
from avinet.controller.placement_view import PlacementView
from avinet.controller.reports import AttendanceEvents, SessionEvents
from avinet.controller.returns import Returns
from avinet.controller.seat import Duty, Seat
from avinet.controller.session import SeSession
from avinet.controller.sessions import About, CurrentList, Knowledge, SessionListener, Sessions
from avinet.controller.sync import Sync
from avinet.controller.traffic import FleetTraffic
from avinet.controller.traffic_places import Places, fleet_of
from avinet.model.ids import SeId
from avinet.trust.node import ControllerIdentity

_log = Logger()


@attrs.frozen(eq=False)
class Ground:
    """What the fleet stands on, all of it loaded."""

    identity: ControllerIdentity
    settings: ControllerSettings
    members: Members
    links: Peers
    seat: Seat
    records: Records
    machines: Machines
    channels: ChannelSurface
    emit: Emit
    reactor: Any


@attrs.frozen(eq=False)
class ControllerFleet:
    """All of it; ``open`` before SEs may come, ``duties`` for the seat."""

    commands: EngineCommands
    arrivals: "Arrivals"
    sessions: Sessions
    attendance: Attendance
    candidates: Candidates
    sync: Sync
    traffic: FleetTraffic
    departures: Departures
    machines: Machines
    returns: Returns

    @classmethod
    def open(cls, ground: Ground, stack: contextlib.AsyncExitStack) -> "ControllerFleet":
        """Sessions may be built from now on."""
        settings, records, members = ground.settings, ground.records, ground.members
        config, engines, emit, reactor = records.config, records.engines, ground.emit, ground.reactor
        identity, seat = ground.identity, ground.seat
        commands = EngineCommands(engines)
        arrivals = Arrivals(commands, seat)
        terms = session_settings(settings.control)
        sessions = Sessions(
            reactor,
            About(identity.name, identity.cluster, software_version()),
            Knowledge(
                membership=lambda: CurrentList(members.current.number, members.document),
                fence=lambda: config.fence,
                quarantine=arrivals.quarantine,
            ),
            terms,
        )
        silence_s = terms.heartbeat_interval_s * terms.heartbeat_misses
        attendance = Attendance(ground.links, reactor, silence_s, sessions.expect)
        candidates = Candidates(engines, reactor, records.groups.down_delay_s)
        straggler_s = settings.config.straggler_s
        sync = Sync(config, lambda: candidates, records.name_of, reactor, emit, straggler_s)
        candidates.changed = sync.engines_changed
        config.listen(lambda _: candidates.groups_changed())
        places = Places(fleet_of(config, engines, sync, sessions), reactor)
        traffic = FleetTraffic(places, reactor, while_leading(seat, emit))
        classes = ClassTeller(records.groups.command_classes)
        config.listen(lambda _: classes.groups_changed())
        goodbyes = Goodbyes(engines, sessions, ground.channels.drop, reactor)
        told = SessionEvents(emit, records.name_of, reactor)
        for listener in (attendance, arrivals, sync, traffic, classes, told):
            sessions.add_listener(listener)
        attendance.listen(candidates)
        attendance.listen(AttendanceEvents(emit, records.name_of, goodbyes.sent_away))
        attendance.start()
        stack.callback(attendance.stop)
        returns = Returns(ground.links, sessions.all, attendance.elsewhere)
        returns.start()
        members.listen(lambda before, after: sessions.publish_membership())
        sync.leads = seat.role.leads
        sync.start()
        stack.callback(sync.stop)
        view = PlacementView(config, engines, sync, reactor)
        departures = Departures(commands, view, ground.machines.delete, goodbyes.say, reactor)
        # In this order: what an SE still serves is looked at before placement hears that it serves no more.
        engines.listen(departures.record_changed)
        engines.listen(goodbyes.record_changed)
        engines.listen(candidates.record_changed)
        traffic.start()
        stack.callback(traffic.stop)
        stack.callback(candidates.stop)
        sessions.expect(record.uuid for record in engines.all() if record.connected_once)
        return cls(
            commands,
            arrivals,
            sessions,
            attendance,
            candidates,
            sync,
            traffic,
            departures,
            ground.machines,
            returns,
        )

    def duties(self) -> tuple[Duty, ...]:
        """A leader's, in the order in which they begin."""

        async def note_attached() -> None:
            for session in self.sessions.all():
                self.arrivals.attached(session)

        return (
            Duty("pushes", soon(self.sync.lead), self.sync.rest),
            Duty("note who has come", note_attached, lambda: None),
            Duty("machines", self.machines.lead, lambda: None),
            Duty("departures", soon(self.departures.start), self.departures.stop),
        )


@attrs.frozen(eq=False)
class Arrivals(SessionListener):
    """What a leader notes in the record of an SE that came."""

    commands: EngineCommands
    seat: Seat

    def attached(self, session: SeSession) -> None:
        """One that has been here once may serve from now on, and needs its token and image no more."""
        if self.seat.role.leads:
            self._do(self.commands.connected(session.se), "noting that {se} connected", session.se)

    def quarantine(self, se: SeId, why: str) -> None:
        """Two machines have its key; they come to the leader, too."""
        if self.seat.role.leads:
            self._do(self.commands.quarantine(se, why), "quarantining {se}", se)

    def _do(self, work: Coroutine[Any, Any, object], what: str, se: SeId) -> None:
        doing = Deferred.fromCoroutine(work)
        doing.addErrback(lambda f: _log.failure(what + " failed", f, se=se))
