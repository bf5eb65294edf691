"""The state engine: the etcd that a controller runs for itself, and for the cluster once there is one.

A start is: its files are checked, etcd runs, it has a leader, and it asks for passwords; then it may be used.  From
then on it is watched.  A learner that has caught up is promoted by whichever member leads, without being asked to.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from avinet.controller.state_engine_binary import EtcdBinary, find_etcd
from avinet.controller.state_engine_config import EnginePlan, Timing, url_of
from avinet.controller.state_engine_failure import EngineEndedError, EngineRemovedError
from avinet.controller.state_engine_files import ROOT_USER, USER, Admitted, EngineFiles, Progress
from avinet.controller.state_engine_health import Emit, EngineHealth, EngineWatch, Status, look, make_room
from avinet.controller.state_engine_members import Members
from avinet.controller.state_engine_process import EngineProcess
from avinet.controller.state_engine_users import enable_passwords
from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ControllerName
from avinet.model.membership import Controller
from avinet.store.etcd_gateway import Gateway
from avinet.store.etcd_http import EtcdAccess, TreqHttp
from avinet.store.interface import StoreUnavailableError
from avinet.trust.files import read_private
from avinet.trust.keys import thumbprint
from avinet.trust.state_ca import StateCa
from avinet.wire.joining import StateAdmission

READY_LIMIT_S = 60.0
"""For a lone member to run and lead: 2 s, or as long as it takes to read a large log from a slow disk."""
READY_LOOK_S = 0.1
CATCH_UP_LIMIT_S = 5.0
"""For a member that has a leader to know as much as it did before."""
ENDS_BEFORE_READY = 3
"""Without a reason that is known: after 2 and 4 s it would have been another's SIGKILL."""
RESTART_PAUSE_S = 10.0
"""Between tries to start it again with another timing, when its port was taken in between, say."""
MARK_EVERY_S = 30.0
"""Between two notes of how far etcd's log reaches: what a damage cuts off later than that goes unnoticed."""
ADMIN_LIMIT_S = 20.0
"""For one call as root; a change of members may take etcd some seconds, defragmentation of 2 GiB ten or twenty."""


@error
class EngineNotReadyError(AvinetError):
    """The state engine did not come up in {seconds:.0f} s: {why}. Its log: {log}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    seconds: float
    why: str
    log: Path


@error
class EngineWentBackError(AvinetError):
    """The state engine has lost what it knew: its log in {data} reaches to entry {has} and was at {had} before, so it was damaged, or replaced by an older copy. In a cluster, replace this controller from another one (avinet cluster replace); alone, restore a backup, or, to go on with what there is, remove mark.json beside it (docs/cluster.md, "State engine")."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    data: Path
    had: int
    has: int


@error
class StateCaElsewhereError(AvinetError):
    """The key of the state engine's CA is not at {path}, so this controller cannot let another one in. It lies where the cluster was made: ask that controller, or bring the file here, as the root key."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    path: Path


@error
class MemberPortError(AvinetError):
    """Port {port} is that of {name}'s state engine already. Every controller's must differ: choose another with [store] peer_port."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    port: int
    name: str


InThread = Callable[..., Deferred[Any]]


