"""What becomes of what has come on one link: verified in a thread, then kept and acknowledged, or refused."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import attrs

from avinet.controller.log_answers import LinkAnswers
from avinet.controller.log_owner import LinkOwner
from avinet.controller.log_writes import AnyPart, Verdict, Writes
from avinet.controller.pull_records import ledger_key
from avinet.errors import RemoteProtocolError
from avinet.logs.incoming_pack import PackPart
from avinet.logs.incoming_part import Part
from avinet.logs.receiving import Receiving, Refusal
from avinet.logs.runs import Names, name_of
from avinet.wire.log_messages import RefuseReason

Link = TypeVar("Link")
UNKNOWN = "whether it counts already cannot be found out now"
MIXED = "others of the same batch count already"


@attrs.define(eq=False)
class Verdicts(Generic[Link]):
    """Of one link."""

    link: Link
    owner: LinkOwner[Link]
    receiving: Receiving
    answers: LinkAnswers
    cut: Callable[[str], None]
    changed: Callable[[], None]
    """There may be room for more."""
    part: AnyPart | None = attrs.field(default=None, init=False)
    """Of what is under way."""
    _pulls: dict[AnyPart, int] = attrs.field(factory=dict, init=False, repr=False)
    """Of parts of which the thread has not said what becomes of them."""
    _was: dict[AnyPart, str] = attrs.field(factory=dict, init=False, repr=False)
    """The same: the store that each was begun with before, of those that were."""

    def begin(self, part: AnyPart, pull: int, was: str) -> None:
        """It is under way."""
        self.part = part
        self._pulls[part] = pull
        if was:
            self._was[part] = was

    def judge(self, writes: Writes) -> None:
        """What the thread has found out."""
        try:
            for part, verdict in writes.take_verdicts():
                pull = self._pulls.pop(part, 0)
                was = self._was.pop(part, "")
                if isinstance(part, PackPart):
                    self._judge_pack(part, pull, was)
                else:
                    self._judge(part, verdict, pull, was)
        except RemoteProtocolError as failure:
            self.cut(failure.detail)

    def forget(self) -> None:
        """What cannot be written is lost here, and not at the SE."""
        for part in self._pulls:
            part.close()
            self.owner.release(part)
        self._pulls.clear()
        self._was.clear()
        self.part = None

    def _judge(self, part: Part, verdict: Verdict, pull: int, was: str) -> None:
        name = part.head.name
        if verdict is Verdict.TRUE:
            self._look(part, pull, was)
            return
        self.owner.release(part)
        if verdict is Verdict.LEFT:
            return
        if self.part is part:
            self.part = None
        if verdict is Verdict.KNOWN:
            self.receiving.skip(name)
            self.answers.acknowledge([name])
        elif verdict is Verdict.FALSE and not part.offset:
            self._refuse([name], RefuseReason.CORRUPT, "its hash is another one")
        else:
            self._refuse([name], RefuseReason.AGAIN, "what was here of it is not what it should be")

    def _judge_pack(self, part: PackPart, pull: int, was: str) -> None:
        if self.part is part:  # all of it is known, and the SE does not know it yet
            self.part = None
            self.receiving.skip_current()
        known = [head.name for head in part.known]
        for name in known:
            self.receiving.skip(name)
        self.answers.acknowledge(known)
        if part.kept:
            self._look(part, pull, was)
        else:
            self.owner.release(part)
        self._refuse([head.name for head in part.false], RefuseReason.CORRUPT, "its hash is another one")

    def _look(self, part: AnyPart, pull: int, was: str) -> None:
        """Whether it counts elsewhere, where that may be."""
        if not was:
            self._keep(part, pull)
            return
        self.owner.counted(was, part.segments).addCallback(self._looked, part, pull)

    def _looked(self, had: Names | None, part: AnyPart, pull: int) -> None:
        segments = part.segments
        counted = {one.head.name for one in segments if had is not None and name_of(one) in had}
        if had is not None and not counted:
            self._keep(part, pull)
            return
        self.owner.discard(part).addCallback(lambda _: self.owner.release(part))
        for name in counted:
            self.receiving.acknowledge(name)
        self.answers.acknowledge(counted)
        others = [one.head.name for one in segments if one.head.name not in counted]
        self._refuse(others, RefuseReason.LATER, UNKNOWN if had is None else MIXED)
        self.changed()

    def _keep(self, part: AnyPart, pull: int) -> None:
        self.owner.keep(part, ledger_key(pull) if pull else "").addCallback(self._kept, part, pull)

    def _kept(self, _: None, part: AnyPart, pull: int) -> None:
        heads = [segment.head for segment in part.segments]
        names = [head.name for head in heads]
        self.owner.release(part)
        if part.unwanted:
            try:
                self._refuse(names, RefuseReason.AGAIN, "it could not be kept")
            except RemoteProtocolError as failure:
                self.cut(failure.detail)
            return
        for name in names:
            self.receiving.acknowledge(name)
        self.owner.arrived(self.link, heads, pull)
        self.answers.acknowledge(names)
        self.changed()

    def _refuse(self, names: Sequence[str], reason: RefuseReason, text: str) -> None:
        refusals = [Refusal(name, reason, text) for name in names]
        self.answers.refuse(refusals)
        self.receiving.refused(refusals)
