"""etcd's members: added as learners, which count for no quorum until they have everything, then promoted; removed.

Every call may be made again after a lost answer or a crash: a member is known by its peer URL, which no two have.
etcd refuses a change while the one before is still settling (``unhealthy cluster``, for about 3 s after a promotion);
the gateway asks again by itself until the deadline.
"""

from typing import Any, ClassVar

import attrs
import msgspec
from twisted.internet.task import deferLater

from avinet.errors import AvinetError, Kind, error
from avinet.store.etcd_gateway import Gateway, RefusedError

CHANGE_LIMIT_S = 30.0
"""For one change of members; ten times what etcd takes to settle."""
LEARNER_LIMIT_S = 20.0
"""For the member before to catch up; who asks to join waits for 75 s."""
LEARNER_LOOK_S = 0.5


@error
class LearnerFirstError(AvinetError):
    """The controller that was let in last ({who}) has not caught up yet, and the state engine takes one at a time. See that it runs and reaches the others, or take it out (avinet cluster remove); then try again."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    who: str


@error
class MemberChangeError(AvinetError):
    """The state engine refused to change its members: {why}. Every member must be up, one change at a time; see avinet status, then try again."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    why: str


class Member(
    msgspec.Struct, frozen=True, rename={"id": "ID", "peer_urls": "peerURLs", "learner": "isLearner"}
):
    """One etcd; its name is empty until it ran for the first time."""

    id: int
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    learner: bool = False


class _Members(msgspec.Struct):
    members: tuple[Member, ...] = ()


@attrs.frozen(eq=False)
class Members:
    """Asks and changes, through one member, speaking as root."""

    gateway: Gateway

    async def all(self) -> tuple[Member, ...]:
        """As etcd has them; it answers without a quorum, too, from what it last knew."""
        return (await self.gateway.ask("cluster/member/list", {}, _Members)).answer.members

    async def add(self, peer_url: str) -> tuple[Member, ...]:
        """A learner at ``peer_url``, where there is no member; all members then.

        etcd takes one learner at a time, so the one before is waited for.
        """
        clock = self.gateway.clock
        until = clock.seconds() + LEARNER_LIMIT_S
        while _at(members := await self.all(), peer_url) is None:
            learner = next((member for member in members if member.learner), None)
            if learner is None:
                await self._change("cluster/member/add", {"peerURLs": [peer_url], "isLearner": True})
            elif clock.seconds() < until:
                await deferLater(clock, LEARNER_LOOK_S, lambda: None)
            else:
                raise LearnerFirstError(who=learner.name or f"with the peer URL {learner.peer_urls[0]}")
        return members

    async def promote(self, member: Member) -> bool:
        """Make a learner count, if it has everything by now; whether it does."""
        try:
            await self._change("cluster/member/promote", {"ID": str(member.id)})
        except MemberChangeError:
            return False
        return True

    async def remove(self, peer_url: str) -> None:
        """Take a member out; nothing when it is out already."""
        member = _at(await self.all(), peer_url)
        if member is not None:
            await self._change("cluster/member/remove", {"ID": str(member.id)})

    async def _change(self, path: str, request: dict[str, Any]) -> None:
        deadline = self.gateway.clock.seconds() + CHANGE_LIMIT_S
        try:
            await self.gateway.ask(path, request, _Members, deadline=deadline)
        except RefusedError as refused:
            if refused.lost and ("already exist" in refused.detail or "not found" in refused.detail):
                return  # the answer that was lost said that it was done
            raise MemberChangeError(why=refused.detail) from refused


def _at(members: tuple[Member, ...], peer_url: str) -> Member | None:
    return next((member for member in members if peer_url in member.peer_urls), None)