@attrs.define(eq=False)
class StateEngine:
    """One controller's own.  ``start``, ``ready``, then ``access`` may be used; ``stop`` at the end."""

    plan: EnginePlan
    files: EngineFiles
    reactor: Any
    emit: Emit
    in_thread: InThread
    process: EngineProcess = attrs.field(init=False)
    watch: EngineWatch = attrs.field(init=False)
    members_of: Members = attrs.field(init=False)
    gateway: Gateway = attrs.field(init=False)
    """As root, to this member."""
    _looks: Gateway = attrs.field(init=False)
    """As nobody, for its status."""
    _binary: EtcdBinary | None = attrs.field(default=None, init=False)
    _ended: AvinetError | None = attrs.field(default=None, init=False)
    _ends: int = attrs.field(default=0, init=False)
    """Since it was started."""
    _stopping: bool = attrs.field(default=False, init=False)
    _watching: bool = attrs.field(default=False, init=False)
    _mark_at: float = attrs.field(default=0.0, init=False)
    _mark: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        access = self._access(ROOT_USER, ADMIN_LIMIT_S)
        self.gateway = Gateway(access, TreqHttp(self.reactor, access), self.reactor)
        self.process = EngineProcess(self.files, self.reactor, self._process_ended)
        # To log in is a transaction like any other, and etcd whose log was cut off swallows those.
        nobody = attrs.evolve(access, user="")
        self._looks = Gateway(nobody, TreqHttp(self.reactor, nobody), self.reactor)
        quota = self.plan.quota_bytes
        self.watch = EngineWatch(
            self._looks, self.reactor, self.emit, quota, lambda: make_room(self.gateway, quota), self._looked
        )
        self.members_of = Members(self.gateway)

    @property
    def access(self) -> EtcdAccess:
        """For the store: this member, as the user of keys."""
        return self._access(USER)

    @property
    def health(self) -> EngineHealth:
        """As it was at the last look."""
        return self.watch.health

    async def start(self) -> Progress:
        """Have it run; how far it has come.  Errors say what to do."""
        progress = self.files.check()
        self._ended, self._ends = None, 0
        if progress.heartbeat_ms:
            self.plan = attrs.evolve(self.plan, timing=Timing(progress.heartbeat_ms))
        self._binary = await self.in_thread(find_etcd, self.plan.binary)
        await self.process.start(self.plan, progress, self._binary)
        return progress

    async def ready(self, limit_s: float = READY_LIMIT_S) -> None:
        """Come back once it leads or follows a leader; an end that no other start can mend is raised at once.

        In a cluster the others may be up hours later, so there the limit is ``inf``.
        """
        until = self.reactor.seconds() + limit_s
        why, mark, led_since = "no member leads", self.files.mark(), 0.0
        while self.reactor.seconds() < until:
            self._raise_if_hopeless(alone=limit_s < math.inf)
            try:
                status = await look(self._looks, READY_LOOK_S * 10)
            except StoreUnavailableError as failure:
                why = failure.detail
            else:
                if status.leader and status.raft_index >= mark:
                    return
                if status.leader:
                    # A follower may hear how far the cluster is a moment later.
                    led_since = led_since or self.reactor.seconds()
                    if self.reactor.seconds() - led_since > CATCH_UP_LIMIT_S:
                        raise EngineWentBackError(data=self.files.data, had=mark, has=status.raft_index)
            await deferLater(self.reactor, READY_LOOK_S, lambda: None)
        if self._ended is not None:
            raise self._ended
        raise EngineNotReadyError(seconds=limit_s, why=why, log=self.files.log)

    def _raise_if_hopeless(self, *, alone: bool) -> None:
        if self._ended is None or (isinstance(self._ended, EngineRemovedError) and not alone):
            return  # who is removed is for the membership list to say, which others show it
        if self._ends >= ENDS_BEFORE_READY or not isinstance(self._ended, EngineEndedError):
            raise self._ended

    async def secure(self, progress: Progress) -> Progress:
        """Have a first member ask for passwords; durable before anything is kept in it."""
        if progress.phase != "starting":
            return progress
        if not progress.joining:
            await enable_passwords(
                self.gateway, lambda user: read_private(self.files.password(user)).decode()
            )
        return self.reached(msgspec.structs.replace(progress, phase="copying"))

    def reached(self, progress: Progress) -> Progress:
        """Write down how far it came."""
        self.files.reached(progress)
        return progress

    def watch_it(self) -> None:
        """Look after it from now on."""
        self._watching = True
        self.watch.start()

    async def stop(self) -> None:
        """Stop looking, then stop it."""
        self._stopping = True
        await self.watch.stop()
        await self.process.stop()
        await self._looks.close()
        await self.gateway.close()

    async def retime(self, timing: Timing) -> None:
        """Run it with another election timeout, for another round trip; nothing when it has that one."""
        if timing == self.plan.timing:
            return
        progress = self.files.check()
        self.reached(msgspec.structs.replace(progress, heartbeat_ms=timing.heartbeat_ms))
        await self.process.stop()
        while not self._stopping:
            try:
                await self.start()
            except AvinetError as why:
                self._process_ended(why)
                await deferLater(self.reactor, RESTART_PAUSE_S, lambda: None)
            else:
                return

    # What ``StateEngineGrowth`` asks

    async def require(self) -> None:
        """``StateCaElsewhereError``, or ``StoreUnavailableError`` while it has no leader."""
        if not self.files.ca_key.exists():
            raise StateCaElsewhereError(path=self.files.ca_key)
        if not (await look(self._looks)).leader:
            raise StoreUnavailableError(where="the state engine", detail="it has no leader")

    async def admit(self, member: Controller, key: Ed25519PublicKey) -> StateAdmission:
        """Let ``member`` in, where it is not, and issue a certificate over ``key``; it may be started with the answer."""
        ca = StateCa.load(self.files.ca_key, self.files.ca_pem)
        url = url_of(member.state_peer_port)
        for name, taken in self._named(await self.members_of.all()).items():
            if taken == url and name != member.name:
                raise MemberPortError(port=member.state_peer_port, name=name)
        admitted, mark = self.files.let_in(), Admitted(url, thumbprint(key))
        if admitted.get(member.name, mark) != mark:
            # The same name on another machine, or with its data lost: to etcd it must not be the same member.
            await self.members_of.remove(admitted[member.name].peer_url)
        self.files.keep_let_in({**admitted, member.name: mark})
        members = await self.members_of.add(url)
        return StateAdmission(
            ca=self.files.ca_pem.read_text(),
            certificate=ca.issue(key, member.name).decode(),
            passwords={user: read_private(self.files.password(user)).decode() for user in (ROOT_USER, USER)},
            members=self._named(members) | {member.name: url},
        )

    async def dismiss(self, name: ControllerName) -> None:
        """Take a member out; it need not be one."""
        urls = {
            known: url for known, url in self._named(await self.members_of.all()).items() if known == name
        }
        for url in urls.values():
            await self.members_of.remove(url)
        admitted = self.files.let_in()
        if admitted.pop(name, None) is not None:
            self.files.keep_let_in(admitted)

    async def members(self) -> tuple[ControllerName, ...]:
        """Those that it has."""
        return tuple(map(ControllerName, sorted(self._named(await self.members_of.all()))))

    def _named(self, members: Any) -> dict[str, str]:
        """Peer URL by name; one that never ran has the name under which it was let in."""
        names = {mark.peer_url: name for name, mark in self.files.let_in().items()}
        return {
            member.name or names.get(url) or f"member-{member.id:x}": url
            for member in members
            for url in member.peer_urls
        }

    async def _looked(self, status: Status) -> None:
        now = self.reactor.seconds()
        if status.raft_index > self._mark and now >= self._mark_at:
            self._mark, self._mark_at = status.raft_index, now + MARK_EVERY_S
            await self.in_thread(self.files.keep_mark, status.raft_index)
        if status.leads:
            await self._promote()

    async def _promote(self) -> None:
        for member in await self.members_of.all():
            if member.learner and member.name:
                await self.members_of.promote(member)

    def _process_ended(self, why: AvinetError) -> None:
        self._ended, self._ends = why, self._ends + 1
        if self._watching:
            self.watch.ended(why)

    def _access(self, user: str, limit_s: float | None = None) -> EtcdAccess:
        files = self.files
        access = EtcdAccess(
            endpoints=(self.plan.client_url,),
            ca_file=files.ca_pem,
            certificate_file=files.certificate,
            key_file=files.key_file,
            user=user,
            password_file=files.password(user),
        )
        return access if limit_s is None else attrs.evolve(access, timeout_s=limit_s)
