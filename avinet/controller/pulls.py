"""Pulls: what operators have asked service engines for, kept on disk until it has come.

A pull is written to the ledger before an SE hears of it, and what an SE has sent for it is counted in the transaction
that takes the segment; so a restart of either side changes nothing but the time.  Each time an SE's bulk link is ready it
is asked again for whatever has not ended, with the ``up_to`` that it has named once; it sends what is left.  Whose turn it
is to send is decided by ``PullTurns``; the others have been asked and are paused.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import attrs
import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.controller.log_intake import LogIntake, LogListener
from avinet.controller.log_link import LogLink
from avinet.controller.pull_records import (
    PullEndedError,
    PullOrder,
    PullRecord,
    PullShare,
    PullState,
    PullUnknownError,
    PullView,
    TooManyPullsError,
    ledger_key,
)
from avinet.controller.pull_turns import Go, Key, PullTurns, Wait
from avinet.logs.entries import Share
from avinet.logs.ledger import Ledger
from avinet.model.ids import SeId
from avinet.model.logs import SegmentHead
from avinet.wire.log_messages import Cancel, LogMessage, Pause, Planned, Pull, PullDone, Rate, Resume

MAX_UNDER_WAY = 64
"""Pulls that have not ended: as many as an SE takes at once."""
MAX_KEPT = 200
"""Pulls that have ended; the oldest are forgotten.  With 1,000 SEs each some 20 MB on disk."""

_encode = msgspec.msgpack.encode


@attrs.define(eq=False)
class _Pull:
    id: int
    record: PullRecord
    shares: dict[SeId, PullShare]

    @property
    def key(self) -> str:
        """In the ledger, where they sort as text."""
        return ledger_key(self.id)

    @property
    def ended(self) -> bool:
        return all(share.ended for share in self.shares.values())


@attrs.define(eq=False)
class Pulls(LogListener):
    """The service.  ``wall`` gives UNIX seconds."""

    ledger: Ledger
    intake: LogIntake
    clock: IReactorTime
    wall: Callable[[], float]
    _pulls: dict[int, _Pull] = attrs.field(factory=dict, init=False, repr=False)
    _turns: PullTurns = attrs.field(factory=PullTurns, init=False, repr=False)
    _last: int = attrs.field(default=0, init=False)
    _order: DeferredLock = attrs.field(factory=DeferredLock, init=False, repr=False)
    """Of writes: what was decided last must be what stays."""
    _log: ClassVar[Logger] = Logger()

    async def start(self) -> None:
        """Load them; before any link."""

        def load() -> list[tuple[int, PullRecord, list[PullShare]]]:
            found = []
            for key, body in self.ledger.pulls():
                try:
                    shares = [PullShare.of(share) for share in self.ledger.shares(key)]
                    found.append((int(key), msgspec.msgpack.decode(body, type=PullRecord), shares))
                except (msgspec.MsgspecError, ValueError) as why:
                    # A byte of it was changed on the disk: it is asked for again, what did not come is on the SEs.
                    self._log.error(
                        "pull {pull} cannot be read and is forgotten: {why}", pull=key, why=str(why)
                    )
                    self.ledger.forget_pull(key)
            return found

        for number, record, shares in await self.intake.threads.commits.run(load):
            self._pulls[number] = _Pull(number, record, {share.se: share for share in shares})
            self._last = max(self._last, number)
        self.intake.add_listener(self)

    # What operators do

    async def create(self, order: PullOrder) -> PullView:
        """Ask; on disk when this returns.  ``TooManyPullsError``."""
        if sum(not pull.ended for pull in self._pulls.values()) >= MAX_UNDER_WAY:
            raise TooManyPullsError(limit=MAX_UNDER_WAY)
        self._last += 1
        record = PullRecord(order=order, at=self.wall())
        engines = tuple(dict.fromkeys(order.engines))
        pull = _Pull(self._last, record, {se: PullShare(se) for se in engines})
        await self._write(pull, tuple(pull.shares.values()))
        self._pulls[pull.id] = pull
        for share in pull.shares.values():
            link = self.intake.bulk_link(share.se)
            if link is not None and link.ready:
                self._ask(link, pull, share)
        await self._forget_old()
        return self._view(pull)

    def all(self) -> tuple[PullView, ...]:
        """The newest first."""
        return tuple(self._view(pull) for pull in reversed(self._pulls.values()))

    def get(self, pull: int) -> PullView:
        """One of them, or ``PullUnknownError``."""
        return self._view(self._find(pull))

    async def pause(self, number: int) -> PullView:
        """Let nothing of it come until it is resumed."""
        pull = self._under_way(number)
        pull.record = msgspec.structs.replace(pull.record, paused=True)
        for share in pull.shares.values():
            self._leave(pull, share)
            if share.asked and not share.ended:
                self._say(share.se, Pause(pull=pull.id))
        await self._write(pull)
        return self._view(pull)

    async def resume(self, number: int) -> PullView:
        """Go on."""
        pull = self._under_way(number)
        pull.record = msgspec.structs.replace(pull.record, paused=False)
        for share in pull.shares.values():
            if share.asked and share.in_all is not None and not share.ended:
                self._obey(self._turns.want((share.se, pull.id)))
        await self._write(pull)
        return self._view(pull)

    async def cancel(self, number: int) -> PullView:
        """Let nothing more come, ever; what has come stays."""
        pull = self._under_way(number)
        ended = [share for share in pull.shares.values() if not share.ended]
        for share in ended:
            if share.asked:
                self._say(share.se, Cancel(pull=pull.id))
            self._end(pull, share, PullState.CANCELLED)
        await self._write(pull, ended)
        return self._view(pull)

    def forget(self, se: SeId) -> None:
        """The SE is deleted: nothing more comes from it."""
        for pull in self._pulls.values():
            share = pull.shares.get(se)
            if share is not None and not share.ended:
                self._end(pull, share, PullState.FAILED, "the service engine was deleted")
                self._write_later(pull, share)

    # What links tell

    def link_ready(self, link: LogLink) -> None:
        """Ask for whatever has not ended."""
        if link.live:
            return
        for pull in self._pulls.values():
            share = pull.shares.get(link.se)
            if share is not None and not share.ended:
                self._ask(link, pull, share)

    def link_lost(self, link: LogLink) -> None:
        """It is waited for."""
        if link.live:
            return
        for pull in self._pulls.values():
            share = pull.shares.get(link.se)
            if share is not None:
                share.asked = False
                self._leave(pull, share)

    def told(self, link: LogLink, message: Planned | PullDone) -> None:
        """How much it is, or that it is over.  What was not asked is not believed."""
        pull = self._pulls.get(message.pull)
        share = None if pull is None or link.live else pull.shares.get(link.se)
        if pull is None or share is None or share.ended or not share.asked:
            return
        share.record = msgspec.structs.replace(share.record, elsewhere=dict(message.elsewhere))
        if isinstance(message, PullDone):
            if message.failed:
                self._end(pull, share, PullState.FAILED, message.failed)
            else:
                self._end(pull, share, PullState.DONE, limited=message.limited)
            self._write_later(pull, share)
            return
        share.in_all = (
            share.segments + message.segments,
            share.records + message.records,
            share.size + message.size,
            share.raw_bytes + message.raw_bytes,
        )
        if share.record.up_to is None:
            share.record = msgspec.structs.replace(
                share.record, up_to=message.up_to, unflushed=message.unflushed
            )
            self._write_later(pull, share)
        if not pull.record.paused:
            self._obey(self._turns.want((share.se, pull.id)))

    def arrived(self, link: LogLink, heads: Sequence[SegmentHead], pull: int) -> None:
        """So many more segments."""
        share = self._share(link.se, pull)
        if share is not None:
            share.segments += len(heads)
            share.records += sum(head.records for head in heads)
            share.size += sum(head.size for head in heads)
            share.raw_bytes += sum(head.raw_bytes for head in heads)

    def flowed(self, link: LogLink, pull: int, size: int) -> None:
        """It gets on."""
        share = self._share(link.se, pull)
        if share is not None:
            share.flowed(self.clock.seconds(), size)
            self._obey(self._turns.took((link.se, pull), size))

    # Inside

    def _share(self, se: SeId, number: int) -> PullShare | None:
        pull = self._pulls.get(number)
        return None if pull is None else pull.shares.get(se)

    def _ask(self, link: LogLink, pull: _Pull, share: PullShare) -> None:
        order = pull.record.order
        left = order.byte_limit and order.byte_limit - share.size
        if left < 0 or (order.byte_limit and not left):
            self._end(pull, share, PullState.DONE, limited=True)
            self._write_later(pull, share)
            return
        share.asked, share.in_all = True, None
        # It plans at once, and sends when it is its turn.
        link.send(
            Pull(
                pull=pull.id,
                selection=order.selection,
                up_to=share.record.up_to,
                byte_limit=left,
                rate=self._rate_of(pull),
                paused=True,
            )
        )

    def _obey(self, steps: Sequence[Go | Wait]) -> None:
        for step in steps:
            se, number = step.key
            if isinstance(step, Go):
                self._say(se, Resume(pull=number))
            else:
                self._say(se, Pause(pull=number))
        for number in {step.key[1] for step in steps}:
            self._share_rate(number)

    def _rate_of(self, pull: _Pull) -> int:
        """One SE's part of the rate; the least is a byte, since 0 is none."""
        rate = pull.record.order.rate
        sending = sum(key[1] == pull.id for key in self._turns.sending())
        return rate and max(1, rate // max(1, sending))

    def _share_rate(self, number: int) -> None:
        pull = self._pulls.get(number)
        if pull is None or not pull.record.order.rate:
            return
        for se, sent in self._turns.sending():
            if sent == number:
                self._say(se, Rate(pull=number, rate=self._rate_of(pull)))

    def _leave(self, pull: _Pull, share: PullShare) -> None:
        key: Key = (share.se, pull.id)
        self._obey(self._turns.leave(key))
        self._share_rate(pull.id)

    def _end(
        self, pull: _Pull, share: PullShare, state: PullState, why: str = "", *, limited: bool = False
    ) -> None:
        share.record = msgspec.structs.replace(share.record, ended=state, why=why, limited=limited)
        self._leave(pull, share)

    def _say(self, se: SeId, message: LogMessage) -> None:
        link = self.intake.bulk_link(se)
        if link is not None and link.ready:
            link.send(message)

    def _find(self, number: int) -> _Pull:
        pull = self._pulls.get(number)
        if pull is None:
            raise PullUnknownError(pull=number)
        return pull

    def _under_way(self, number: int) -> _Pull:
        pull = self._find(number)
        if pull.ended:
            raise PullEndedError(pull=number, state=self._state(pull).value)
        return pull

    def _view(self, pull: _Pull) -> PullView:
        now = self.clock.seconds()
        return PullView(
            id=pull.id,
            order=pull.record.order,
            at=pull.record.at,
            state=self._state(pull),
            shares=tuple(
                share.view(self._state_of(pull, share), now)
                for _, share in sorted(pull.shares.items(), key=lambda item: item[0])
            ),
        )

    def _state_of(self, pull: _Pull, share: PullShare) -> PullState:
        if share.record.ended is not None:
            return share.record.ended
        if pull.record.paused:
            return PullState.PAUSED
        if self._turns.sends((share.se, pull.id)):
            return PullState.RUNNING
        return PullState.PLANNING if share.asked and share.in_all is None else PullState.WAITING

    def _state(self, pull: _Pull) -> PullState:
        """Of all together: the liveliest of those that have not ended, else the worst end."""
        states = {self._state_of(pull, share) for share in pull.shares.values()}
        order = (
            PullState.RUNNING,
            PullState.PLANNING,
            PullState.WAITING,
            PullState.PAUSED,
            PullState.CANCELLED,
            PullState.FAILED,
        )
        return next((state for state in order if state in states), PullState.DONE)

    # On disk

    def _write(self, pull: _Pull, shares: Sequence[PullShare] = ()) -> Deferred[Any]:
        key, body = pull.key, _encode(pull.record)
        rows = [Share(key, share.se, _encode(share.record)) for share in shares]
        return self._order.run(self.intake.threads.commits.run, lambda: self.ledger.put_pull(key, body, rows))

    def _write_later(self, pull: _Pull, share: PullShare) -> None:
        """What is not written is found out again after a restart."""
        self._write(pull, (share,)).addErrback(
            lambda f: self._log.error("pull {pull} is not kept: {why}", pull=pull.id, why=f.getErrorMessage())
        )

    async def _forget_old(self) -> None:
        ended = [pull for pull in self._pulls.values() if pull.ended]
        for pull in ended[: max(0, len(ended) - MAX_KEPT)]:
            del self._pulls[pull.id]
            await self._order.run(self.intake.threads.commits.run, partial(self.ledger.forget_pull, pull.key))
