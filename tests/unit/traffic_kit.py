"""A fleet's traffic in memory: service engines that report through a real feed, and the controller's side of it."""

from types import SimpleNamespace

import attrs

from avinet.controller.traffic import FleetTraffic
from avinet.controller.traffic_figures import FigureReader
from avinet.controller.traffic_intake import Subject
from avinet.controller.traffic_places import Places, fleet_of
from avinet.dataplane.interface import (
    Failure,
    Latency,
    PoolCounters,
    Responses,
    ServerState,
    ServerStatus,
    ServiceCounters,
    Status,
)
from avinet.se.feed import Feed
from avinet.se.lookout import Seen
from avinet.wire.codec import decode_body, encode
from avinet.wire.messages import TRAFFIC, Watch
from tests.unit.config_kit import World

REPORT_S = 60.0


class Engine:
    """One SE: its data plane's counts are set by a test, ``look`` reports as the agent would."""

    def __init__(self, fleet, name):
        self.fleet, self.name, self.se = fleet, name, f"se-{name}"
        self.services, self.pools, self.servers = {}, {}, {}
        self.started_at, self.data_plane_up = 1.0, True
        self.since = {}
        self.looks_at_once = False
        self.attach()

    def attach(self, capabilities=(TRAFFIC,)):
        self.told = []
        self.session = SimpleNamespace(
            se=self.se, hello=SimpleNamespace(capabilities=capabilities), send=self._sent
        )
        self.feed = Feed(REPORT_S, 0.0)
        self.fleet.up.add(self.se)
        self.fleet.sessions[self.se] = self.session
        self.fleet.traffic.up(self.se)
        self.fleet.traffic.attached(self.session)

    def lose(self, *, down=False):
        self.fleet.sessions.pop(self.se, None)
        if down:
            self.fleet.up.discard(self.se)
            self.fleet.traffic.down(self.se, "gone")

    def _sent(self, message):
        assert isinstance(message, Watch)
        self.told.append(message)
        self.feed.watch(message.names, message.interval_s)
        if message.anew:
            self.feed.begin_anew()
        if self.looks_at_once:
            self.fleet.clock.callLater(0, self.look)

    def served(self, service, ok=0, errors=0, ms=1.0):
        """So many more requests."""
        uuid = self.fleet.uuid("virtualservice", service)
        before = self.services.get(uuid, ServiceCounters(f"virtualservice/{uuid}"))
        bins = Latency(((ms, ms / 10, ok + errors),)) if ok + errors else Latency()
        self.services[uuid] = attrs.evolve(
            before,
            requests=before.requests + ok + errors,
            connections_total=before.connections_total + 1,
            bytes_in=before.bytes_in + 100 * (ok + errors),
            bytes_out=before.bytes_out + 1000 * (ok + errors),
            responses=Responses(
                ok=before.responses.ok + ok, server_errors=before.responses.server_errors + errors
            ),
            latency=before.latency.plus(bins),
        )

    def open(self, service, connections):
        uuid = self.fleet.uuid("virtualservice", service)
        self.services[uuid] = attrs.evolve(self.services[uuid], connections=connections)

    def sees(self, pool, server, state="UP", reason="", **more):
        name = f"pool/{self.fleet.uuid('pool', pool)}"
        state = ServerState(state)
        up = state is ServerState.UP
        failure = Failure.NONE if up else Failure.REFUSED
        key = (name, server)
        old = self.servers.get(key)
        if old is None or old.state is not state:
            self.since[key] = self.fleet.clock.seconds()
        self.servers[key] = ServerStatus(
            name, server, up, reason, **{"state": state, "failure": failure, **more}
        )

    def restart(self):
        """Its data plane dies and is started anew."""
        self.services, self.pools, self.started_at = {}, {}, self.started_at + 1

    def look(self):
        status = Status(
            self.started_at,
            tuple(self.servers.values()),
            tuple(self.services.values()),
            tuple(self.pools.values()),
        )
        self.show(Seen(self.fleet.clock.seconds(), status if self.data_plane_up else None, self.since))

    def show(self, seen):
        for message in self.feed.messages(seen):
            self.say(message)

    def say(self, message):
        self.fleet.traffic.received(self.session, decode_body(encode(message)[4:]))


class Traffics:
    """The controller's side.  ``pass_time`` looks and ticks each second."""

    def __init__(self, *documents, engines=("1",)):
        self.world = World()
        self.world.start_sync()
        self.clock = self.world.clock
        self.sessions, self.up = {}, set()
        self.events = []
        lookup = SimpleNamespace(get=self.sessions.get, is_up=lambda se: se in self.up)
        self.fleet = fleet_of(self.world.config, self.world, self.world.sync, lookup)
        self.traffic = FleetTraffic(Places(self.fleet, self.clock), self.clock, self.emit)
        self.traffic.start()
        self.reader = FigureReader(self.traffic, self.clock.seconds)
        if documents:
            self.world.apply(*documents)
        self.engines = {}
        for name in engines:
            self.world.engine(name)
            self.engines[name] = Engine(self, name)
        self.pass_time(1)

    def emit(self, code, level, subject, text, **facts):
        self.events.append((code, subject, text, facts))

    def told(self, code):
        return [text for found, _, text, _ in self.events if found == code]

    def uuid(self, kind, name):
        return self.world.config.find(kind, name).thing.uuid

    def subject(self, kind, name):
        return Subject(kind, self.uuid(kind, name))

    def pass_time(self, seconds):
        for _ in range(int(seconds)):
            self.clock.advance(1.0)
            for engine in self.engines.values():
                if engine.se in self.sessions:
                    engine.look()

    def figures(self, kind="virtualservice", name="www", since_s=3600, step_s=60):
        subject = self.subject(kind, name)
        thing = self.world.config.find(kind, name).thing
        verdicts = self.traffic.verdicts
        verdict = verdicts.service(thing) if kind == "virtualservice" else verdicts.pool(thing)
        return self.reader.read(subject, name, verdict, since_s, step_s)

    def health(self, kind="virtualservice", name="www"):
        found = self.figures(kind, name)
        return found.health, found.reason


__all__ = ["Engine", "PoolCounters", "Traffics"]
