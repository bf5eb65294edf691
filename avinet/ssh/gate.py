"""Who may start a connection: the bounds on strangers, before any cryptography is spent on them.

Connections that have not logged in yet are counted, in all and by source network, and those of networks without SEs
are paced as well: a flood whose connections end as soon as they began never fills a count.  The pace is a bucket of
tokens, one for each network and one for all strangers.  A connection takes a token and a login gives it back, so that
failures cost and successes do not: a fleet that comes back as one source is held to no pace.  Whoever fails to
authenticate from a network without SEs pays more (OpenSSH's PerSourcePenalties, but not for a NATed fleet).

A network is known when SEs have enrolled or logged in from it.  It gets room for each of its SEs to come back at
once, and strangers elsewhere cannot use that room.  Who is turned away is told when to come back, by a queue
(``avinet.ssh.pace``) of his own kind: strangers do not push an SE's place back.  Nothing is kept about him.  Sans-IO.
"""

import functools
import ipaddress
from collections import OrderedDict
from collections.abc import Callable

import attrs

from avinet.ssh.pace import MAX_WAIT_S, Queue, Rate

_KNOWN_NETWORKS = 16_384
"""Networks remembered as having SEs; the least recently seen are forgotten.  2 MiB at most."""
_NETWORKS = 4096
"""Networks whose bucket is not full; of more, those drawn on longest ago start anew.  1 MiB at most."""
_IPV4_PREFIX = 24
_IPV6_PREFIX = 56
_IDLE_S = 2.0
"""With nothing in progress for so long, whoever was told to come by now has come: twice an SE's jitter."""


@attrs.frozen
class GateLimits:
    """How many connections may be unauthenticated at once, and how many strangers may start each second."""

    total: int = 1024
    """35 MiB of buffers at the very most."""
    strangers_share: float = 0.5
    """Of these, what networks without SEs may fill together: whoever has many networks (one IPv6 /48 has 256) keeps
    no SE from coming back."""
    per_network: int = 32
    """OpenSSH's MaxStartups begins to refuse at 10; key exchange and login take 1 to 2 ms each here."""
    per_known_network: int = 512
    """Where SEs are: 1.3 s of logins."""
    strangers_per_s: float = 100.0
    """Connections from networks without SEs that come to nothing: 10 to 20 % of the reactor's time."""
    strangers_burst: int = 256
    """So many at once before that pace counts."""
    per_network_per_s: float = 5.0
    """The same from one of these networks."""
    per_network_burst: int = 64
    """Two clients that fill ``per_network``; an operator who tries keys does not notice."""
    per_known_network_per_s: float = 100.0
    """From a network with SEs: a broken or hostile machine beside them costs a fifth of the reactor's time."""
    per_known_network_burst: int = 2048
    """A fleet behind one NAT whose first connections all break."""
    failure_cost: float = 4.0
    """Tokens for each failed authentication from a network without SEs, beside the connection's own."""
    told_per_s: float = 200.0
    """Strangers turned away are told why, up to so many a second (0.1 ms each); the others are cut without a word."""
    fleet_told_per_s: float = 1000.0
    """The same for networks with SEs."""
    fleet_told_burst: int = 16_384
    """A whole fleet: an SE that is not told comes back sooner than one that is."""
    login_s: float = 1 / 400
    """From one login to the next, until it has been measured: the rate that DESIGN 12 asks for."""


