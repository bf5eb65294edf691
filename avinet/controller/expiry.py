"""Tells ahead of time that certificates of virtual services and pools expire: ``SSL_CERTIFICATE_EXPIRES``.

A certificate passes steps: 30 days left, 7 days, 1 day, expired.  Each is told once, and only the last one passed: who
applies a certificate with five days left hears of it once.  What was told is in the store under its fingerprint, so that
neither a restart nor the next leader tells it again, and a renewed certificate begins anew.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from avinet.controller.configuration import ConfigService
from avinet.controller.engines import Emit
from avinet.errors import AvinetError
from avinet.model.certificates import CertificateFacts, PemError, facts_of
from avinet.model.config import SSLKeyAndCertificate, VirtualService, kind_of
from avinet.model.configuration import Configuration
from avinet.model.events import Level
from avinet.model.ids import ObjectId
from avinet.model.references import references_of
from avinet.store.interface import Put, Store
from avinet.units import DAY_S

STEPS: tuple[tuple[float, Level], ...] = (
    (30 * DAY_S, Level.WARNING),
    (7 * DAY_S, Level.WARNING),
    (1 * DAY_S, Level.ERROR),
    (0.0, Level.ERROR),
)
"""Seconds left, and how much it matters by then."""
LOOK_S = 3_600.0
"""Between looks: an hour is nothing beside a day's warning."""
MAX_NAMED = 10
"""Virtual services named in one event."""
TOLD = "certificates/told"
"""One key: fingerprint to the number of the last step told (from 1).  A thousand certificates are 100 KiB."""
MAX_TOLD = 5_000
"""Half of what a transaction may hold; of more certificates about to expire, some are told again after a restart."""

_log = Logger()


@attrs.frozen
class Expiring:
    """A step that a certificate has passed."""

    uuid: ObjectId
    name: str
    facts: CertificateFacts
    step: int
    """From 1."""
    users: tuple[str, ...]
    """``virtualservice www`` and ``pool db``; a pool's own virtual services beside it."""


def step_of(facts: CertificateFacts, now: float) -> int:
    """How many steps a certificate has passed at ``now`` (UNIX seconds)."""
    left = facts.not_after.timestamp() - now
    return sum(left <= limit for limit, _ in STEPS)


def expiring(configuration: Configuration, told: Mapping[str, int], now: float) -> list[Expiring]:
    """What is to be told at ``now``, given the steps that were (by fingerprint), by name."""
    found: list[tuple[SSLKeyAndCertificate, CertificateFacts, int]] = []
    for thing in configuration.all_of(SSLKeyAndCertificate):
        try:
            facts = facts_of(thing.certificate.certificate)
        except PemError:
            continue  # stored by other rules than today's; the SEs say what is wrong
        step = step_of(facts, now)
        if step > told.get(facts.fingerprint, 0):
            found.append((thing, facts, step))
    users = _users(configuration, {thing.uuid for thing, _, _ in found})
    return [Expiring(thing.uuid, thing.name, facts, step, users[thing.uuid]) for thing, facts, step in found]


def _users(configuration: Configuration, wanted: set[ObjectId]) -> dict[ObjectId, tuple[str, ...]]:
    """Virtual services that show each certificate, and those whose pools show it to servers."""
    if not wanted:
        return {}
    direct: dict[ObjectId, set[ObjectId]] = {}
    for uuid, stored in configuration.objects.items():
        for _, ref in references_of(stored.thing):
            direct.setdefault(ref, set()).add(uuid)

    def named(uuids: Iterable[ObjectId]) -> tuple[str, ...]:
        things = [configuration.objects[uuid].thing for uuid in uuids]
        return tuple(sorted(thing.name for thing in things if isinstance(thing, VirtualService)))

    found: dict[ObjectId, tuple[str, ...]] = {}
    for uuid in wanted:
        users = set(direct.get(uuid, ()))
        for user in tuple(users):
            if kind_of(configuration.objects[user].thing) == "pool":
                users |= direct.get(user, set())
        found[uuid] = named(users)
    return found


