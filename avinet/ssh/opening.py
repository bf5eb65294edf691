"""A channel that we asked for, until the peer agrees or refuses."""

from twisted.conch import error as conch_error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol

from avinet.errors import AvinetError
from avinet.ssh.channel import ChannelTransport
from avinet.ssh.errors import ChannelRefusedError, ConnectionEndedError
from avinet.ssh.scheduler import Priority


class Opening(ChannelTransport):
    """``what`` is for errors.  Cancelling ``opened`` closes the channel if it opens after all."""

    def __init__(self, protocol: IProtocol, name: bytes, what: str, priority: Priority) -> None:
        super().__init__(protocol, name, priority=priority)
        self.what = what
        self.opened: Deferred[IProtocol] = Deferred(lambda _: self._give_up())
        self._given_up = False

    def _give_up(self) -> None:
        self._given_up = True

    def channelOpen(self, specificData: bytes) -> None:
        """The peer agreed, perhaps too late."""
        super().channelOpen(specificData)
        if self._given_up:
            self.abortConnection()
        else:
            self.opened.callback(self.protocol)

    def openFailed(self, reason: object) -> None:
        """The peer refused, or the connection ended first."""
        super().openFailed(reason)
        if self._given_up:
            return
        failure: AvinetError = ConnectionEndedError(detail=f"while opening {self.what}")
        if isinstance(reason, conch_error.ConchError):
            text = bytes(reason.value)[:200].decode(errors="replace")
            failure = ChannelRefusedError(what=self.what, detail=text, code=int(reason.data or 0))
        self.opened.errback(failure)