@functools.lru_cache(maxsize=1024)
def network_of(address: str) -> str:
    """The /24 or /56 that ``address`` is in: what one stranger can be assumed to hold."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    prefix = _IPV4_PREFIX if parsed.version == 4 else _IPV6_PREFIX
    return str(ipaddress.ip_network((parsed, prefix), strict=False))


@attrs.define(eq=False)
class Bucket:
    """Tokens: ``burst`` at most, ``per_s`` more each second.  A failure may take it below nothing, to ``-burst``."""

    per_s: float
    burst: float
    _left: float = attrs.field(init=False)
    _at: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._left = float(self.burst)

    def left(self, now: float) -> float:
        """How many there are."""
        if now > self._at:
            self._left = min(float(self.burst), self._left + (now - self._at) * self.per_s)
            self._at = now
        return self._left

    def take(self, now: float, count: float = 1.0) -> None:
        """Draw on it."""
        self._left = max(-float(self.burst), self.left(now) - count)

    def give_back(self, now: float) -> None:
        """One was taken for nothing."""
        self._left = min(float(self.burst), self.left(now) + 1.0)


@attrs.frozen(eq=False)
class Ticket:
    """One connection that may start; it is handed back by ``Gate.leave``."""

    network: str
    drawn: tuple[Bucket, ...]


@attrs.frozen
class TurnedAway:
    """One that may not."""

    why: str
    """``crowded``: too many that have not logged in; ``pace``: too many that came to nothing."""
    wait_s: float | None
    """None: there are so many that telling them costs too much."""


@attrs.define(eq=False)
class Gate:
    """Counts and paces those who have not logged in.  ``seconds`` is a steady clock's."""

    seconds: Callable[[], float]
    limits: GateLimits = attrs.field(factory=GateLimits)
    total: int = attrs.field(default=0, init=False)
    """In progress: connections that have not logged in yet."""
    turned_away: int = attrs.field(default=0, init=False)
    """Since the start."""
    rate: Rate = attrs.field(init=False)
    _counts: dict[str, int] = attrs.field(factory=dict, init=False)
    _known: OrderedDict[str, None] = attrs.field(factory=OrderedDict, init=False)
    _buckets: OrderedDict[str, Bucket] = attrs.field(factory=OrderedDict, init=False)
    _idle_since: float = attrs.field(default=0.0, init=False)
    """When the last one left."""
    _strangers: Bucket = attrs.field(init=False)
    _words: tuple[Bucket, Bucket] = attrs.field(init=False)
    """For strangers, for the fleet."""
    _fleet_queue: Queue = attrs.field(factory=Queue, init=False)
    _stranger_queue: Queue = attrs.field(factory=Queue, init=False)

    def __attrs_post_init__(self) -> None:
        limits = self.limits
        self.rate = Rate(limits.login_s)
        self._strangers = Bucket(limits.strangers_per_s, limits.strangers_burst)
        self._words = (
            Bucket(limits.told_per_s, limits.told_per_s),
            Bucket(limits.fleet_told_per_s, limits.fleet_told_burst),
        )

    def know(self, address: str) -> None:
        """SEs are to be expected from there."""
        network = network_of(address)
        if network not in self._known:
            self._buckets.pop(network, None)
        self._known[network] = None
        self._known.move_to_end(network)
        if len(self._known) > _KNOWN_NETWORKS:
            self._known.popitem(last=False)

    def admit(self, address: str) -> Ticket | TurnedAway:
        """Whether another connection from ``address`` may start; if so it counts until ``leave``."""
        network, limits, now = network_of(address), self.limits, self.seconds()
        known = network in self._known
        count = self._counts.get(network, 0)
        room = limits.per_known_network if known else limits.per_network
        if self.total >= limits.total or count >= room or not (known or self._room_elsewhere()):
            return self._turn_away("crowded", now, known=known)
        mine = self._bucket(network, known=known)
        drawn = (mine,) if known else (mine, self._strangers)
        if any(bucket.left(now) < 1.0 for bucket in drawn):
            return self._turn_away("pace", now, known=known, bucket=mine)
        for bucket in drawn:
            bucket.take(now)
        if not self.total and now - self._idle_since > _IDLE_S:
            self._fleet_queue.restart()
            self._stranger_queue.restart()
        self.total += 1
        self._counts[network] = count + 1
        return Ticket(network, drawn)

    def leave(self, ticket: Ticket, *, authenticated: bool, behind: bool = False) -> None:
        """It proved itself, or it is gone.  ``behind``: others were waiting for the reactor's time."""
        network, now = ticket.network, self.seconds()
        self.total -= 1
        self._idle_since = now
        left = self._counts[network] - 1
        if left:
            self._counts[network] = left
        else:
            del self._counts[network]
        if authenticated:
            self.rate.completed(now, behind=behind)
            for bucket in ticket.drawn:
                bucket.give_back(now)
            self.know(network.partition("/")[0])

    def failed(self, address: str) -> None:
        """Somebody there could not prove who he is."""
        network = network_of(address)
        if network not in self._known:
            self._bucket(network, known=False).take(self.seconds(), self.limits.failure_cost)

    # Inside

    def _room_elsewhere(self) -> bool:
        """Whether one more stranger from a network without SEs fits."""
        most = self.limits.total * self.limits.strangers_share
        # Counted only when it may matter.
        return self.total < most or most > sum(
            count for network, count in self._counts.items() if network not in self._known
        )

    def _bucket(self, network: str, *, known: bool) -> Bucket:
        bucket = self._buckets.get(network)
        if bucket is None:
            limits = self.limits
            bucket = (
                Bucket(limits.per_known_network_per_s, limits.per_known_network_burst)
                if known
                else Bucket(limits.per_network_per_s, limits.per_network_burst)
            )
            self._buckets[network] = bucket
            if len(self._buckets) > _NETWORKS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(network)
        return bucket

    def _turn_away(self, why: str, now: float, *, known: bool, bucket: Bucket | None = None) -> TurnedAway:
        """With the next place in the queue of his kind, and not before ``bucket``, his network's, has a token."""
        self.turned_away += 1
        words = self._words[known]
        if words.left(now) < 1.0:
            return TurnedAway(why, None)
        words.take(now)
        if known:
            wait_s = self._fleet_queue.wait_s(now, self.rate.interval_s, self.total)
        else:
            missing = max(0, round(1.0 - self._strangers.left(now)))
            wait_s = self._stranger_queue.wait_s(now, 1 / self.limits.strangers_per_s, missing)
        empty_s = 0.0 if bucket is None else (1.0 - bucket.left(now)) / bucket.per_s
        return TurnedAway(why, min(max(wait_s, empty_s), MAX_WAIT_S))
