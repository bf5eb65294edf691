"""Events of health: servers, pools and virtual services that go down and come up.

What has changed is queued and looked at in slices, so that the loss of half a fleet does not hold up its heartbeats.
Of a pool's servers, those that turned together are one event; of many objects, one event names the first.
"""

from collections.abc import Iterable
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from avinet.controller.engines import Emit
from avinet.controller.traffic_health import Health, ServerVerdict, Teller, Verdict
from avinet.controller.traffic_verdicts import Verdicts
from avinet.model.config import Pool, Server, VirtualService
from avinet.model.configuration import Configuration
from avinet.model.counters import POOL_KIND, SERVICE_KIND
from avinet.model.events import Level

SLICE_S = 0.010
"""Of judging in one tick."""
MANY = 20
"""Objects of one kind that turned at once; more become one event."""
SHOWN = 5
"""Servers or objects named in one sentence."""

_WORDS = {POOL_KIND: ("pool", "pools"), SERVICE_KIND: ("virtual service", "virtual services")}
_CODES = {POOL_KIND: "POOL", SERVICE_KIND: "VS"}

Key = tuple[str, str]
"""Kind and UUID."""


@attrs.frozen
class _Turned:
    """An object that is to be told of."""

    kind: str
    uuid: str
    name: str
    verdict: Verdict
    down: bool


