"""Health put together from what each service engine sees, and when operators are told that it changed.

Plain functions and one machine.  A server is up where every SE that uses its pool finds it up; a pool is up while it
has a server that is; a virtual service is up on an SE while all its pools are, and as a whole after its SEs.  What is
not known is said to be unknown, and no event is made of it.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence

import attrs

from avinet.controller.traffic_intake import DRAINING, Trouble, View
from avinet.model.config import Pool, Server
from avinet.model.ids import SeId

SETTLE_S = 1.0
"""A change is told once it has lasted so long: what belongs together comes within it, and goes into one event."""
REST_S = 30.0
"""After one was told, the next about the same thing is; what flaps is told twice a minute, and as it is at the end."""


MAX_REASONS = 2
"""In one sentence; ``avinet pool servers`` has that of each server."""
MAX_PORTS = 4


class Health(enum.StrEnum):
    """How something is, as an operator would say it."""

    UP = "UP"
    PARTLY = "PARTLY"
    """Here up, there not."""
    DOWN = "DOWN"
    DISABLED = "DISABLED"
    """By an operator."""
    UNKNOWN = "UNKNOWN"
    """No SE has said anything yet."""


@attrs.frozen
class Verdict:
    """How something is, why, and since when (the clock's seconds; None where nothing is known)."""

    health: Health
    reason: str = ""
    since: float | None = None


@attrs.frozen
class ServerVerdict:
    """One server over all SEs."""

    label: str
    verdict: Verdict
    state: str
    """The SEs' own word where they agree (also ``DRAINING``, ``EJECTED``), else ``PARTLY``."""
    views: Mapping[SeId, View] = attrs.field(factory=dict)
    trouble: Trouble | None = None
    """The last, wherever it was."""

    @property
    def down_on(self) -> tuple[SeId, ...]:
        """Where it is down by its own fault."""
        return tuple(se for se, view in self.views.items() if view.state in {"DOWN", "EJECTED"})


def label_of(server: Server) -> str:
    """``host:port`` as data planes report it."""
    address = server.ip.addr
    return f"[{address}]:{server.port}" if ":" in address else f"{address}:{server.port}"


def server_verdict(server: Server, views: Mapping[SeId, View]) -> ServerVerdict:
    """From the SEs that use its pool."""
    label = label_of(server)
    # Enabled here and draining there: it was enabled again, and that SE has yet to hear of it.
    known = {se: view for se, view in views.items() if not view.unknown}
    troubles = [view.trouble for view in views.values() if view.trouble is not None]
    trouble = max(troubles, key=lambda one: (one.until is None, one.until or one.since), default=None)
    states = {view.state for view in known.values()}
    drains = any(view.state == DRAINING for view in views.values())
    if not server.enabled:
        state = DRAINING if drains else "DISABLED"
        since = max((view.since for view in views.values()), default=None)
        return ServerVerdict(label, Verdict(Health.DISABLED, "", since), state, views, trouble)
    if not known:
        return ServerVerdict(
            label, Verdict(Health.UNKNOWN), DRAINING if drains else "UNKNOWN", views, trouble
        )
    down = [view for view in known.values() if not view.up]
    if not down:
        since = max(view.since for view in known.values())
        return ServerVerdict(label, Verdict(Health.UP, "", since), "UP", views, trouble)
    worst = min(down, key=lambda view: view.since)
    everywhere = len(down) == len(known)
    health = Health.DOWN if everywhere else Health.PARTLY
    state = worst.state if everywhere and len(states) == 1 else health.value
    reason = worst.reason or worst.failure
    return ServerVerdict(label, Verdict(health, reason, worst.since), state, views, trouble)


def pool_on_engine(pool: Pool, views: Mapping[str, View]) -> Verdict:
    """How a pool is for one SE; ``views`` by server."""
    if not pool.enabled:
        return Verdict(Health.DISABLED, "it is disabled")
    enabled = [label_of(server) for server in pool.servers if server.enabled]
    if not enabled:
        return Verdict(Health.DOWN, "all its servers are disabled" if pool.servers else "it has no servers")
    seen = [views[label] for label in enabled if label in views]
    up = [view for view in seen if view.up]
    if up:
        return Verdict(Health.UP, "", min(view.since for view in up))
    known = [view for view in seen if not view.unknown]
    if len(known) < len(enabled):
        return Verdict(Health.UNKNOWN)
    why = _together([view.reason or view.failure for view in known])
    text = f"none of its {len(known)} servers is up: {why}" if len(known) > 1 else f"its only server: {why}"
    return Verdict(Health.DOWN, text, max(view.since for view in known))


def _together(reasons: Iterable[str]) -> str:
    """Why several servers are down, in one clause: those that differ only by their ports are one reason."""
    ports: dict[str, list[str]] = {}
    for reason in dict.fromkeys(reasons):
        said, word, port = reason.rpartition(" port ")
        if word and port.isdigit():
            ports.setdefault(said, []).append(port)
        else:
            ports.setdefault(reason, [])
    clauses = [f"{said}{_of_ports(some)}" for said, some in ports.items()]
    more = " and others" if len(clauses) > MAX_REASONS else ""
    return "; ".join(clauses[:MAX_REASONS]) + more


def _of_ports(ports: Sequence[str]) -> str:
    if len(ports) < 2:
        return "".join(f" port {port}" for port in ports)
    shown = sorted(ports, key=int)
    if len(shown) > MAX_PORTS:
        return f" ports {', '.join(shown[:MAX_PORTS])} and {len(shown) - MAX_PORTS} more"
    return f" ports {', '.join(shown[:-1])} and {shown[-1]}"


def all_of(verdicts: Mapping[SeId, Verdict], names: Mapping[SeId, str]) -> Verdict:
    """Over the SEs that said something."""
    known = {se: verdict for se, verdict in verdicts.items() if verdict.health is not Health.UNKNOWN}
    if not known:
        return Verdict(Health.UNKNOWN)
    healths = {verdict.health for verdict in known.values()}
    first = next(iter(known.values()))
    since = [verdict.since for verdict in known.values() if verdict.since is not None]
    if len(healths) == 1:
        reason = first.reason
        return Verdict(first.health, reason, max(since, default=None))
    bad = {se: verdict for se, verdict in known.items() if verdict.health is not Health.UP}
    shown = ", ".join(sorted(names.get(se, se) for se in bad)[:3]) + (" and others" if len(bad) > 3 else "")
    why = next(iter(bad.values())).reason
    return Verdict(Health.PARTLY, f"on {shown}: {why}", max(since, default=None))


def service_on_engine(pools: Sequence[tuple[str, Verdict]]) -> Verdict:
    """How a virtual service is for one SE, by its pools (name, verdict), the default one first."""
    bad = [(name, one) for name, one in pools if one.health in {Health.DOWN, Health.DISABLED}]
    since = [one.since for _, one in pools if one.since is not None]
    if bad:
        name, worst = bad[0]
        health = Health.DOWN if len(bad) == len(pools) else Health.PARTLY
        return Verdict(health, f"pool {name}: {worst.reason}", worst.since)
    if any(one.health is Health.UNKNOWN for _, one in pools):
        return Verdict(Health.UNKNOWN)
    return Verdict(Health.UP, "", max(since, default=None))


@attrs.define
class _Known:
    """What operators know of one thing."""

    told: bool
    """They were told last that it is down."""
    rest_until: float = 0.0
    turned_at: float | None = None
    """Since when it is otherwise than was told."""


@attrs.define(eq=False)
class Teller:
    """Decides when a thing that turned bad or good is told: not at once, not too often, and at the end as it is."""

    _known: dict[str, _Known] = attrs.field(factory=dict, init=False, repr=False)

    def look(self, key: str, now: float, *, down: bool | None) -> bool | None:
        """How it is now (None: not known).  True: tell that it is down; False: that it is up; None: tell nothing."""
        if down is None:
            return None
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known(told=False)
        if known.told == down:
            known.turned_at = None
            return None
        if known.turned_at is None:
            known.turned_at = now
        if now < max(known.turned_at + SETTLE_S, known.rest_until):
            return None
        known.told, known.turned_at, known.rest_until = down, None, now + REST_S
        return down

    def undecided(self, key: str) -> bool:
        """It is otherwise than was told, and will have to be looked at again."""
        known = self._known.get(key)
        return known is not None and known.turned_at is not None

    def keep(self, keys: Iterable[str]) -> None:
        """Forget all but these."""
        wanted = set(keys)
        for key in [key for key in self._known if key not in wanted]:
            del self._known[key]
