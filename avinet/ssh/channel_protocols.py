"""What a protocol on a channel may take or give beside plain bytes; each is found by its one method."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class ExtendedReceiver(Protocol):
    """A protocol that also takes extended data, such as standard error."""

    def extended_received(self, kind: int, data: bytes) -> None:
        """Some data of type ``kind``, in order with the rest."""


class ViewReceiver(Protocol):
    """A protocol that takes plain data without a copy of its own, as a file does."""

    def view_received(self, view: memoryview) -> None:
        """In place of ``dataReceived``; ``view`` is good during the call only."""


class ViewProducer(Protocol):
    """A pull producer that puts its data where it is needed, as a file does."""

    def produce_into(self, room: memoryview) -> int:
        """In place of ``resumeProducing``: fill the front of ``room``; how much.  0 ends the turn, not the stream."""


@runtime_checkable
class RequestReceiver(Protocol):
    """A protocol that also takes the peer's channel requests."""

    def request_received(self, name: str, data: bytes) -> bool:
        """Whether the request was granted; the answer is sent if the peer wants one."""


@runtime_checkable
class CloseReceiver(Protocol):
    """A protocol that hears at once that the peer has closed, however much of the peer's input it has not taken."""

    def peer_closed(self) -> None:
        """Nobody takes what is written any more; ``connectionLost`` follows once the input is taken."""
