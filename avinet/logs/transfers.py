"""Segments on their way out of a spool: one by one, and in the runs in which they go together."""

import attrs

from avinet.model.logs import SegmentHead


@attrs.define(eq=False)
class Transfer:
    """A segment that waits, is under way, or has no answer."""

    head: SegmentHead
    pull: int
    name: str
    was: str = ""
    """With which store it was begun before (``Begin.was``)."""
    counts: int = 0
    """Against ``MAX_UNANSWERED`` (``avinet.logs.sending``)."""


@attrs.define(eq=False)
class Run:
    """What goes out together: ``offset`` is what has been handed to the channel, of all of it."""

    transfers: list[Transfer]
    offset: int
    size: int
    pull: int

    @property
    def left(self) -> int:
        """Bytes still to be sent."""
        return self.size - self.offset

    @property
    def heads(self) -> tuple[SegmentHead, ...]:
        """Of its segments."""
        return tuple(transfer.head for transfer in self.transfers)

    @property
    def was(self) -> str:
        """Of all its segments."""
        return self.transfers[0].was

    @property
    def names(self) -> list[str]:
        """Of its segments."""
        return [transfer.name for transfer in self.transfers]

    def divided(self) -> tuple[list[Transfer], Transfer | None, int, list[Transfer]]:
        """What is sent; the one under way and how much of it is; what is not begun."""
        begin = 0
        for number, transfer in enumerate(self.transfers):
            end = begin + transfer.head.size
            if end > self.offset:
                return self.transfers[:number], transfer, self.offset - begin, self.transfers[number + 1 :]
            begin = end
        return self.transfers, None, 0, []
