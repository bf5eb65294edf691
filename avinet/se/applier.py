"""What keeps an SE's data plane on the configuration that its controllers want.

Pushes from every session meet here, are put together (``avinet.se.receiver``) and applied one at a time, whole or
not at all.  The order of one push: raise and persist the fence, persist the candidate, apply, make the candidate
the last good state, and only then Ack.  A crash at any point leaves the last acknowledged state on disk.  While one
push is being applied only the newest other one waits.

The loop is closed from below: what the data plane itself reports is compared with what should be in force, after
each of its restarts and every ``CHECK_INTERVAL_S``; a difference is applied again with back-off and reported, with
what differed.

Without any controller the last good state is applied at start: the SE is headless, not dead.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredLock, execute
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from avinet.dataplane.interface import DataPlane, DataPlaneDownError, RejectedError
from avinet.errors import AvinetError
from avinet.model.fence import Fence
from avinet.model.ids import ConfigVersion
from avinet.model.resources import Resource, hashes_of, state_hash
from avinet.se.config_files import ConfigFiles, LastGood, SavedStateError
from avinet.se.drift import Drift, differences
from avinet.se.receiver import ConfigMessage, Push, Receiver, Refusal, compose
from avinet.se.reporting import report_of
from avinet.trust.files import DiskFullError, FileUnwritableError
from avinet.wire.messages import Ack, InForce, Message, Nack, Report

CHECK_INTERVAL_S = 30.0
"""How long a data plane may differ from what is wanted unseen; a check costs one read of its configuration."""
MAX_RETRY_S = 600.0
"""Re-applying what the data plane refused backs off to this; each try validates, which costs a process."""
MAX_SESSIONS = 4
"""Three controllers, and one that is being replaced; the push of the least recent one is dropped."""

Reply = Callable[[Message], None]
InThread = Callable[..., Deferred[Any]]
"""``deferToThread`` or alike: runs a blocking callable with its arguments."""

_log = Logger()


def _nowhere(message: Message, told: Reply | None) -> None:
    """What is announced while nobody is attached."""


@attrs.frozen
class _Asked:
    push: Push
    reply: Reply


@attrs.define(eq=False)
class Applier:
    """One SE's configuration.  ``start`` starts the data plane, ``stop`` detaches from it and leaves it running.

    ``announce`` sends a message to every attached controller, but not to the one that has its answer already.
    """

    dataplane: DataPlane
    files: ConfigFiles
    clock: IReactorTime
    announce: Callable[[Message, Reply | None], None] = _nowhere
    in_thread: InThread = execute
    drifted: Callable[[Drift], None] = lambda drift: None
    """Told of what was found to differ from what should be in force."""
    settled: Callable[[Mapping[str, Resource]], None] = lambda state: None
    """Told of the last good state, at the start and when there is another one."""
    _last: LastGood = attrs.field(factory=LastGood, init=False)
    _fence: Fence = attrs.field(factory=Fence, init=False)
    _saved_fence: Fence = attrs.field(factory=Fence, init=False)
    _receivers: dict[Reply, Receiver] = attrs.field(factory=dict, init=False)
    _waiting: _Asked | None = attrs.field(default=None, init=False)
    _work: Deferred[None] | None = attrs.field(default=None, init=False)
    _turn: DeferredLock = attrs.field(factory=DeferredLock, init=False)
    _checks: LoopingCall | None = attrs.field(default=None, init=False)
    _reported_hash: str = attrs.field(default="", init=False)
    _retry_s: float = attrs.field(default=0.0, init=False)
    _retry_at: float = attrs.field(default=0.0, init=False)

    @property
    def version(self) -> ConfigVersion:
        """The version acknowledged last; 0 before any."""
        return self._last.version

    @property
    def hash(self) -> str:
        """The state hash acknowledged last; empty before any."""
        return self._last.hash

    @property
    def fence(self) -> Fence:
        """The highest fence taken."""
        return self._fence

    def start(self) -> Deferred[None]:
        """Start the data plane on the last good state.

        Fails when the data plane cannot be had at all; a last good state that it refuses now (a port taken
        meanwhile, say) is logged and tried again, since the SE is still worth reaching.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        try:
            self._last = await self.in_thread(self.files.load)
        except SavedStateError as failure:
            _log.error("starting without a configuration: {why}", why=str(failure))
        self._fence = self._saved_fence = await self.in_thread(self.files.load_fence)
        self._reported_hash = self._last.hash
        self.settled(self._last.state)
        self.dataplane.on_restart(self._restarted)
        await self.dataplane.start(self._last.state)
        await self._check(starting=True)
        self._checks = LoopingCall(self._check_safely)
        self._checks.clock = self.clock
        self._checks.start(CHECK_INTERVAL_S, now=False)

    def stop(self) -> Deferred[None]:
        """Finish the push under way, refuse the one that waits, and leave the data plane running."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._checks is not None and self._checks.running:
            self._checks.stop()
        if self._waiting is not None:
            asked, self._waiting = self._waiting, None
            asked.reply(self._nack(_refusal(asked.push, "stopping", "the agent stops")))
        if self._work is not None:
            await self._work
        await self._turn.acquire()
        await self.dataplane.detach()

    def received(self, message: ConfigMessage, reply: Reply) -> None:
        """Take one configuration message of the session that ``reply`` answers on."""
        receiver = self._receivers.pop(reply, None) or Receiver()
        self._receivers[reply] = receiver
        if len(self._receivers) > MAX_SESSIONS:
            del self._receivers[next(iter(self._receivers))]
        outcome = receiver.receive(message, self._fence)
        if isinstance(outcome, Refusal):
            reply(self._nack(outcome))
        elif outcome is not None:
            self._ask(_Asked(outcome, reply))

    def forget(self, reply: Reply) -> None:
        """The session that ``reply`` answered on is gone: drop what it had sent of an unfinished push."""
        self._receivers.pop(reply, None)

    def _ask(self, asked: _Asked) -> None:
        self._fence = asked.push.fence
        overtaken, self._waiting = self._waiting, asked
        if overtaken is not None:
            overtaken.reply(self._nack(_refusal(overtaken.push, "superseded", "a newer push came first")))
        if self._work is None or self._work.called:
            self._work = Deferred.fromCoroutine(self._work_off())

    async def _work_off(self) -> None:
        while self._waiting is not None:
            asked, self._waiting = self._waiting, None
            await self._turn.acquire()
            try:
                outcome = await self._settle(asked.push)
            except Exception as failure:  # noqa: BLE001 - whatever it is, the controller is to hear of it
                _log.failure("applying configuration {version} failed", version=asked.push.fence.version)
                text = f"{type(failure).__name__}: {failure}"
                outcome = self._nack(_refusal(asked.push, "internal", text))
            finally:
                self._turn.release()
            asked.reply(outcome)
            if isinstance(outcome, Ack):
                self.announce(InForce(version=outcome.version, hash=outcome.hash), asked.reply)

    async def _settle(self, push: Push) -> Ack | Nack:
        """Apply one push, or say why not."""
        state = compose(self._last.state, push)
        if isinstance(state, Refusal):
            return self._nack(state)
        candidate = LastGood.of(push.fence.version, state)
        try:
            if push.fence != self._saved_fence:
                await self.in_thread(self.files.save_fence, push.fence)
                self._saved_fence = push.fence
            await self.in_thread(self.files.save_candidate, candidate)
        except (DiskFullError, FileUnwritableError) as failure:
            return self._nack(_refusal(push, "no-space", str(failure)))
        refusal = await self._apply(push, candidate)
        if refusal is not None:
            await self.in_thread(self.files.drop_candidate)
            return self._nack(refusal)
        _log.info("configuration {version} is in force", version=candidate.version)
        return Ack(push=push.number, version=candidate.version, hash=candidate.hash)

    async def _apply(self, push: Push, candidate: LastGood) -> Refusal | None:
        try:
            await self.dataplane.apply(candidate.state)
        except RejectedError as failure:
            return _refusal(push, "rejected", failure.detail, failure.resource)
        except DataPlaneDownError as failure:
            return _refusal(push, "unavailable", str(failure))
        except (DiskFullError, FileUnwritableError) as failure:
            return _refusal(push, "no-space", str(failure))
        try:
            await self.in_thread(self.files.keep_candidate)
        except OSError as failure:
            # What is in force must be what a restart finds: go back.
            await self._apply_last_good()
            return _refusal(push, "no-space", f"cannot be kept on disk: {failure}")
        self._last = candidate
        self._reported_hash = candidate.hash
        self._retry_s = self._retry_at = 0.0
        self.settled(candidate.state)
        return None

    def _nack(self, refusal: Refusal) -> Nack:
        _log.warn(
            "configuration {version} refused ({reason}): {resource} {text}",
            version=refusal.fence.version,
            reason=refusal.reason,
            resource=refusal.resource,
            text=refusal.text,
        )
        return Nack(
            push=refusal.push,
            version=refusal.fence.version,
            reason=refusal.reason,
            resource=refusal.resource,
            text=refusal.text,
            hash=self.hash,
        )

    def _restarted(self) -> None:
        self._retry_at = 0.0
        self._check_safely()

    def _check_safely(self) -> Deferred[None]:
        checked = Deferred.fromCoroutine(self._check())
        return checked.addErrback(lambda f: _log.failure("checking what is in force failed", f))

    async def _check(self, *, starting: bool = False) -> None:
        """Compare what is in force with what is wanted, and apply it again where they differ."""
        await self._turn.acquire()
        try:
            if not self._last.hash:
                return  # nothing was ever wanted: what runs there, if anything, is left alone
            in_force = await self.dataplane.in_force()
            found = state_hash(in_force)
            if found != self._last.hash and self.clock.seconds() >= self._retry_at:
                differed = differences(in_force, hashes_of(self._last.state.values()))
                self._report_in_force(found)
                await self._apply_last_good()
                found = state_hash(await self.dataplane.in_force())
                drift = Drift(self.version, differed, found == self._last.hash)
                _log.warn("{drift}", drift=drift.text)
                self.drifted(drift)
            elif starting:
                # All seems well by what an earlier agent wrote; only the files themselves tell what that was.
                await self._apply_last_good()
            self._report_in_force(found)
        except DataPlaneDownError as failure:
            _log.warn("what is in force cannot be read: {why}", why=str(failure))
        finally:
            self._turn.release()

    async def _apply_last_good(self) -> None:
        self._retry_s = min(max(2 * self._retry_s, CHECK_INTERVAL_S), MAX_RETRY_S)
        self._retry_at = self.clock.seconds() + self._retry_s
        try:
            await self.dataplane.apply(self._last.state)
        except AvinetError as failure:
            _log.error(
                "configuration {version} cannot be applied again: {why}; next try in {seconds} s",
                version=self.version,
                why=str(failure),
                seconds=self._retry_s,
            )
        else:
            self._retry_s = self._retry_at = 0.0

    def _report_in_force(self, found: str) -> None:
        if found != self._reported_hash:
            self._reported_hash = found
            self.announce(InForce(version=self.version, hash=found), None)

    def report(self) -> Deferred[Report]:
        """Health and counters now; with ``data_plane_up`` false when the data plane does not answer."""
        return Deferred.fromCoroutine(self._report())

    async def _report(self) -> Report:
        try:
            return report_of(await self.dataplane.status())
        except DataPlaneDownError:
            return Report(data_plane_up=False)


def _refusal(push: Push, reason: str, text: str, resource: str = "") -> Refusal:
    return Refusal(push.number, push.fence, reason, text, resource)