@attrs.define(eq=False)
class HealthEvents:
    """``mark`` what may have changed; ``work`` each second."""

    verdicts: Verdicts
    clock: IReactorTime
    emit: Emit
    _queue: dict[Key, None] = attrs.field(factory=dict, init=False, repr=False)
    _teller: Teller = attrs.field(factory=Teller, init=False, repr=False)
    _users: dict[str, tuple[str, ...]] = attrs.field(factory=dict, init=False, repr=False)
    """A pool's UUID to the virtual services that use it."""
    _everything: dict[Key, None] = attrs.field(factory=dict, init=False, repr=False)
    _made_of: Configuration | None = attrs.field(default=None, init=False, repr=False)
    """Of which version both are."""
    _all: bool = attrs.field(default=True, init=False)

    def mark_pools(self, pools: Iterable[str]) -> None:
        """The health of these has changed, and of what uses them."""
        for pool in pools:
            self._queue[POOL_KIND, pool] = None
            for service in self._users.get(pool, ()):
                self._queue[SERVICE_KIND, service] = None

    def mark_all(self) -> None:
        """The configuration, the placement or an SE changed; of a fleet that comes back this is said once a tick."""
        self._all = True

    def _queue_all(self) -> None:
        self._all = False
        configuration = self.verdicts.places.fleet.configuration()
        if self._made_of is not configuration:
            self._made_of = configuration
            self._index(configuration)
        self._queue.update(self._everything)

    def _index(self, configuration: Configuration) -> None:
        """Once for each version: who uses which pool, and what there is to be told of."""
        users: dict[str, list[str]] = {}
        self._everything = {}
        servers: list[str] = []
        for stored in configuration.objects.values():
            thing = stored.thing
            if isinstance(thing, VirtualService):
                self._everything[SERVICE_KIND, thing.uuid] = None
                for pool in self.verdicts.places.pools_of(thing):
                    users.setdefault(pool.uuid, []).append(thing.uuid)
            elif isinstance(thing, Pool):
                self._everything[POOL_KIND, thing.uuid] = None
                servers += [_key_of(thing, server) for server in thing.servers]
        self._users = {pool: tuple(services) for pool, services in users.items()}
        self._teller.keep((*(uuid for _, uuid in self._everything), *servers))

    def work(self) -> None:
        """Judge what was marked, for a slice of time, and tell what is to be told."""
        if self._all:
            self._queue_all()
        until = self.clock.seconds() + SLICE_S
        again: list[Key] = []
        turned: list[_Turned] = []
        while self._queue and self.clock.seconds() < until:
            key = next(iter(self._queue))
            del self._queue[key]
            if self._judge(*key, turned):
                again.append(key)
        self._queue.update(dict.fromkeys(again))
        for kind in _WORDS:
            for down in (True, False):
                self._tell([one for one in turned if one.kind == kind and one.down is down])

    def _judge(self, kind: str, uuid: str, turned: list[_Turned]) -> bool:
        """Whether it has to be looked at again."""
        places = self.verdicts.places
        again = False
        thing: Pool | VirtualService | None = places.pool(uuid) if kind == POOL_KIND else places.service(uuid)
        if thing is None:
            return False
        if isinstance(thing, Pool):
            again = self._judge_servers(thing)
            verdict = self.verdicts.pool(thing)
        else:
            verdict = self.verdicts.service(thing)
        tell = self._teller.look(uuid, self.clock.seconds(), down=_is_down(verdict.health))
        if tell is not None:
            turned.append(_Turned(kind, uuid, thing.name, verdict, tell))
        return again or self._teller.undecided(uuid)

    def _judge_servers(self, pool: Pool) -> bool:
        now = self.clock.seconds()
        down: list[ServerVerdict] = []
        up: list[ServerVerdict] = []
        again = False
        for server, one in zip(pool.servers, self.verdicts.servers(pool), strict=True):
            key = _key_of(pool, server)
            tell = self._teller.look(key, now, down=_is_bad(one.verdict.health))
            if tell is not None:
                (down if tell else up).append(one)
            again = again or self._teller.undecided(key)
        if down:
            self._tell_servers(pool, down)
        if up:
            names = _some([one.label for one in up])
            text = (
                f"Server {names} of pool {pool.name} is up again."
                if len(up) == 1
                else f"{len(up)} servers of pool {pool.name} are up again: {names}."
            )
            self._emit("SERVER_UP", Level.INFO, pool, text, [one.label for one in up])
        return again

    def _tell_servers(self, pool: Pool, down: list[ServerVerdict]) -> None:
        if len(down) == 1:
            text = (
                f"Server {down[0].label} of pool {pool.name} is down{self._where(down[0])}: {_why(down[0])}."
            )
        else:
            each = _some([f"{one.label}{self._where(one)} ({_why(one)})" for one in down])
            text = f"{len(down)} servers of pool {pool.name} are down: {each}."
        self._emit("SERVER_DOWN", Level.WARNING, pool, text, [one.label for one in down])

    def _emit(self, code: str, level: Level, pool: Pool, text: str, servers: list[str]) -> None:
        self.emit(code, level, pool.uuid, text, name=pool.name, servers=servers[:MANY], count=len(servers))

    def _where(self, one: ServerVerdict) -> str:
        """Empty when it is so everywhere."""
        if len(one.down_on) == len(one.views):
            return ""
        return " on " + _some(sorted(self.verdicts.places.fleet.name_of(se) for se in one.down_on))

    def _tell(self, turned: list[_Turned]) -> None:
        if not turned:
            return
        first = turned[0]
        one_word, many_word = _WORDS[first.kind]
        code = f"{_CODES[first.kind]}_{'DOWN' if first.down else 'UP'}"
        level = Level.ERROR if first.down else Level.INFO
        if len(turned) > MANY:
            names = [one.name for one in turned]
            reasons = {one.verdict.reason for one in turned}
            why = f": {reasons.pop()}" if first.down and len(reasons) == 1 else ""
            text = (
                f"{len(turned)} {many_word} are {'down' if first.down else 'up again'}{why} ({_some(names)})."
            )
            self.emit(code, level, many_word, text, count=len(turned), names=names[:MANY])
            return
        for one in turned:
            why = one.verdict.reason or "the reason is not known"
            said = f"is down: {why}." if one.down else "is up again."
            text = f"{one_word.capitalize()} {one.name} {said}"
            facts: dict[str, Any] = {"why": one.verdict.reason} if one.down else {}
            self.emit(code, level, one.uuid, text, name=one.name, **facts)


def _key_of(pool: Pool, server: Server) -> str:
    """What the teller knows a server by."""
    return f"{pool.uuid} {server.ip.addr}:{server.port}"


def _is_down(health: Health) -> bool | None:
    """Of pools and virtual services: while a part serves, it is not down."""
    return {Health.DOWN: True, Health.UP: False, Health.PARTLY: False}.get(health)


def _is_bad(health: Health) -> bool | None:
    """Of servers: one SE that cannot reach it is worth a look."""
    return {Health.DOWN: True, Health.PARTLY: True, Health.UP: False}.get(health)


def _why(one: ServerVerdict) -> str:
    return one.verdict.reason or "the reason is not known"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" and others" if len(names) > SHOWN else "")