@attrs.define(eq=False)
class CertificateExpiry:
    """Looks each hour and at each new version.  ``start`` it once the configuration is loaded, and ``stop`` it; as often
    as this controller begins to lead.
    """

    config: ConfigService
    store: Store
    emit: Emit
    clock: IReactorTime
    wall: Callable[[], float]
    """UNIX seconds."""
    _told: dict[str, int] = attrs.field(factory=dict, init=False)
    _looks: LoopingCall = attrs.field(init=False, repr=False)
    _writing: Deferred[None] | None = attrs.field(default=None, init=False, repr=False)
    _unwritten: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._looks = LoopingCall(lambda: self._look(self.config.current))
        self._looks.clock = self.clock
        self.config.listen(self._changed)

    async def start(self) -> None:
        """Learn what was told, then look."""
        try:
            entry = await self.store.get(TOLD)
            if entry is not None:
                self._told = msgspec.json.decode(entry.value, type=dict[str, int])
        except (AvinetError, msgspec.DecodeError) as why:
            # To tell something twice is better than not to start.
            _log.warn("what was told of certificates cannot be read: {why}", why=str(why))
        self._looks.start(LOOK_S).addErrback(lambda f: _log.failure("looking at certificates ended", f))

    def stop(self) -> None:
        """Look no more."""
        if self._looks.running:
            self._looks.stop()

    def _changed(self, configuration: Configuration) -> None:
        if self._looks.running:
            self._look(configuration)

    def _look(self, configuration: Configuration) -> None:
        found = expiring(configuration, self._told, self.wall())
        for one in found:
            self._tell(one)
            self._told[one.facts.fingerprint] = one.step
        if found:
            self._keep(configuration)

    def _tell(self, one: Expiring) -> None:
        _, level = STEPS[one.step - 1]
        left = one.facts.days_left(self.wall())
        until = f"{one.facts.not_after:%Y-%m-%d %H:%M} UTC"
        said = f"expired on {until}" if one.step == len(STEPS) else f"expires on {until}"
        shown = ", ".join(one.users[:MAX_NAMED]) + (" and others" if len(one.users) > MAX_NAMED else "")
        self.emit(
            "SSL_CERTIFICATE_EXPIRES",
            level if one.users else Level.WARNING,
            one.uuid,
            f"Certificate {one.name} {said}. "
            + (f"Virtual services that use it: {shown}." if one.users else "No virtual service uses it."),
            name=one.name,
            fingerprint=one.facts.fingerprint,
            not_after=one.facts.not_after.timestamp(),
            days_left=left,
            names=list(one.facts.names[:MAX_NAMED]),
            virtual_services=list(one.users[:MAX_NAMED]),
        )

    def _keep(self, configuration: Configuration) -> None:
        """Write what was told; after the events, since one told twice is better than one not told."""
        there: set[str] = set()
        for thing in configuration.all_of(SSLKeyAndCertificate):
            with contextlib.suppress(PemError):
                there.add(facts_of(thing.certificate.certificate).fingerprint)
        self._told = {one: step for one, step in self._told.items() if one in there}
        self._unwritten = True
        if self._writing is None:
            self._writing = Deferred.fromCoroutine(self._write())
            self._writing.addErrback(
                lambda f: _log.failure("keeping what was told of certificates failed", f)
            )

    async def _write(self) -> None:
        try:
            while self._unwritten:
                self._unwritten = False
                kept = dict(list(self._told.items())[-MAX_TOLD:])
                await self.store.transact([], [Put(TOLD, msgspec.json.encode(kept))])
        except AvinetError as why:
            # A full disk: it is told again after a restart.
            _log.warn("what was told of certificates cannot be kept: {why}", why=str(why))
        finally:
            self._writing = None
