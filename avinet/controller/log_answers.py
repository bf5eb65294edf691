"""What a link of a log service answers about segments: acknowledged with others of the same moment, or refused."""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import attrs
from twisted.logger import Logger

from avinet.logs.receiving import Refusal
from avinet.logs.timers import Timers
from avinet.model.ids import SeId
from avinet.wire.log_messages import MAX_NAMES, Ack, LogMessage, Refuse


@attrs.define(eq=False)
class LinkAnswers:
    """Of one link; ``send`` sends nothing any more when that is lost."""

    se: SeId
    send: Callable[[LogMessage], None]
    timers: Timers
    _kept: list[str] = attrs.field(factory=list, init=False, repr=False)
    """Names that wait for the end of this moment: no more than segments without an answer (``Receiving``)."""
    _log: ClassVar[Logger] = Logger()

    def acknowledge(self, names: Iterable[str]) -> None:
        """With others that are kept in the same moment."""
        self._kept += names
        self.timers.later("acks", 0, self._send_kept)

    def _send_kept(self) -> None:
        names, self._kept = self._kept, []
        for first in range(0, len(names), MAX_NAMES):
            self.send(Ack(names=tuple(names[first : first + MAX_NAMES])))

    def refuse(self, refusals: Sequence[Refusal]) -> None:
        """At once."""
        if refusals:
            self._log.warn(
                "{count} segments of {se} are refused, the first as {reason}, {text}",
                count=len(refusals),
                se=self.se,
                reason=refusals[0].reason.value,
                text=refusals[0].text,
            )
        for refusal in refusals:
            self.send(Refuse(name=refusal.name, reason=refusal.reason, text=refusal.text))
