"""A connection that gets nothing but the news that there is no room for it."""

from twisted.internet.protocol import Protocol

from avinet.ssh.links import busy_text, refusal_packet


class Refusal(Protocol):
    """Says when to come back, and closes."""

    def __init__(self, retry_after_s: float) -> None:
        self._text = busy_text(retry_after_s)

    def connectionMade(self) -> None:
        """Everything there is to say."""
        if self.transport is not None:
            self.transport.write(refusal_packet(self._text))
            self.transport.loseConnection()
